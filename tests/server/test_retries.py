"""Retries under virtual time: what a client that vanished finds again, who else may have it, and for how long.

The simulated engine writes a token every 0.05 s and always the same words, so it is the clock that tells an answer
which goes on from one that begins anew.
"""

import json
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import cycle, islice
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ds4trio.api.errors import CancelledError
from ds4trio.engine import GenerationRequest, Progress, Rest, Suspended
from ds4trio.engine.simulated import WORDS, SimulatedEngine, SimulatedGeneration, Writing
from ds4trio.server import retries
from ds4trio.server.app import App
from ds4trio.server.retries import LEAVING_SECONDS
from ds4trio.testing import AsgiCall, call_asgi, chat_body, run_app
from tests.grammars.chat import check_chat_stream
from tests.server.test_lifeline import contents, engine

TOKENS = 64
TOKEN = 1 / 20
ANSWER = TOKENS * TOKEN
"""Seconds that a whole answer takes."""
PREFILL = 0.5
"""Seconds, more than the prefill of any prompt here takes."""
WINDOW = 600.0
WHOLE = "".join(f"{word} " for word in islice(cycle(WORDS), TOKENS))

Clock = MockClock


def told(call: AsgiCall) -> int:
    """Words of an answer so far; a space at its end waits for what follows."""
    return contents(call).count(" ")


async def cut(app: App, body: dict[str, Any], *, tokens: int, headers: dict[str, str] | None = None) -> None:
    """A client that leaves when it has so many tokens."""
    async with call_asgi(app, body, headers=headers) as call:
        while told(call) < tokens:
            await call.wait_for_arrivals(more_than=len(call.arrivals))
    assert not call.body.endswith(b"[DONE]\n\n")


async def ask(app: App, body: dict[str, Any], **options: Any) -> tuple[AsgiCall, float]:
    """A client that has its whole answer, and how long that took."""
    began = trio.current_time()
    async with call_asgi(app, body, **options) as call:
        await call.ended.wait()
    return call, trio.current_time() - began


def is_new(seconds: float) -> bool:
    return seconds >= ANSWER


# --- what a retry finds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 32, 51, 62])
async def test_a_cut_answer_is_told_again_at_once_and_goes_on(autojump_clock: Clock, tokens: int) -> None:
    async with run_app(engine()) as app:
        await cut(app, chat_body("hi"), tokens=tokens)
        await trio.sleep(100)
        assert app.host.engine().running == 0, "nothing is computed for nobody"
        retry, seconds = await ask(app, chat_body("hi"))
    assert contents(retry) == WHOLE
    assert seconds == pytest.approx((TOKENS - tokens) * TOKEN, abs=2 * TOKEN)
    early = [arrival for arrival in retry.arrivals if arrival.at < TOKEN / 2]
    assert b"".join(arrival.data for arrival in early).count(b'"content":') >= tokens
    check_chat_stream(retry.body)


async def test_a_retry_has_ids_of_its_own(autojump_clock: Clock) -> None:
    async with run_app(engine()) as app:
        async with call_asgi(app, chat_body("hi")) as first:
            await first.wait_for(b"rate")
        retry, _ = await ask(app, chat_body("hi"))
    ids = {json.loads(line[6:])["id"] for line in retry.body.decode().splitlines() if line.startswith("data: {")}
    assert len(ids) == 1
    assert ids.pop().encode() not in first.body


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/chat/completions"])
async def test_the_retry_may_come_in_another_protocol_and_unstreamed(autojump_clock: Clock, path: str) -> None:
    body: dict[str, Any] = {"model": "simulated", "max_tokens": 60, "messages": [{"role": "user", "content": "hi"}]}
    if path == "/v1/responses":
        body = {"model": "simulated", "max_output_tokens": 60, "input": "hi"}
    async with run_app(engine()) as app:
        await cut(app, chat_body("hi", max_tokens=60), tokens=50)
        retry, seconds = await ask(app, body, path=path)
    assert seconds == pytest.approx(10 * TOKEN, abs=2 * TOKEN)
    assert WHOLE.encode()[:200] in retry.body
    assert json.loads(retry.body)["object" if path != "/v1/messages" else "type"] in {
        "message",
        "response",
        "chat.completion",
    }


async def test_every_try_comes_further(autojump_clock: Clock) -> None:
    """A client whose deadline is 0.4 of the time that its answer takes has it in the third try."""
    took = 0.0
    async with run_app(engine()) as app:
        for _ in range(3):
            began = trio.current_time()
            async with call_asgi(app, chat_body("hi")) as call:
                with trio.move_on_after(0.4 * ANSWER):
                    await call.ended.wait()
            took += trio.current_time() - began
    assert contents(call) == WHOLE
    assert took <= 1.1 * ANSWER + PREFILL


