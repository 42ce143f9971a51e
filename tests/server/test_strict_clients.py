"""Real clients' watchdogs against a prefill of three times their patience, under virtual time."""

import json
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.server.app import App
from ds4trio.testing import WATCHDOGS, Watchdog, call_asgi, run_app, watch
from tests.grammars.chat import check_chat_stream
from tests.grammars.messages import check_messages_stream
from tests.grammars.responses import check_responses_stream

ANSWER = "MAGIC-ANSWER-42 done."
RATE = 10.0
QWEN = next(watchdog for watchdog in WATCHDOGS if watchdog.client == "Qwen Code")
MORTAL = [watchdog for watchdog in WATCHDOGS if watchdog is not QWEN]


def running(**settings: Any) -> AbstractAsyncContextManager[App]:
    return run_app(SimulatedEngine(prefill_tps=RATE, chunk=512, answer=ANSWER), any_model=True, **settings)


def body_for(watchdog: Watchdog, seconds: float) -> dict[str, Any]:
    """A request whose prompt takes at least this long to prefill."""
    text = "word" * int(seconds * RATE)
    messages = [{"role": "user", "content": text}]
    match watchdog.protocol:
        case "chat":
            return {"model": "m", "stream": True, "stream_options": {"include_usage": True}, "messages": messages}
        case "responses":
            return {"model": "m", "stream": True, "input": messages}
        case "messages":
            return {"model": "m", "stream": True, "max_tokens": 100, "messages": messages}


def answered(watchdog: Watchdog, body: bytes) -> tuple[str, int]:
    """The text of a complete answer and the prompt tokens that its usage counts."""
    match watchdog.protocol:
        case "chat":
            (choice,) = check_chat_stream(body)
            lines = [line for line in body.splitlines() if line.startswith(b"data: {")]
            return choice["content"], json.loads(lines[-1][6:])["usage"]["prompt_tokens"]
        case "responses":
            response = check_responses_stream(body)
            assert response["status"] == "completed"
            return response["output"][-1]["content"][0]["text"], response["usage"]["input_tokens"]
        case "messages":
            message = check_messages_stream(body)
            assert message["stop_reason"] == "end_turn"
            usage = message["usage"]
            read, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
            return message["content"][-1]["text"], usage["input_tokens"] + read + written


def name(watchdog: Watchdog) -> str:
    return f"{watchdog.client} {watchdog.protocol}"


@pytest.mark.parametrize("watchdog", MORTAL, ids=name)
async def test_client_outlives_a_prefill_of_three_times_its_patience(
    autojump_clock: MockClock, watchdog: Watchdog
) -> None:
    patience = 3 * watchdog.idle
    async with (
        running() as app,
        call_asgi(app, body_for(watchdog, patience), path=watchdog.path, headers=watchdog.sends) as call,
    ):
        assert await watch(call, watchdog) is None
    assert call.status == 200
    text, prompt_tokens = answered(watchdog, call.body)
    assert text == ANSWER
    assert prompt_tokens >= patience * RATE
    assert call.arrivals[-1].at > patience


@pytest.mark.parametrize("watchdog", WATCHDOGS, ids=name)
async def test_the_same_client_hangs_up_on_a_server_without_heartbeats(
    autojump_clock: MockClock, watchdog: Watchdog
) -> None:
    body = body_for(watchdog, 3 * watchdog.idle)
    async with (
        running(heartbeat="off") as app,
        call_asgi(app, body, path=watchdog.path, headers=watchdog.sends) as call,
    ):
        cut = await watch(call, watchdog)
    assert cut is not None
    assert cut.at == pytest.approx(watchdog.idle, abs=0.1)


@pytest.mark.parametrize("watchdog", [watchdog for watchdog in MORTAL if watchdog.counts != "bytes"], ids=name)
async def test_client_that_counts_events_gets_them_although_the_operator_chose_comments(
    autojump_clock: MockClock, watchdog: Watchdog
) -> None:
    body = body_for(watchdog, 3 * watchdog.idle)
    async with (
        running(heartbeat="comment") as app,
        call_asgi(app, body, path=watchdog.path, headers=watchdog.sends) as call,
    ):
        assert await watch(call, watchdog) is None
    assert answered(watchdog, call.body)[0] == ANSWER


async def test_qwen_code_gives_up_by_its_age_and_its_retry_is_answered_from_the_kept_prefill(
    autojump_clock: MockClock,
) -> None:
    prefill = 1.5 * QWEN.lifetime
    body = body_for(QWEN, prefill)
    async with running() as app:
        async with call_asgi(app, body, path=QWEN.path, headers=QWEN.sends) as first:
            cut = await watch(first, QWEN)
        assert cut is not None
        assert cut.at == pytest.approx(QWEN.lifetime)
        await trio.sleep(1)
        began = trio.current_time()
        async with call_asgi(app, body, path=QWEN.path, headers=QWEN.sends) as retry:
            assert await watch(retry, QWEN) is None
        took = trio.current_time() - began
    assert answered(QWEN, retry.body)[0] == ANSWER
    # All that was lost is the chunk that was running.
    assert took < prefill - QWEN.lifetime + 2 * 512 / RATE


@pytest.mark.parametrize("timeout", [1.0, 3.0, 9.0])
@pytest.mark.parametrize("header", ["x-stainless-read-timeout", "X-Stainless-Timeout"])
async def test_client_that_says_its_timeout_is_never_left_alone_for_more_than_a_third_of_it(
    autojump_clock: MockClock, header: str, timeout: float
) -> None:
    watchdog = Watchdog(client="any", protocol="chat", idle=timeout, sends={header: str(timeout)})
    async with (
        running() as app,
        call_asgi(app, body_for(watchdog, 30), path=watchdog.path, headers=watchdog.sends) as call,
    ):
        assert await watch(call, watchdog) is None
    times = [arrival.at for arrival in call.arrivals]
    assert max(later - earlier for earlier, later in pairwise(times)) <= timeout / 3 + 1e-6
