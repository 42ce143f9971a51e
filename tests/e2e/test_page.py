"""The page in a real browser, with a real server process and the real model behind it."""

import re
from functools import partial
from typing import Any

import pytest
import trio
from playwright.sync_api import Locator, ViewportSize, expect

from ds4trio.testing import ServerProcess, StreamClient, chat_body, fresh_prompt, open_client, run_server
from tests.browser import Visit, needs_chromium, visiting
from tests.grammars.chat import check_chat_stream

pytestmark = [pytest.mark.slow, needs_chromium, pytest.mark.timeout(600)]

LONG = 5000
"""Tokens of a prefill that is looked at from all sides: half a minute on two cores that are free."""


class Crowd:
    """The agents that the page is to show. ``long`` is the one that is cancelled there."""

    def __init__(self, server: ServerProcess, nursery: trio.Nursery) -> None:
        self.server = server
        self.nursery = nursery
        self.long: StreamClient

    async def come(self) -> str:
        """A refused one, a complete one, the long one, whose id is returned, one that decodes and one that waits."""
        async with open_client(self.server.port, {"messages": "nonsense"}) as refused:
            await refused.read_all()
        beginning = fresh_prompt(100)
        await self.ask(beginning, max_tokens=8)
        self.long = await self.nursery.start(partial(self.ask, f"Monday {fresh_prompt(LONG)}"))
        await self.nursery.start(partial(self.ask, beginning + " and", ignore_eos=True))
        await self.nursery.start(partial(self.ask, fresh_prompt(60), max_tokens=5))
        return self.long.headers["x-request-id"]

    async def ask(
        self, prompt: str, *, task_status: trio.TaskStatus[StreamClient] = trio.TASK_STATUS_IGNORED, **members: Any
    ) -> None:
        headers = {"user-agent": "agent/1.0"}
        async with open_client(self.server.port, chat_body(prompt, **members), headers=headers) as client:
            await client.read()
            task_status.started(client)
            await client.read_all()


async def test_a_real_prefill_is_watched_and_cancelled_on_the_page() -> None:
    # A small model may go on and on.
    flags = ("--heartbeat-interval", "3", "--parallel", "2", "--max-output-tokens", "120")
    async with run_server(*flags) as server, trio.open_nursery() as nursery:
        crowd = Crowd(server, nursery)
        await trio.to_thread.run_sync(visit, server.port, crowd)
    assert "error" in check_chat_stream(crowd.long.body)[0]
    assert re.search(r"cancelled in prefill .*: the operator cancelled it", server.log_text)


def visit(port: int, crowd: Crowd) -> None:
    with visiting(port) as seen:
        talk(seen)
        id = trio.from_thread.run(crowd.come)
        row = seen.page.locator(f'[data-id="{id}"]')
        expect(row).to_contain_text("2 beats")
        done = [progressed(row, 0)]
        for scheme, width in (("light", 1280), ("dark", 1280), ("light", 420)):
            seen.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            seen.page.set_viewport_size(ViewportSize(width=width, height=1000))
            done.append(progressed(row, done[-1]))
            assert seen.too_faint() == []
            assert seen.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), "too wide"
            seen.keep(f"real-{scheme}-{width}")
        assert 0 < done[0] < done[1] < done[2] < done[3] < LONG
        seen.page.set_viewport_size(ViewportSize(width=1280, height=1000))
        name = f"chat {id[-6:]}"
        seen.page.get_by_role("button", name=f"Cancel {name}").click()
        expect(row).to_contain_text("cancelled in prefill")
        expect(row).to_contain_text("the operator cancelled it")
        expect(row.locator("path.end.bad")).to_have_attribute("d", re.compile("^M"))
        expect(row.get_by_role("button")).to_have_count(0)
        expect(seen.find("note")).to_have_text(f"{name} was cancelled.")
        expect(seen.find("outcomes")).to_contain_text("1 cancelled")
        seen.keep("real-cancelled")


def talk(seen: Visit) -> None:
    """The chat box brings an answer of the real model."""
    seen.page.get_by_role("textbox", name="Message").fill("What is the capital of France?")
    seen.page.keyboard.press("Enter")
    expect(seen.page.locator(".said.model > small").last).to_contain_text(re.compile("stop|length"), timeout=120_000)
    expect(seen.find("talk")).to_have_attribute("aria-busy", "false")
    assert len(seen.page.locator(".said.model > .text").inner_text()) > 10


def progressed(row: Locator, than: int) -> int:
    """Wait until the bar shows more tokens of prefill than that, and the rate and the time that is left."""
    bar = row.get_by_role("progressbar")
    expect(bar).not_to_have_attribute("aria-valuenow", str(than))
    expect(bar).to_have_attribute("aria-valuetext", re.compile(r"^prefill [\d,]+ / \d,\d\d\d, \d+ t/s, .+ left$"))
    return int(bar.get_attribute("aria-valuenow") or 0)
