"""What the server shows of its requests, under virtual time."""

import json
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from ds4trio.engine import Phase, Progress
from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.server.app import App
from ds4trio.server.monitor import Metrics, Record, RequestLog
from ds4trio.testing import call_asgi, chat_body, run_app
from tests.grammars.chat import check_chat_stream

PROMPT = "a" * 4000  # a bit more than 1,000 tokens


def running(**settings: Any) -> AbstractAsyncContextManager[App]:
    return run_app(SimulatedEngine(parallel=1, prefill_tps=100, decode_tps=10, chunk=100, answer_tokens=20), **settings)


async def ask(app: App, path: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    async with call_asgi(app, method=method, path=path, headers=headers) as call:
        await call.ended.wait()
    assert call.status is not None
    return call.status, call.body


async def requests(app: App) -> dict[str, list[dict[str, Any]]]:
    status, body = await ask(app, "/requests")
    assert status == 200
    document: dict[str, list[dict[str, Any]]] = json.loads(body)
    return document


async def figures(app: App) -> dict[str, float]:
    """Each sample of ``/metrics`` by its name and labels."""
    status, body = await ask(app, "/metrics")
    assert status == 200
    families = text_string_to_metric_families(body.decode())
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
    }


async def test_those_that_live_say_where_they_are(autojump_clock: MockClock) -> None:
    async with running() as app, call_asgi(app, chat_body(PROMPT), headers={"user-agent": "agent/1"}) as first:
        await first.wait_for(b"role")
        async with call_asgi(app, chat_body("b" * 400), path="/v1/chat/completions") as second:
            await second.wait_for(b"role")
            await trio.sleep(6.5)
            running_one, waiting = (await requests(app))["requests"]
            second.leave()
        first.leave()
    assert (running_one["phase"], waiting["phase"]) == ("prefill", "queued")
    assert running_one["client"] == "agent/1"
    assert running_one["protocol"] == "chat"
    assert running_one["prefilled_tokens"] == 600
    assert running_one["prompt_tokens"] > 1000
    assert running_one["prefill_rate"] == pytest.approx(100, rel=0.01)
    assert running_one["eta"] == pytest.approx((running_one["prompt_tokens"] - 600) / 100, abs=0.1)
    assert running_one["heartbeats"] == len(running_one["beats"]) == 1
    assert [stage for stage, _ in running_one["stages"]] == ["queued", "prefill"]
    assert (waiting["queue_position"], waiting["queue_length"]) == (1, 1)
    assert waiting["blocker"] == running_one["id"]


async def test_those_that_ended_say_how(autojump_clock: MockClock) -> None:
    async with running() as app:
        async with call_asgi(app, chat_body(PROMPT)) as call:
            await call.ended.wait()
        async with call_asgi(app, chat_body("b" * 4000)) as leaver:
            await leaver.wait_for(b"role")
            await trio.sleep(2)
        left, whole = (await requests(app))["ended"]
        assert (await requests(app))["requests"] == []
    assert (whole["phase"], whole["outcome"], whole["output_tokens"]) == ("ended", "stop", 20)
    assert [stage for stage, _ in whole["stages"]] == ["queued", "prefill", "decode"]
    assert whole["first_byte"] == 0
    assert whole["first_token"] == pytest.approx(whole["prompt_tokens"] / 100 + 0.1)
    assert whole["longest_silence"] == 5.0
    assert (left["outcome"], left["cause"]) == ("cancelled", "the client has gone")
    assert 0 < left["prefilled_tokens"] < 400


async def test_a_request_can_be_cancelled_and_its_client_is_told(autojump_clock: MockClock) -> None:
    async with running() as app, call_asgi(app, chat_body(PROMPT)) as call:
        await call.wait_for(b"role")
        await trio.sleep(1)
        (live,) = (await requests(app))["requests"]
        status, body = await ask(app, f"/requests/{live['id']}", method="DELETE")
        assert (status, json.loads(body)) == (200, {"id": live["id"], "cancelled": True})
        await call.ended.wait()
        (ended,) = (await requests(app))["ended"]
        seen = await figures(app)
        status, body = await ask(app, f"/requests/{live['id']}", method="DELETE")
    assert "error" in check_chat_stream(call.body)[0]
    assert (ended["outcome"], ended["cause"]) == ("cancelled", "the operator cancelled it")
    assert seen["ds4trio_cancels_total the operator cancelled it"] == 1
    assert seen["ds4trio_requests_total cancelled chat"] == 1
    assert (status, json.loads(body)["error"]["message"][:10]) == (404, "no request")


