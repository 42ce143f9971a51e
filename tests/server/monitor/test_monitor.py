"""What the server shows of its requests, under virtual time."""

import json
import re
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
from ds4trio.server.monitor import Board, Metrics, Record, RequestLog
from ds4trio.server.monitor.board import LEAST_WAIT, MOST_AT_ONCE, MOST_ENDED, MOST_WAIT
from ds4trio.testing import call_asgi, chat_body, run_app
from tests.grammars.chat import check_chat_stream

PROMPT = "a" * 4000  # a bit more than 1,000 tokens


def running(**settings: Any) -> AbstractAsyncContextManager[App]:
    engine = SimulatedEngine(
        parallel=1, prefill_tps=100, decode_tps=10, chunk=100, answer_tokens=20, max_queue=5 * MOST_AT_ONCE
    )
    return run_app(engine, **settings)


async def ask(app: App, path: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    async with call_asgi(app, method=method, path=path, headers=headers) as call:
        await call.ended.wait()
    assert call.status is not None
    return call.status, call.body


async def requests(app: App) -> dict[str, Any]:
    status, body = await ask(app, "/requests")
    assert status == 200
    document: dict[str, Any] = json.loads(body)
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


async def test_what_a_retry_takes_over_is_counted_once(autojump_clock: MockClock) -> None:
    async with running() as app:
        async with call_asgi(app, chat_body(PROMPT)) as leaver:
            while leaver.body.count(b'"content"') < 10:
                await leaver.wait_for_arrivals(more_than=len(leaver.arrivals))
        async with call_asgi(app, chat_body(PROMPT)) as call:
            await call.ended.wait()
        seen = await figures(app)
        document = await requests(app)
        prompt = document["ended"][0]["prompt_tokens"]
    assert seen["ds4trio_tokens_total output"] == document["totals"]["output"] == 20
    assert seen["ds4trio_tokens_total computed"] <= prompt + 1
    assert prompt < seen["ds4trio_tokens_total cancelled"] < prompt + 20


async def test_choices_share_a_prompt_that_is_counted_once(autojump_clock: MockClock) -> None:
    async with running() as app:
        async with call_asgi(app, chat_body(PROMPT, n=3)) as call:
            await call.ended.wait()
        seen = await figures(app)
        document = await requests(app)
        prompt = document["ended"][0]["prompt_tokens"]
    assert seen["ds4trio_tokens_total output"] == document["totals"]["output"] == 60
    assert seen["ds4trio_tokens_total computed"] == document["totals"]["computed"]
    # Each choice computes the last token of the prompt for itself.
    assert prompt <= seen["ds4trio_tokens_total computed"] <= prompt + 2


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


async def test_totals_count_all_that_ever_ended(autojump_clock: MockClock) -> None:
    async with running() as app:
        for _ in range(MOST_ENDED):
            async with call_asgi(app, chat_body("hi", max_tokens=1)) as call:
                await call.ended.wait()
        async with call_asgi(app, chat_body(PROMPT)) as leaver:
            await leaver.wait_for(b"role")
            await trio.sleep(2.05)
            during = (await requests(app))["totals"]
        document = await requests(app)
    totals, listed = document["totals"], document["ended"]
    assert during["ended"] == totals["stop"] + totals["length"] == MOST_ENDED == len(listed)
    assert (totals["ended"], totals["cancelled"], totals["failed"]) == (MOST_ENDED + 1, 1, 0)
    assert totals["output"] == MOST_ENDED
    assert totals["computed"] == during["computed"] >= 200, "what is being computed counts, too"


async def test_a_key_sees_what_is_its_own_and_the_operator_all(autojump_clock: MockClock) -> None:
    def by(name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {name}-key"}

    async with running(api_key=tuple(f"{name}:{name}-key" for name in ("alice", "bob", "operator"))) as app:
        for name in ("alice", "alice", "bob"):
            async with call_asgi(app, chat_body("hi", max_tokens=3), headers=by(name)) as call:
                await call.ended.wait()
        seen = {name: json.loads((await ask(app, "/requests", headers=by(name)))[1]) for name in ("bob", "operator")}
        async with call_asgi(app, method="GET", path="/", headers={"accept": "text/html"}) as page:
            await page.ended.wait()
    assert [request["key"] for request in seen["bob"]["ended"]] == ["bob"]
    assert [request["key"] for request in seen["operator"]["ended"]] == ["bob", "alice", "alice"]
    assert [seen[name]["totals"]["output"] for name in ("bob", "operator")] == [3, 9]
    assert b'data-needs-key="yes"' in page.body


async def test_a_crowd_is_written_down_piece_by_piece(autojump_clock: MockClock) -> None:
    held = 0

    async def tick() -> None:
        nonlocal held
        while True:
            await trio.lowlevel.checkpoint()
            held += 1

    async with running() as app, trio.open_nursery() as nursery:
        for number in range(5 * MOST_AT_ONCE):
            nursery.start_soon(ask_and_stay, app, f"{number} {PROMPT}")
        await trio.sleep(1)
        nursery.start_soon(tick)
        await trio.lowlevel.checkpoint()
        held = 0
        view = await app.board.view()
        assert held >= 4
        nursery.cancel_scope.cancel()
    assert len(view["requests"]) == 5 * MOST_AT_ONCE


async def ask_and_stay(app: App, prompt: str) -> None:
    async with call_asgi(app, chat_body(prompt)) as call:
        await call.ended.wait()


async def test_what_happens_during_a_look_is_news(autojump_clock: MockClock) -> None:
    board = Board(kv=lambda: None)
    news, before = board.news, trio.current_time()
    board.changed()  # while the look is taken and sent
    await board.wait(news)
    assert trio.current_time() - before == LEAST_WAIT
    await board.wait(board.news)
    assert trio.current_time() - before == LEAST_WAIT + MOST_WAIT


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
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")
    tags = re.findall(rb"<(?:script|style|link)\b[^>]*>", page.body)
    assert set(tags) == {f'<{tag} nonce="{nonce}">'.encode() for tag in ("script", "style")} | {
        b'<link rel="icon" href="data:,">'
    }
    assert b"{nonce}" not in page.body
    assert b'data-needs-key="no"' in page.body
    assert b"http://" not in page.body.replace(b"http://www.w3.org/2000/svg", b"")  # a name, not an address
    assert b"https://" not in page.body
    assert json.loads(told)["name"] == "ds4trio"


async def test_what_is_decoded_and_not_told_is_withheld(autojump_clock: MockClock) -> None:
    now = {"phase": Phase.DECODE}
    record = Record(
        id="req_1", kind="chat", model="m", client="", streams=True, arrived=trio.current_time(),
        metrics=Metrics(), watchers=[RequestLog("chat", "req_1")],
    )  # fmt: skip
    record.wrote(b"x")
    await trio.sleep(1)
    record.progressed(Progress(**now))  # type: ignore[arg-type]
    record.wrote(b"x")
    await trio.sleep(5)
    record.wrote(b"x", beat="both")
    await trio.sleep(5)
    record.wrote(b"x", beat="both")
    await trio.sleep(1)
    record.wrote(b"x")
    record.close()
    assert record.stages == [("queued", 0.0), ("decode", 1.0), ("withheld", 1.0), ("decode", 12.0)]
    assert record.beats == [6.0, 11.0]
    assert record.longest_silence == 5.0
