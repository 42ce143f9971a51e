"""The page in a real browser, with the simulated engine behind it."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from playwright.sync_api import expect

from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.testing import chat_body, fresh_prompt, open_client, run_server
from tests.browser import Visit, needs_chromium, visiting
from tests.grammars.chat import check_chat_stream
from tests.serving import serving

pytestmark = needs_chromium

TEMPLATE = Path(__file__).with_name("thinking.jinja")
REFUSED = "error: Failed to load resource: net::ERR_CONNECTION_REFUSED"


def slow_engine() -> SimulatedEngine:
    return SimulatedEngine(prefill_tps=200, decode_tps=4, parallel=2, chunk=100, answer_tokens=40)


async def look(visit: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(visit)


async def hold(port: int, prompt: str, agent: str = "agent/1.0") -> bytes:
    async with open_client(port, chat_body(prompt), headers={"user-agent": agent}) as client:
        return await client.read_all()


async def test_an_idle_server_says_so() -> None:
    def visit(port: int) -> None:
        with visiting(port) as seen:
            expect(seen.find("state")).to_have_text("ready")
            expect(seen.find("model")).to_have_text("simulated")
            expect(seen.find("nobody")).to_be_visible()
            expect(seen.rows()).to_have_count(0)
            expect(seen.find("kv-text")).to_contain_text("131,072 cells: 0 running, 0 cached, 131,072 free")
            expect(seen.find("misses")).to_have_text("None lately.")
            expect(seen.find("errors")).to_have_text("None lately.")
            expect(seen.find("key-form")).to_be_hidden()
            expect(seen.find("gone")).to_be_hidden()

    async with serving(SimulatedEngine()) as server:
        await look(partial(visit, server.port))


async def test_a_request_is_seen_from_the_queue_to_its_end() -> None:
    watched = trio.Event()

    def visit(port: int) -> None:
        with visiting(port) as seen:
            expect(seen.find("state")).to_have_text("ready")
            trio.from_thread.run_sync(watched.set)
            expect(seen.rows()).to_have_count(3)
            long, short, waiting = (seen.rows().nth(index) for index in range(3))
            expect(long).to_contain_text("agent/1.0")
            expect(waiting).to_contain_text("queued, 1 of 1")
            progress = long.get_by_role("progressbar")
            first = int(progress.get_attribute("aria-valuenow") or 0)
            expect(progress).to_have_attribute(
                "aria-valuetext", re.compile(r"prefill [\d,]+ / 2,\d\d\d, \d+ t/s, .+ left")
            )
            expect(long).to_contain_text(re.compile("[1-9][0-9]* beat"))
            expect(progress).not_to_have_attribute("aria-valuenow", str(first))
            assert int(progress.get_attribute("aria-valuenow") or 0) > first
            expect(seen.find("running")).to_have_text("2")
            expect(seen.find("waiting")).to_have_text("1")
            expect(short).to_contain_text(re.compile("decode, [0-9]+ tokens"))
            for kind in ("queued", "prefill", "beats"):
                assert long.locator(f"path.{kind}").get_attribute("d")
            seen.page.get_by_role("radio", name="queued").check()
            expect(seen.rows()).to_have_count(0)
            seen.page.get_by_role("radio", name="ended").check()
            expect(seen.rows()).to_have_count(3)
            expect(seen.rows().first).to_contain_text("complete")
            expect(seen.rows().first).to_contain_text("40 out")
            expect(seen.find("ended")).to_have_text("3")
            expect(seen.find("outcomes")).to_have_text("3 complete")
            expect(seen.page.get_by_role("button", name="Cancel")).to_have_count(0)

    async with serving(slow_engine(), heartbeat_interval=2) as server, trio.open_nursery() as nursery:
        nursery.start_soon(look, partial(visit, server.port))
        await watched.wait()
        for prompt in ("a" * 9000, "b" * 400, "c" * 400):
            nursery.start_soon(hold, server.port, prompt)
            await trio.sleep(0.1)  # one after the other


async def test_keys_alone_cancel_and_send() -> None:
    def visit(port: int) -> None:
        with visiting(port) as seen:
            page = seen.page
            cancel = page.get_by_role("button", name=re.compile("^Cancel chat "))
            expect(cancel).to_have_count(1)
            reach(seen, "document.activeElement.textContent === 'Cancel'")
            page.keyboard.press("Enter")
            expect(seen.find("note")).to_have_text(re.compile("^chat [0-9a-f]{6} was cancelled.$"))
            expect(seen.rows().first).to_contain_text("cancelled in prefill")
            expect(seen.rows().first).to_contain_text("the operator cancelled it")
            expect(seen.find("view")).to_be_focused()
            reach(seen, "document.activeElement.id === 'prompt'")
            page.keyboard.type("Hello")
            reach(seen, "document.activeElement.id === 'send'")
            page.keyboard.press("Enter")
            expect(seen.find("talk")).to_contain_text("Simulated answers have")
            expect(seen.find("talk")).to_have_attribute("aria-busy", "false")
            expect(seen.find("talk")).to_contain_text("stop")
            page.keyboard.type("And again")
            page.keyboard.press("Enter")
            expect(page.locator(".said.model")).to_have_count(2)

    bodies = []

    async def client(port: int) -> None:
        bodies.append(await hold(port, "a" * 40_000))

    async with serving(slow_engine()) as server, trio.open_nursery() as nursery:
        nursery.start_soon(client, server.port)
        await look(partial(visit, server.port))
    assert "error" in check_chat_stream(bodies[0])[0]


def reach(seen: Visit, where: str) -> None:
    """Press Tab until the focus is there; never more often than there are things to reach."""
    for _ in range(60):
        if seen.page.evaluate(where):
            return
        seen.page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {where}")


async def test_the_chat_shows_reasoning_calls_and_errors() -> None:
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    answers = iter([f"<think>Which city?</think>I look. {call}", "It is sunny.", "On and on. " * 400])

    def visit(port: int) -> None:
        with visiting(port) as seen:
            page, talk = seen.page, seen.find("talk")
            page.get_by_label("offer it a tool").check()
            page.get_by_role("textbox", name="Message").fill("The weather in Paris?")
            page.get_by_role("button", name="Send").click()
            expect(talk.locator(".call")).to_have_text('get_weather({"city": "Paris"})')
            expect(talk).to_contain_text("I look.")
            expect(talk).to_contain_text("tool_calls")
            expect(talk).to_contain_text("goes along with your next message")
            thought = talk.locator("details .text")
            expect(thought).to_be_hidden()
            talk.get_by_text("reasoning").click()
            expect(thought).to_have_text("Which city?")
            page.get_by_role("textbox", name="Message").fill("And?")
            page.get_by_role("button", name="Send").click()
            expect(talk).to_contain_text("It is sunny.")
            page.get_by_role("textbox", name="Message").fill("Go on")
            page.get_by_role("button", name="Send").click()
            expect(talk).to_contain_text("On and on.")
            page.get_by_role("button", name="Stop").click()
            expect(talk).to_contain_text("stopped")
            expect(seen.rows().first).to_contain_text("the client has gone")
            page.get_by_role("button", name="Start over").click()
            expect(talk).to_be_hidden()
            # What was stopped is a request that "failed" in the browser's words.
            assert [problem for problem in seen.problems if "/v1/chat/completions" in problem] == seen.problems
            seen.problems.clear()

    engine = SimulatedEngine(decode_tps=50, answer=lambda _: next(answers))
    async with serving(engine, chat_template=str(TEMPLATE)) as server:
        await look(partial(visit, server.port))


async def test_the_page_waits_for_a_server_that_is_gone() -> None:
    first_ready, gone, again, left = (trio.Event() for _ in range(4))

    def visit(port: int) -> None:
        with visiting(port) as seen:
            expect(seen.find("state")).to_have_text("ready")
            seen.page.get_by_role("textbox", name="Message").fill("half a thought")
            trio.from_thread.run_sync(first_ready.set)
            banner = seen.page.get_by_role("alert").filter(has_text="tries again every second")
            expect(banner).to_be_visible(timeout=20_000)
            expect(seen.find("state")).to_have_text("not reachable")
            trio.from_thread.run_sync(gone.set)
            expect(banner).to_be_hidden(timeout=60_000)
            expect(seen.find("state")).to_have_text("ready")
            expect(seen.page.get_by_role("textbox", name="Message")).to_have_value("half a thought")
            trio.from_thread.run_sync(again.set)
            expect(seen.rows()).to_have_count(1)
            assert {re.sub(" http.*", "", problem) for problem in seen.problems} <= {REFUSED, "failed: GET"}
            seen.problems.clear()

    async def watch(port: int) -> None:
        await look(partial(visit, port))
        left.set()

    async with trio.open_nursery() as nursery:
        async with run_server("--engine", "simulated") as server:
            port = server.port
            nursery.start_soon(watch, port)
            await first_ready.wait()
        await gone.wait()
        async with run_server("--engine", "simulated", "--port", str(port)):
            await again.wait()
            await hold(port, "hi")
            await left.wait()


async def test_a_server_with_keys_asks_for_one_and_it_stays_in_the_tab() -> None:
    stored = "() => [{...sessionStorage}, {...localStorage}, document.cookie]"

    def visit(port: int) -> None:
        with visiting(port) as seen:
            page = seen.page
            expect(seen.find("key-form")).to_be_visible()
            expect(seen.find("key")).to_be_focused()
            page.keyboard.type("wrong")
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert").filter(has_text="does not know this key")).to_be_visible()
            assert seen.problems == ["error: Failed to load resource: the server responded with a status of 401 ()"]
            seen.problems.clear()
            page.get_by_label("This server wants an API key").fill("secret-o")
            page.get_by_role("button", name="Use it").click()
            expect(seen.find("state")).to_have_text("ready")
            expect(seen.find("key-form")).to_be_hidden()
            page.get_by_role("textbox", name="Message").fill("Hello")
            page.keyboard.press("Enter")
            expect(seen.find("talk")).to_contain_text("Simulated answers")
            expect(seen.find("talk")).to_have_attribute("aria-busy", "false")
            page.reload()
            expect(seen.find("state")).to_have_text("ready")
            expect(seen.find("talk")).to_be_hidden()
            assert page.evaluate(stored) == [{"ds4trio key": "secret-o"}, {}, ""]
            page.get_by_role("button", name="Forget the key").click()
            expect(seen.find("key-form")).to_be_visible()
            assert page.evaluate(stored) == [{}, {}, ""]
            seen.problems[:] = [
                problem for problem in seen.problems if not problem.startswith("failed: GET")
            ]  # reloads

    async with serving(SimulatedEngine(decode_tps=1000), api_key=("operator:secret-o",)) as server:
        await look(partial(visit, server.port))


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_all_is_named_and_can_be_read(scheme: Any) -> None:
    def visit(port: int) -> None:
        with visiting(port, scheme=scheme) as seen:
            page = seen.page
            expect(seen.rows()).to_have_count(4)
            expect(seen.rows().first).to_contain_text("prefill")
            page.get_by_role("textbox", name="Message").fill("Hello")
            page.keyboard.press("Enter")
            expect(seen.find("errors")).to_contain_text("400")
            for filter in ("cancelled or failed", "all"):
                page.get_by_role("radio", name=filter).check()
            page.wait_for_timeout(600)
            assert seen.too_faint() == []
            tree = page.locator("body").aria_snapshot()
            for named in (
                '- heading "Requests" [level=2]', '- table "Requests"', "- columnheader", "- progressbar",
                'img "queued ',
                '- radio "all', '- button "Cancel chat', '- textbox "Message"', '- button "Send"',
                '- log "Conversation"', 'img "131,072 cells', "- status: ready",
            ):  # fmt: skip
                assert named in tree, tree
            assert not re.search(
                r"- (button|textbox|checkbox|radio|link|table|region|progressbar|img)(:|$)", tree, re.M
            ), tree
            seen.keep(f"simulated-{scheme}")

    async with serving(slow_engine()) as server, trio.open_nursery() as nursery:
        async with open_client(server.port, {"messages": "nonsense"}) as client:
            await client.read_all()
        for number in range(4):
            nursery.start_soon(hold, server.port, f"{number}" * 40_000)
        await look(partial(visit, server.port))
        nursery.cancel_scope.cancel()


async def test_nothing_runs_that_is_not_the_page_s_own() -> None:
    agent = "<script>window.bad = 1</script><img src=x onerror='window.bad = 1'>"
    inject = """() => [
      () => { document.body.innerHTML = "<img src=x onerror='window.bad = 1'>"; },
      () => { document.createElement("img").setAttribute("onerror", "window.bad = 1"); },
      () => { document.createElement("script").text = "window.bad = 1"; },
      () => { document.body.setAttribute("style", "display: none"); },
    ].map(attempt => { try { attempt(); return ""; } catch (error) { return error.message; } })"""

    def visit(port: int) -> None:
        with visiting(port) as seen:
            expect(seen.rows().first).to_contain_text(agent)
            assert seen.problems == []
            *refused, style = seen.page.evaluate(inject)
            assert all("Trusted" in message for message in refused), refused
            assert style == ""
            expect(seen.find("state")).to_be_visible()
            assert seen.page.evaluate("() => window.bad") is None
            assert len(seen.problems) == 4, seen.problems
            assert "inline style" in seen.problems[-1]
            seen.problems.clear()

    async with serving(slow_engine()) as server:
        await hold(server.port, "hi", agent)
        await look(partial(visit, server.port))


async def test_500_requests_are_all_there_and_the_page_stays_fluid() -> None:
    """All can be reached, few exist at a time, nothing is lost when they go, and nothing holds the page."""
    crowd, go = 500, trio.Event()

    def visit(port: int) -> None:
        with visiting(port) as seen:
            page = seen.page
            expect(seen.find("state")).to_have_text("ready")
            seen.longest_task()
            trio.from_thread.run_sync(go.set)
            expect(seen.find("filter")).to_contain_text(f"all {crowd}")
            expect(seen.find("filter")).to_contain_text(f"queued {crowd - 4}")
            expect(seen.find("waiting")).to_have_text(str(crowd - 4))
            expect(seen.find("view")).to_have_attribute("aria-rowcount", str(crowd + 1))
            found: set[str] = set()
            for _ in range(200):
                ids = seen.rows().evaluate_all("rows => rows.map(row => row.dataset.id)")
                assert len(ids) <= 40
                found.update(ids)
                at_end = page.evaluate(
                    "() => { const v = document.getElementById('view'), was = v.scrollTop; v.scrollTop += 300;"
                    " return v.scrollTop === was; }"
                )
                if at_end:
                    break
                page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            assert len(found) == crowd
            seen.keep("simulated-500")
            assert page.evaluate("() => document.querySelectorAll('*').length") < 2000
            trio.from_thread.run_sync(leave.cancel)
            expect(seen.find("ended")).to_have_text(str(crowd))
            expect(seen.find("outcomes")).to_have_text(f"{crowd} cancelled")
            expect(seen.find("older")).to_have_text(
                f"{crowd} have ended since the server was started; the last 100 are listed."
            )
            expect(seen.find("filter")).to_contain_text("all 100")
            longest = seen.longest_task()
            assert longest <= 200, f"{longest} ms"

    leave = trio.CancelScope()
    flags = ("--engine", "simulated", "--max-queue", "600", "--prefill-tps", "100")
    async with run_server(*flags) as server, trio.open_nursery() as nursery:
        nursery.start_soon(look, partial(visit, server.port))
        await go.wait()
        with leave:
            async with trio.open_nursery() as clients:
                for number in range(crowd):
                    clients.start_soon(hold, server.port, f"{number} {fresh_prompt(2000)}")