async def test_several_choices_are_kept_each(autojump_clock: Clock) -> None:
    body = chat_body("hi", n=3)
    async with run_app(engine()) as app:
        async with call_asgi(app, body) as first:
            await first.wait_for(b"words")
            await trio.sleep(20 * TOKEN)
        retry, seconds = await ask(app, body)
        assert app.retries.kept == 0
    assert not is_new(seconds)
    chunks = [json.loads(line[6:]) for line in retry.body.decode().splitlines() if line.startswith("data: {")]
    for index in range(3):
        deltas = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in deltas) == WHOLE


async def test_a_choice_that_had_not_begun_begins(autojump_clock: Clock) -> None:
    body = chat_body("hi", n=2)
    async with run_app(engine(parallel=1)) as app:
        await cut(app, body, tokens=60)
        retry, seconds = await ask(app, body)
    assert seconds == pytest.approx(ANSWER + 4 * TOKEN, abs=4 * TOKEN)
    assert told(retry) == 2 * TOKENS


async def test_an_answer_that_was_complete_and_not_taken_is_told_again(autojump_clock: Clock) -> None:
    async with run_app(engine()) as app:
        async with call_asgi(app, chat_body("hi")) as first:
            await first.wait_for(b"rate")
            first.reading = trio.Event()  # it reads no more, and the rest is computed
            await trio.sleep(2 * ANSWER)
        assert app.retries.kept == 1
        retry, seconds = await ask(app, chat_body("hi", stream_options={"include_usage": True}))
    assert contents(retry) == WHOLE
    assert seconds < TOKEN
    usage = json.loads(retry.body.splitlines()[-4].removeprefix(b"data: "))["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"], "nothing was computed"


async def test_what_the_clients_stop_string_ended_ends_there_again(autojump_clock: Clock) -> None:
    body = chat_body("hi", stop=["always"])
    async with run_app(engine()) as app:
        async with call_asgi(app, body) as first:
            await first.wait_for(b"Simulated")
            first.reading = trio.Event()
            await trio.sleep(ANSWER)
        retry, seconds = await ask(app, body)
    assert contents(retry) == "Simulated answers have a fixed rate and "
    assert check_chat_stream(retry.body)[0]["finish_reason"] == "stop"
    assert seconds < TOKEN


async def test_a_client_that_stalled_finds_its_answer(autojump_clock: Clock) -> None:
    async with run_app(engine(), stall_timeout=1.0) as app:
        async with call_asgi(app, chat_body("hi")) as first:
            await first.wait_for(b"rate")
            first.reading = trio.Event()
            await trio.sleep(1.5)
            assert app.host.engine().running == 0
        retry, seconds = await ask(app, chat_body("hi"))
    assert contents(retry) == WHOLE
    assert not is_new(seconds)


async def test_a_try_that_leaves_before_its_turn_loses_nothing(autojump_clock: Clock) -> None:
    async with run_app(engine(parallel=1)) as app:
        await cut(app, chat_body("hi"), tokens=50)
        async with call_asgi(app, chat_body("another")) as other:
            await other.wait_for(b"rate")
            async with call_asgi(app, chat_body("hi")) as second:
                while told(second) < 50:  # told although there is no place to go on
                    await second.wait_for_arrivals(more_than=len(second.arrivals))
        retry, seconds = await ask(app, chat_body("hi"))
    assert contents(retry) == WHOLE
    assert not is_new(seconds)


async def test_what_never_stops_is_not_waited_for(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = SimulatedGeneration.suspend

    async def stuck(generation: SimulatedGeneration) -> Suspended:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)
        return await stop(generation)

    monkeypatch.setattr(SimulatedGeneration, "suspend", stuck)
    async with run_app(engine()) as app, call_asgi(app, chat_body("hi")) as first:
        await first.wait_for(b"rate")
        first.leave()
        async with call_asgi(app, chat_body("hi")) as second:
            await second.wait_for_headers()
            assert second.started_at is not None
            assert second.started_at <= LEAVING_SECONDS + TOKEN
            await second.ended.wait()
        assert contents(second) == WHOLE


