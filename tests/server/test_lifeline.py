"""The lifeline under virtual time: a long prefill takes milliseconds here, and every beat has its exact second."""

import json
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ds4trio.api.errors import CancelledError
from ds4trio.engine import EngineError, Finished, GenerationRequest, Phase, Progress, Rest, TextDelta
from ds4trio.engine.simulated import SimulatedEngine, SimulatedGeneration
from ds4trio.testing import AsgiCall, call_asgi, chat_body, run_app
from tests.grammars.chat import check_chat_stream
from tests.grammars.responses import check_responses_stream

# The reference's measured case: 81,722 tokens in 301.8 s.
TOKENS = 81_722
PREFILL_SECONDS = 301.8
RATE = TOKENS / PREFILL_SECONDS
FRAME = len("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")


def prompt_of(tokens: int, first: str = "a") -> str:
    """A text that the simulated engine counts as exactly this many tokens, template included."""
    return first * (4 * tokens - FRAME)


def engine(**options: Any) -> SimulatedEngine:
    return SimulatedEngine(**{"prefill_tps": RATE, "chunk": 2048, **options})


def beats(call: AsgiCall) -> list[float]:
    return [arrival.at for arrival in call.arrivals if arrival.data.startswith(b": ")]


def contents(call: AsgiCall) -> str:
    chunks = [json.loads(line[6:]) for line in call.body.decode().splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


def multiples_of_five(until: float) -> list[float]:
    return [5.0 * n for n in range(1, int(until // 5) + 1)]


async def test_reference_prefill_is_never_silent(autojump_clock: MockClock) -> None:
    async with run_app(engine()) as app, call_asgi(app, chat_body(prompt_of(TOKENS))) as call:
        await call.ended.wait()
    assert call.status == 200
    assert call.started_at == 0
    assert call.arrivals[0].at == 0
    assert b'"role":"assistant"' in call.arrivals[0].data
    assert beats(call) == pytest.approx(multiples_of_five(PREFILL_SECONDS))
    assert call.arrivals[1].data.startswith(b": prefill 0/81722 (0.0%)\n\ndata: ")
    assert call.arrivals[20].data.startswith(b": prefill 26624/81722 (32.6%) 271 t/s eta 203s")
    first_token = next(a for a in call.arrivals[1:] if a.data.startswith(b"data: "))
    assert first_token.at == pytest.approx(PREFILL_SECONDS + 1 / 20)
    assert call.body.endswith(b"data: [DONE]\n\n")


async def test_one_chunk_that_stalls_does_not_silence_the_stream(autojump_clock: MockClock) -> None:
    slow = engine(chunk_seconds=lambda index, seconds: 962.0 if index == 3 else seconds)
    async with run_app(slow) as app, call_asgi(app, chat_body(prompt_of(TOKENS))) as call:
        await call.ended.wait()
    total = PREFILL_SECONDS - 2048 / RATE + 962
    assert beats(call) == pytest.approx(multiples_of_five(total))


async def test_queued_client_hears_its_position_while_the_first_one_stalls(autojump_clock: MockClock) -> None:
    slow = engine(parallel=1, chunk_seconds=lambda index, seconds: 962.0 if index == 3 else seconds)
    async with run_app(slow) as app, call_asgi(app, chat_body(prompt_of(TOKENS))) as first:
        await first.wait_for(b"role")
        async with call_asgi(app, chat_body("second")) as second:
            await second.wait_for(b"role")
            async with call_asgi(app, chat_body("third")) as third:
                await third.ended.wait()
    service = PREFILL_SECONDS - 2048 / RATE + 962 + 64 / 20
    assert second.arrivals[0].at == 0
    assert second.arrivals[1].data.startswith(b": queued 1/2\n\n")
    assert third.arrivals[1].data.startswith(b": queued 2/2\n\n")
    assert beats(second)[: int(service // 5)] == pytest.approx(multiples_of_five(service))
    assert contents(second) == contents(third) != ""


async def test_cached_prompt_sends_no_beat_and_waits_for_no_prefill(autojump_clock: MockClock) -> None:
    async with run_app(engine()) as app:
        async with call_asgi(app, chat_body(prompt_of(TOKENS))) as cold:
            await cold.ended.wait()
        async with call_asgi(app, chat_body(prompt_of(TOKENS), stream_options={"include_usage": True})) as cached:
            await cached.ended.wait()
    assert beats(cached) == []
    assert cached.arrivals[1].at < 0.1
    assert f'"cached_tokens":{TOKENS - 1}'.encode() in cached.body


async def test_beat_comes_after_silence_only_also_in_decode(autojump_clock: MockClock) -> None:
    # A token every 4 s keeps the line alive by itself; one every 12 s leaves room for two beats.
    async with run_app(engine(decode_tps=1 / 4)) as app, call_asgi(app, chat_body("hi", max_tokens=3)) as call:
        await call.ended.wait()
    assert beats(call) == []
    async with run_app(engine(decode_tps=1 / 12)) as app, call_asgi(app, chat_body("hi", max_tokens=2)) as call:
        await call.ended.wait()
    starts = [a.data for a in call.arrivals if a.data.startswith(b": ")]
    assert [data.partition(b"\n\n")[0] for data in starts[-2:]] == [b": decode 1 tokens"] * 2


async def test_interval_of_zero_turns_the_heartbeat_off(autojump_clock: MockClock) -> None:
    async with (
        run_app(engine(), heartbeat_interval=0.0) as app,
        call_asgi(app, chat_body(prompt_of(TOKENS))) as call,
    ):
        await call.ended.wait()
    assert beats(call) == []
    assert call.arrivals[0].at == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("seconds", [0.0, 17.0, PREFILL_SECONDS + 1])
async def test_client_that_leaves_frees_the_engine_at_once(
    autojump_clock: MockClock, stream: bool, seconds: float
) -> None:
    simulated = engine(parallel=1)
    async with run_app(simulated) as app:
        async with call_asgi(app, chat_body(prompt_of(TOKENS), stream=stream)) as call:
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(seconds)
            assert simulated.running == 1
            call.leave()
            before = trio.current_time()
            await call.ended.wait()
        assert trio.current_time() == before
        assert simulated.running == 0


async def test_more_choices_than_places_all_come_to_their_end(autojump_clock: MockClock) -> None:
    simulated = engine(parallel=2)
    body = chat_body("hi", n=8, max_tokens=3, stream_options={"include_usage": True})
    async with run_app(simulated) as app, call_asgi(app, body) as call:
        await call.ended.wait()
    choices = check_chat_stream(call.body)
    assert [choice["finish_reason"] for choice in choices] == ["length"] * 8
    assert b'"completion_tokens":24' in call.body
    assert simulated.running == simulated.waiting == 0


async def test_choices_share_the_prefill_of_their_prompt(autojump_clock: MockClock) -> None:
    body = chat_body(prompt_of(TOKENS), n=4, max_tokens=1)
    async with run_app(engine(parallel=4)) as app, call_asgi(app, body) as call:
        await call.ended.wait()
    assert len(check_chat_stream(call.body)) == 4
    assert call.arrivals[-1].at < PREFILL_SECONDS + 1


async def test_choices_that_find_no_place_are_refused_with_a_status(autojump_clock: MockClock) -> None:
    simulated = engine(parallel=1, max_queue=3)
    async with run_app(simulated, parallel=1, max_queue=3) as app:
        async with call_asgi(app, chat_body(prompt_of(TOKENS))) as first:
            await first.wait_for(b"role")
            async with call_asgi(app, chat_body("hi", n=4)) as call:
                await call.ended.wait()
        assert call.status == 429
        assert int(call.headers["retry-after"]) >= 1
        assert simulated.running == simulated.waiting == 0
        async with call_asgi(app, chat_body("hi", n=5)) as never:
            await never.ended.wait()
    assert never.status == 400
    assert b"smaller n" in never.body


async def test_impatient_client_of_a_document_hears_in_time(autojump_clock: MockClock) -> None:
    headers = {"user-agent": "python-httpx/0.28.1"}
    body = chat_body(prompt_of(TOKENS), stream=False)
    async with run_app(engine()) as app, call_asgi(app, body, headers=headers) as call:
        await call.ended.wait()
    assert call.started_at == pytest.approx(5 / 3)
    times = [0.0, *(arrival.at for arrival in call.arrivals)]
    assert max(later - earlier for earlier, later in pairwise(times)) < 5


async def test_without_parallel_calls_an_answer_ends_with_its_first_call(autojump_clock: MockClock) -> None:
    call_text = '<tool_call>\n{"name": "read", "arguments": {"path": "a"}}\n</tool_call>\n'
    simulated = engine(answer=f"Well. {call_text}{call_text}" + "more " * 1000)
    tools = [{"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}]
    body = chat_body("hi", tools=tools, parallel_tool_calls=False, stream_options={"include_usage": True})
    async with run_app(simulated) as app, call_asgi(app, body) as call:
        await call.ended.wait()
    (choice,) = check_chat_stream(call.body)
    assert choice["content"] == "Well."
    assert [called["name"] for called in choice["tool_calls"]] == ["read"]
    assert choice["finish_reason"] == "tool_calls"
    chunks = [json.loads(line[6:]) for line in call.body.splitlines() if line.startswith(b"data: {")]
    tokens = chunks[-1]["usage"]["completion_tokens"]
    assert tokens <= len(f"Well. {call_text}") // 4 + 1, "the second call was not waited for"
    timings = next(chunk["timings"] for chunk in chunks if "timings" in chunk)
    assert timings["predicted_ms"] == pytest.approx(1000 * tokens / 20, abs=60)
    assert timings["prompt_ms"] > 0
    assert simulated.running == 0


@pytest.mark.parametrize("after", [0.5, 20])
@pytest.mark.parametrize("stream", [True, False])
async def test_response_can_be_cancelled_by_its_id_and_ends_as_its_protocol_says(
    autojump_clock: MockClock, stream: bool, after: float
) -> None:
    simulated = engine()
    body = {"input": prompt_of(TOKENS), "stream": stream}
    async with run_app(simulated) as app, call_asgi(app, body, path="/v1/responses") as call:
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(after)
        (request_id,) = app.board.live
        path = f"/v1/responses/{request_id.replace('req_', 'resp_')}"
        async with call_asgi(app, b"{}", path=f"{path}/cancel") as cancel:
            await cancel.ended.wait()
        before = trio.current_time()
        await call.ended.wait()
        assert trio.current_time() == before
        assert simulated.running == 0
        async with call_asgi(app, method="GET", path=path) as stored:
            await stored.ended.wait()
    assert json.loads(cancel.body)["status"] == json.loads(stored.body)["status"] == "cancelled"
    if stream:
        assert check_responses_stream(call.body)["status"] == "cancelled"
    else:
        assert b"the request was cancelled" in call.body


async def test_only_responses_can_be_cancelled_by_id(autojump_clock: MockClock) -> None:
    async with run_app(engine()) as app, call_asgi(app, chat_body(prompt_of(TOKENS))) as chat:
        await chat.wait_for(b"role")
        (request_id,) = app.board.live
        path = f"/v1/responses/{request_id.replace('req_', 'resp_')}/cancel"
        async with call_asgi(app, b"{}", path=path) as cancel:
            await cancel.ended.wait()
        assert cancel.status == 404
        assert list(app.board.live) == [request_id]
        await chat.ended.wait()
    assert check_chat_stream(chat.body)[0]["finish_reason"] == "stop"


class PushedGeneration:
    """Hands out what a test pushes, and like a real engine's without a checkpoint as long as there is something."""

    def __init__(self) -> None:
        self.progress = Progress(phase=Phase.DECODE, prompt_tokens=3, prefilled_tokens=3)
        self._events: deque[TextDelta | Finished] = deque()
        self._pushed = trio.Event()

    async def prefill(self) -> None:
        await trio.lowlevel.checkpoint()

    def __aiter__(self) -> "PushedGeneration":
        return self

    async def __anext__(self) -> TextDelta | Finished:
        while not self._events:
            self._pushed = trio.Event()
            await self._pushed.wait()
        return self._events.popleft()

    def push(self, event: TextDelta | Finished) -> None:
        self._events.append(event)
        self._pushed.set()


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_nothing_follows_the_end_of_an_answer_that_was_stopped(autojump_clock: MockClock, path: str) -> None:
    generation = PushedGeneration()

    class Pushing(SimulatedEngine):
        @asynccontextmanager
        async def generate(self, request: GenerationRequest, **_: Any) -> AsyncGenerator[Any, None]:
            yield generation

    body = {"input": "hi", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with run_app(Pushing()) as app, call_asgi(app, body, path=path) as call:
        await call.wait_for_headers()
        generation.push(TextDelta("hello ", 1))
        await call.wait_for(b"hello")
        generation.push(TextDelta("LATE", 2))
        next(iter(app.board.live.values())).stop(CancelledError(), "a test")
        await call.ended.wait()
    assert b"LATE" not in call.body
    if path == "/v1/responses":
        assert check_responses_stream(call.body)["status"] == "cancelled"
    else:
        assert "error" in check_chat_stream(call.body)[0]


async def test_response_whose_client_left_does_not_stay_in_progress(autojump_clock: MockClock) -> None:
    async with run_app(engine()) as app:
        async with call_asgi(app, {"input": prompt_of(TOKENS), "stream": True}, path="/v1/responses") as call:
            await call.wait_for(b"response.created")
            (request_id,) = app.board.live
        async with call_asgi(app, method="GET", path=f"/v1/responses/{request_id.replace('req_', 'resp_')}") as stored:
            await stored.ended.wait()
    assert json.loads(stored.body)["status"] == "cancelled"


async def test_client_that_leaves_the_queue_leaves_it_at_once(autojump_clock: MockClock) -> None:
    simulated = engine(parallel=1)
    async with run_app(simulated) as app, call_asgi(app, chat_body(prompt_of(TOKENS))) as first:
        await first.wait_for(b"role")
        async with call_asgi(app, chat_body("second")) as second:
            await second.wait_for(b"queued")
            assert simulated.waiting == 1
        assert simulated.waiting == 0


async def test_retry_goes_on_where_the_cancelled_prefill_stopped(autojump_clock: MockClock) -> None:
    async with run_app(engine()) as app:
        async with call_asgi(app, chat_body(prompt_of(TOKENS))):
            await trio.sleep(200)
        async with call_asgi(app, chat_body(prompt_of(TOKENS))) as retry:
            await retry.ended.wait()
    first_token = next(a for a in retry.arrivals[1:] if a.data.startswith(b"data: "))
    # 200 s were computed, less what was lost of the chunk that was running.
    assert first_token.at < PREFILL_SECONDS - 200 + 2048 / RATE + 0.1


async def test_document_keeps_its_status_within_the_grace(autojump_clock: MockClock) -> None:
    async with run_app(engine()) as app, call_asgi(app, chat_body("hi", stream=False, max_tokens=2)) as call:
        await call.ended.wait()
    assert call.status == 200
    assert call.headers["content-length"] == str(len(call.body))
    assert json.loads(call.body)["choices"][0]["finish_reason"] == "length"


async def test_document_is_kept_alive_with_spaces_after_the_grace(autojump_clock: MockClock) -> None:
    async with (
        run_app(engine()) as app,
        call_asgi(app, chat_body(prompt_of(TOKENS), stream=False, max_tokens=40)) as call,
    ):
        await call.ended.wait()
    assert call.status == 200
    assert call.started_at == pytest.approx(15)
    spaces = [a.at for a in call.arrivals if a.data == b" "]
    assert spaces == pytest.approx([15.0 + 5 * n for n in range(len(spaces))])
    assert len(spaces) == int((PREFILL_SECONDS + 40 / 20 - 15) // 5) + 1
    answer = json.loads(call.body)
    assert answer["usage"]["prompt_tokens"] == TOKENS


async def test_grace_of_zero_never_speaks_early(autojump_clock: MockClock) -> None:
    async with (
        run_app(engine(), json_grace=0.0) as app,
        call_asgi(app, chat_body(prompt_of(TOKENS), stream=False)) as call,
    ):
        await call.ended.wait()
    assert len(call.arrivals) == 1
    assert call.started_at == pytest.approx(PREFILL_SECONDS + 64 / 20)


class FailingGeneration(SimulatedGeneration):
    async def prefill(self) -> None:
        await super().prefill()
        raise EngineError("the machine is on fire")


class FailingEngine(SimulatedEngine):
    """Fails after the prefill."""

    @asynccontextmanager
    async def generate(
        self,
        request: GenerationRequest,
        *,
        on_progress: Callable[[Progress], None] = lambda _: None,
        rest: Rest | None = None,
    ) -> AsyncGenerator[SimulatedGeneration, None]:
        generation = FailingGeneration(self, request, on_progress)
        try:
            yield generation
        finally:
            generation._release()


async def test_error_after_the_headers_is_an_event_and_a_clean_end(autojump_clock: MockClock) -> None:
    async with run_app(FailingEngine()) as app, call_asgi(app, chat_body("hi")) as call:
        await call.ended.wait()
    assert call.status == 200
    *_, error, done, _ = call.body.split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["message"] == "the machine is on fire"
    assert done == b"data: [DONE]"


@pytest.mark.parametrize(("tokens", "status"), [(10, 500), (TOKENS, 200)])
async def test_error_of_a_document_has_a_status_within_the_grace(
    autojump_clock: MockClock, tokens: int, status: int
) -> None:
    async with (
        run_app(FailingEngine(prefill_tps=RATE)) as app,
        call_asgi(app, chat_body(prompt_of(tokens), stream=False)) as call,
    ):
        await call.ended.wait()
    assert call.status == status
    assert json.loads(call.body)["error"]["message"] == "the machine is on fire"


@pytest.mark.parametrize("stream", [True, False])
async def test_full_queue_is_a_429_with_retry_after(autojump_clock: MockClock, stream: bool) -> None:
    simulated = engine(parallel=1, max_queue=1)
    async with (
        run_app(simulated) as app,
        call_asgi(app, chat_body(prompt_of(TOKENS))) as first,
        call_asgi(app, chat_body("second")) as second,
    ):
        await first.wait_for(b"role")
        await second.wait_for(b"role")
        async with call_asgi(app, chat_body("third", stream=stream)) as third:
            await third.ended.wait()
    assert third.status == 429
    assert int(third.headers["retry-after"]) >= 1
    assert third.headers["content-type"] == "application/json"
    assert json.loads(third.body)["error"]["code"] == "queue_full"


async def test_client_that_takes_no_bytes_is_cancelled_after_the_stall_timeout(autojump_clock: MockClock) -> None:
    simulated = engine(parallel=1)
    async with run_app(simulated, stall_timeout=3.0) as app, call_asgi(app, chat_body("hi")) as call:
        call.reading = trio.Event()
        await trio.sleep(2.9)
        assert simulated.running == 1
        await trio.sleep(0.2)
        assert simulated.running == 0


async def test_drain_tells_the_queue_and_lets_the_running_go_on(autojump_clock: MockClock) -> None:
    simulated = engine(parallel=1)
    async with run_app(simulated) as app, call_asgi(app, chat_body(prompt_of(1000))) as first:
        await first.wait_for(b"role")
        async with call_asgi(app, chat_body("second")) as second:
            await second.wait_for(b"role")
            app.host.drain()
            await second.ended.wait()
        async with call_asgi(app, chat_body("third")) as third:
            await third.ended.wait()
        await first.ended.wait()
    assert b"shutting down" in second.body
    assert second.body.endswith(b"data: [DONE]\n\n")
    assert third.status == 503
    assert "retry-after" in third.headers
    assert b'"finish_reason":"stop"' in first.body


@pytest.mark.parametrize("stream", [True, False])
async def test_server_that_stops_says_so(autojump_clock: MockClock, stream: bool) -> None:
    simulated = engine()
    async with run_app(simulated) as app, trio.open_nursery() as nursery:
        calls: list[AsgiCall] = []

        async def ask() -> None:
            async with call_asgi(app, chat_body(prompt_of(TOKENS), stream=stream)) as call:
                calls.append(call)
                await call.ended.wait()

        nursery.start_soon(ask)
        await trio.sleep(7)
        nursery.cancel_scope.cancel()
    (call,) = calls
    assert simulated.running == 0
    assert call.ended.is_set()
    assert b"shutting down" in call.body
    assert call.status == (200 if stream else 503)
    assert call.body.endswith(b"data: [DONE]\n\n" if stream else b"}")