async def test_metrics_count_what_happened(autojump_clock: MockClock) -> None:
    async with running() as app:
        for _ in range(2):
            async with call_asgi(app, {**chat_body(PROMPT), "user": "anybody"}) as call:
                await call.ended.wait()
        async with call_asgi(app, chat_body(PROMPT[:-400])) as leaver:
            await leaver.wait_for(b"role")
            during = await figures(app)
        seen = await figures(app)
    assert during["ds4trio_live_requests queued"] + during["ds4trio_live_requests prefill"] == 1
    assert seen["ds4trio_requests_total stop chat"] == 2
    assert seen["ds4trio_tokens_total output"] == 40
    assert seen["ds4trio_tokens_total computed"] >= 1000
    assert seen["ds4trio_tokens_total memory"] >= 1000
    assert seen["ds4trio_tokens_total disk"] == 0
    assert seen["ds4trio_heartbeats_total both"] >= 2
    assert seen["ds4trio_longest_silence_seconds_count"] == 3
    assert seen["ds4trio_longest_silence_seconds_bucket 5.0"] == 3, "never silent for longer than an interval"
    assert seen["ds4trio_first_token_seconds_count"] == 2
    assert seen["ds4trio_inter_token_seconds_count"] == 38
    cells = [seen[f"ds4trio_kv_cells {state}"] for state in ("running", "cached", "free")]
    assert sum(cells) == app.host.engine().info.context_length
    assert cells[1] > 500


async def test_whoever_watches_sees_changes_soon_and_not_too_often(autojump_clock: MockClock) -> None:
    async with running() as app, call_asgi(app, method="GET", path="/requests/events") as watcher:
        await watcher.wait_for_arrivals(more_than=0)
        async with call_asgi(app, chat_body(PROMPT)) as call:
            await call.ended.wait()
        await trio.sleep(1)
        seen = [(arrival.at, json.loads(arrival.data.removeprefix(b"data: "))) for arrival in watcher.arrivals]
        before = trio.current_time()
        app.drain()
        await watcher.ended.wait()
        assert trio.current_time() - before <= 0.5, "an open page holds nobody up"
    phases = [each["requests"][0]["phase"] for _, each in seen if each["requests"]]
    assert set(phases) == {"prefill", "decode"}
    assert seen[-1][1]["ended"][0]["outcome"] == "stop"
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(seen)]
    assert min(gaps) >= 0.5
    assert max(gaps) <= 5.0
    assert seen[0][1]["kv"]["cells"] == 131_072


async def test_errors_are_shown_without_a_word_of_the_prompt(autojump_clock: MockClock) -> None:
    async with running() as app:
        async with call_asgi(app, {"messages": [{"role": "secret", "content": "secret"}]}) as call:
            await call.ended.wait()
        assert call.status == 400
        async with call_asgi(app, method="GET", path="/requests/events") as watcher:
            await watcher.wait_for_arrivals(more_than=0)
            (error,) = json.loads(watcher.arrivals[0].data.removeprefix(b"data: "))["errors"]
        seen = await figures(app)
    assert error["what"] == "POST /v1/chat/completions"
    assert error["message"].startswith("400 ")
    assert "secret" not in json.dumps(error)
    assert (
        sum(
            value
            for name, value in seen.items()
            if name.startswith("ds4trio_refusals_total ") and name.endswith(" 400")
        )
        == 1
    )


async def test_a_browser_gets_the_page_and_nothing_from_elsewhere(autojump_clock: MockClock) -> None:
    async with running() as app:
        async with call_asgi(app, method="GET", path="/", headers={"accept": "text/html,*/*;q=0.8"}) as page:
            await page.ended.wait()
        _, told = await ask(app, "/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert f'<script nonce="{nonce}">'.encode() in page.body
    assert b"{nonce}" not in page.body
    assert b"http://" not in page.body
    assert b"https://" not in page.body
    assert json.loads(told)["name"] == "ds4trio"


async def test_what_is_decoded_and_not_told_is_withheld(autojump_clock: MockClock) -> None:
    now = {"phase": Phase.DECODE}
    record = Record(
        id="req_1", kind="chat", model="m", client="", streams=True, arrived=trio.current_time(),
        log=RequestLog("chat", "req_1"), metrics=Metrics(),
    )  # fmt: skip
    record.wrote()
    await trio.sleep(1)
    record.progressed(Progress(**now))  # type: ignore[arg-type]
    record.wrote()
    await trio.sleep(5)
    record.wrote(beat="both")
    await trio.sleep(5)
    record.wrote(beat="both")
    await trio.sleep(1)
    record.wrote()
    record.close()
    assert record.stages == [("queued", 0.0), ("decode", 1.0), ("withheld", 1.0), ("decode", 12.0)]
    assert record.beats == [6.0, 11.0]
    assert record.longest_silence == 5.0