async def test_a_try_that_is_refused_loses_nothing(autojump_clock: Clock) -> None:
    async with run_app(engine(parallel=1, max_queue=0)) as app:
        await cut(app, chat_body("hi", n=1), tokens=50)
        async with call_asgi(app, chat_body("another")) as other:
            await other.wait_for(b"rate")
            refused, _ = await ask(app, chat_body("hi"))
            assert refused.status == 429
        retry, seconds = await ask(app, chat_body("hi"))
    assert contents(retry) == WHOLE
    assert not is_new(seconds)


# --- who may have it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 2},
        {"temperature": 0.5},
        {"max_tokens": 999},
        {"stop": ["nothing"]},
        {"logprobs": True},
        {"n": 2},
        {"parallel_tool_calls": False},
        {"messages": [{"role": "user", "content": "hi!"}]},
        {"tools": [{"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}]},
        {"response_format": {"type": "json_object"}},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_what_was_asked_otherwise_is_computed(autojump_clock: Clock, other: dict[str, Any]) -> None:
    async with run_app(engine()) as app:
        await cut(app, chat_body("hi", seed=1), tokens=50)
        _, seconds = await ask(app, {**chat_body("hi", seed=1), **other})
        assert is_new(seconds)
        assert app.retries.kept == 1, "it stays for whoever asks the same"


async def test_identifiers_of_the_client_are_no_difference(autojump_clock: Clock) -> None:
    async with run_app(engine()) as app:
        await cut(app, chat_body("hi", user="a", metadata={"try": "1"}), tokens=50, headers={"x-request-id": "1"})
        _, seconds = await ask(app, chat_body("hi", user="b", metadata={"try": "2"}), headers={"x-request-id": "2"})
    assert not is_new(seconds)


@pytest.mark.parametrize("header", ["Authorization", "x-api-key"])
async def test_an_answer_belongs_to_its_key(autojump_clock: Clock, header: str) -> None:
    async with run_app(engine()) as app:
        await cut(app, chat_body("hi"), tokens=50, headers={header: "Bearer one"})
        _, stranger = await ask(app, chat_body("hi"), headers={header: "Bearer two"})
        _, nobody = await ask(app, chat_body("hi"))
        _, owner = await ask(app, chat_body("hi"), headers={header: "Bearer one"})
    assert is_new(stranger)
    assert is_new(nobody)
    assert not is_new(owner)


async def test_two_clients_that_are_both_there_have_an_answer_each(autojump_clock: Clock) -> None:
    async with run_app(engine()) as app, call_asgi(app, chat_body("hi")) as first:
        await first.wait_for(b"words")
        _, seconds = await ask(app, chat_body("hi"))
        assert is_new(seconds)
        await first.ended.wait()
    assert contents(first) == WHOLE


async def test_only_one_takes_over(autojump_clock: Clock) -> None:
    took: list[float] = []
    async with run_app(engine()) as app:
        await cut(app, chat_body("hi"), tokens=50)

        async def retry() -> None:
            took.append((await ask(app, chat_body("hi")))[1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(retry)
            nursery.start_soon(retry)
    assert [is_new(seconds) for seconds in sorted(took)] == [False, True]


async def test_of_two_that_vanish_the_one_that_came_further_is_kept(autojump_clock: Clock) -> None:
    async with run_app(engine()) as app:
        async with call_asgi(app, chat_body("hi")) as first:
            while told(first) < 50:
                await first.wait_for_arrivals(more_than=len(first.arrivals))
            async with call_asgi(app, chat_body("hi")) as second:
                await second.wait_for(b"rate")
                first.leave()
                await first.ended.wait()
        assert app.retries.kept == 1
        _, seconds = await ask(app, chat_body("hi"))
    assert seconds < 20 * TOKEN


async def test_an_answer_that_the_server_stopped_is_not_kept(autojump_clock: Clock) -> None:
    async with run_app(engine()) as app:
        async with call_asgi(app, chat_body("hi")) as first:
            await first.wait_for(b"words")
            first.reading = trio.Event()  # so that its client leaves after it was stopped
            next(iter(app.board.live.values())).stop(CancelledError(), "a test")
            await trio.sleep(1)
        assert app.retries.kept == 0
        _, seconds = await ask(app, chat_body("hi"))
    assert is_new(seconds)


class SlowlyLeaving(SimulatedGeneration):
    async def suspend(self) -> Suspended:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.5)
        return await super().suspend()


class SlowlyLeft(SimulatedEngine):
    """A worker that needs half a second to let go."""

    @asynccontextmanager
    async def generate(
        self,
        request: GenerationRequest,
        *,
        on_progress: Callable[[Progress], None] = lambda _: None,
        rest: Rest | None = None,
    ) -> AsyncGenerator[SimulatedGeneration, None]:
        async with super().generate(request, on_progress=on_progress, rest=rest) as generation:
            generation.__class__ = SlowlyLeaving
            yield generation


async def test_a_retry_waits_for_its_twin_to_stop(autojump_clock: Clock) -> None:
    async with run_app(SlowlyLeft()) as app, call_asgi(app, chat_body("hi")) as first:
        while told(first) < 50:
            await first.wait_for_arrivals(more_than=len(first.arrivals))
        first.leave()
        await trio.testing.wait_all_tasks_blocked()
        assert app.board.live, "it is leaving"
        retry, seconds = await ask(app, chat_body("hi"))
    assert contents(retry) == WHOLE
    assert seconds == pytest.approx(0.5 + 14 * TOKEN, abs=2 * TOKEN)


async def test_a_retry_that_gives_up_while_its_twin_stops_is_in_nobodys_way(autojump_clock: Clock) -> None:
    async with run_app(SlowlyLeft()) as app, call_asgi(app, chat_body("hi")) as first:
        await first.wait_for(b"words")
        first.leave()
        await trio.testing.wait_all_tasks_blocked()
        async with call_asgi(app, chat_body("hi")):
            await trio.sleep(0.1)
        _, seconds = await ask(app, chat_body("hi"))
    assert not is_new(seconds - 0.5)


# --- for how long -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "new"), [(WINDOW - 1, False), (WINDOW + 1, True)])
async def test_an_answer_is_kept_for_its_window(autojump_clock: Clock, after: float, new: bool) -> None:
    async with run_app(engine(), retry_window=WINDOW) as app:
        await cut(app, chat_body("hi"), tokens=50)
        await trio.sleep(after)
        assert app.retries.kept == (0 if new else 1)
        _, seconds = await ask(app, chat_body("hi"))
    assert is_new(seconds) == new


async def test_a_window_of_zero_keeps_nothing(autojump_clock: Clock) -> None:
    async with run_app(engine(), retry_window=0.0) as app:
        await cut(app, chat_body("hi"), tokens=50)
        assert app.retries.kept == 0
        _, seconds = await ask(app, chat_body("hi"))
    assert is_new(seconds)


async def test_the_oldest_goes_first_where_there_are_too_many(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[Writing] = []

    def noted_close(self: Writing) -> None:
        freed.append(self)

    monkeypatch.setattr(retries, "MOST_KEPT", 2)
    monkeypatch.setattr(Writing, "close", noted_close)
    async with run_app(engine()) as app:
        for prompt in ("one", "two", "three"):
            await cut(app, chat_body(prompt), tokens=50)
        assert app.retries.kept == 2
        assert len(freed) == 1
        assert [is_new((await ask(app, chat_body(prompt)))[1]) for prompt in ("one", "two", "three")] == [
            True,
            False,
            False,
        ]


async def test_the_oldest_goes_first_where_it_is_too_much(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "MOST_KEPT_BYTES", 45 * retries.EVENT_BYTES)
    async with run_app(engine()) as app:
        await cut(app, chat_body("one"), tokens=20)
        await cut(app, chat_body("two"), tokens=20)
        await cut(app, chat_body("three"), tokens=10)
        assert app.retries.kept == 2
        _, seconds = await ask(app, chat_body("one"))
        assert is_new(seconds)
        # And an answer that is too large by itself is not recorded to its end.
        await cut(app, chat_body("four"), tokens=60)
        _, seconds = await ask(app, chat_body("four"))
        assert is_new(seconds)


async def test_the_log_says_who_takes_over(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with run_app(engine()) as app:
        await cut(app, chat_body("a secret"), tokens=50, headers={"authorization": "Bearer hidden"})
        await ask(app, chat_body("a secret"), headers={"authorization": "Bearer hidden"})
    assert re.search(r"chat req_\w+ is kept for a retry for 600 s \(output 5\d\)", caplog.text)
    assert re.search(r"chat req_\w+ takes over an earlier try \(output 5\d\)", caplog.text)
    assert "secret" not in caplog.text
    assert "hidden" not in caplog.text


async def test_schemas_may_be_nested_deeply(autojump_clock: Clock) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        schema = {"type": "object", "properties": {"a": schema}}
    tools = [{"type": "function", "function": {"name": "read", "parameters": schema}}]
    async with run_app(engine()) as app:
        call, _ = await ask(app, chat_body("hi", tools=tools))
    assert call.status == 200
