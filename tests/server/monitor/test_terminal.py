"""Live bars on a pseudo-terminal: a real server, a terminal in memory, and what somebody would see."""

import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
import trio

from ds4trio.server.monitor.terminal import FLUSH_SECONDS, MOST_LINES, Terminal
from ds4trio.testing import chat_body, open_client, run_server
from tests.terminal_session import Session, open_session

SIMULATED = ("--engine", "simulated", "--prefill-tps", "400", "--decode-tps", "20", "--heartbeat-interval", "0.5")
LONG = "x" * 8000  # 2,000 tokens: five seconds
SUMMARY = re.compile(r"chat req_[0-9a-f]{24} (stop|length|cancelled|failed)")


def bars(session: Session) -> list[str]:
    """Lines of the live area."""
    return [line for line in session.screen.display if re.match(r"chat [0-9a-f]{8} ", line)]


async def test_a_request_has_a_bar_while_it_lives_and_a_line_when_it_has_ended() -> None:
    with trio.fail_after(40):
        async with open_session(*SIMULATED) as session:
            async with open_client(session.port, chat_body(LONG, max_tokens=40)) as client:
                await session.wait_for(
                    r"chat [0-9a-f]{8} .*━.* prefill \d+/20\d\d \(\d+\.\d%\) \d+ t/s eta \d+s .*♥ \d"
                )
                await client.read_until(b'"content":"Simulated')
                await session.wait_for(r"chat [0-9a-f]{8} .*━ decode \d+ tokens \d+\.\d t/s")
                await client.read_all()
            match = await session.wait_for(
                r"chat req_[0-9a-f]{24} length: computed=20\d\d cached=0 output=40 ttft=\d\.\d+s "
                r"silence=0\.\d+s (\d+\.\d) t/s total=\d+\.\d+s"
            )
            assert 5 < float(match[1]) < 21, "it decodes 20 tokens a second, on a machine that has the time"
            while bars(session):  # noqa: ASYNC110 - another process draws
                await trio.sleep(0.05)
            assert "prefill chunk" not in session.text, "the bar says that"
            assert session.text.count(match[0]) == 1


async def test_no_more_bars_than_are_of_use() -> None:
    with trio.fail_after(40):
        async with (
            open_session(*SIMULATED, "--parallel", "1", "--max-queue", "50") as session,
            trio.open_nursery() as crowd,
        ):

            async def wait(number: int) -> None:
                async with open_client(session.port, chat_body(f"{number} {LONG}")) as client:
                    await client.read_all()

            for number in range(20):
                crowd.start_soon(wait, number)
            await session.wait_for(r"… and 8 more: 1 run, 19 wait")
            assert len(bars(session)) == 12
            assert sum("queued" in bar for bar in bars(session)) == 11
            crowd.cancel_scope.cancel()


async def test_lines_are_neither_lost_nor_torn() -> None:
    with trio.fail_after(40):
        async with open_session(*SIMULATED, "--parallel", "64", "--batch", "128") as session:
            async with open_client(session.port, chat_body("x" * 80_000)) as slow, trio.open_nursery() as nursery:
                await slow.read_until(b"prefill")

                async def ask(number: int) -> None:
                    async with open_client(session.port, chat_body(f"{number} short", max_tokens=2)) as client:
                        await client.read_all()
                    ended.append(client.headers["x-request-id"])

                ended: list[str] = []
                for number in range(60):
                    nursery.start_soon(ask, number)
                while len(ended) < 60:  # noqa: ASYNC110 - sixty clients
                    await trio.sleep(0.05)
                await session.wait_for(r"━ prefill \d+/200")
                slow.reset()
            await session.wait_for("cancelled")
            session.process.send_signal(signal.SIGTERM)
            await session.process.wait()
        lines = session.lines
    for id in ended:
        (line,) = [line for line in lines if id in line]
        assert re.fullmatch(rf"\d\d:\d\d:\d\d chat {id} length: computed=.* total=\d+\.\d\ds", line), line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_however_it_ends_the_terminal_is_clean(number: signal.Signals) -> None:
    with trio.fail_after(40):
        async with (
            open_session(*SIMULATED, "--shutdown-grace", "0.5") as session,
            open_client(session.port, chat_body(LONG)),
        ):
            await session.wait_for(r"prefill \d+/20")
            session.process.send_signal(number)
            await session.process.wait()
        assert not session.screen.cursor.hidden
        if number is not signal.SIGKILL:
            assert session.process.returncode == 0
            assert not bars(session)
            assert "stopping within 0.5 s" in session.text
            assert SUMMARY.search(session.text)


async def test_nobody_waits_for_a_terminal_that_is_stopped() -> None:
    fast = ("--engine", "simulated", "--prefill-tps", "1e6", "--decode-tps", "1e6", "--shutdown-grace", "1")
    with trio.fail_after(60):
        async with open_session(*fast) as session:
            session.held = True
            for number in range(1000):  # more lines than the kernel keeps for a terminal
                async with open_client(session.port, chat_body(f"{number}", max_tokens=1)) as client:
                    await client.read_all()
                assert client.longest_silence < 2
            assert session.text.count("length:") < 500, "it was stopped all the time"
            session.process.send_signal(signal.SIGTERM)
            await session.process.wait()
            assert session.process.returncode == 0
            session.go_on()


async def test_the_line_at_the_end_names_the_cause() -> None:
    with trio.fail_after(40):
        async with open_session(*SIMULATED, "--max-request-seconds", "1") as session:
            async with open_client(session.port, chat_body(LONG)) as client:
                await client.read_all()
            await session.wait_for(r"chat req_[0-9a-f]{24} cancelled \(it took as long as a request may\): computed=")


async def test_bars_that_have_no_terminal_are_lines() -> None:
    async with run_server("--engine", "simulated", "--log-format", "rich") as server:
        await server.wait_log("needs a terminal")
        async with open_client(server.port, chat_body("hi", max_tokens=2)) as client:
            await client.read_all()
        await server.wait_log(r"chat req_[0-9a-f]{24} length: prompt=\d+ cached=0 output=2 first token")


LEAVE = """
import logging, os, sys
from ds4trio.server.monitor.terminal import Terminal
from ds4trio.server.wedge import _leave
terminal = Terminal()
logging.getLogger().addHandler(terminal.handler)
with terminal:
    for _ in range(int(sys.argv[1])):
        logging.warning("more than the kernel keeps for a terminal")
    _leave("the step has not come back", os._exit)
"""


@pytest.mark.parametrize("before", [0, 1000])
def test_a_process_that_leaves_shows_why_where_the_terminal_takes_it(before: int) -> None:
    master, slave = pty.openpty()
    try:
        with subprocess.Popen([sys.executable, "-c", LEAVE, str(before)], stderr=slave) as process:
            assert process.wait(30) == os.EX_SOFTWARE
        shown = os.read(master, 65536)
    finally:
        os.close(master)
        os.close(slave)
    # Nobody reads: so a thousand lines hold it up until it leaves without having said why.
    assert (b"the step has not come back: leaving, status 70" in shown) == (before == 0)


def test_of_what_a_stopped_terminal_takes_not_the_oldest_lines_are_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = Terminal()
    for number in range(MOST_LINES + 7):
        terminal.say(f"line {number}")
    with terminal:
        pass
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert (first, second, last) == ("7 lines left out", "line 7", f"line {MOST_LINES + 6}")


def test_nothing_is_kept_for_a_thread_that_has_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    terminal.say("a line")
    failures: list[object] = []
    monkeypatch.setattr("threading.excepthook", failures.append)
    with monkeypatch.context() as patched:
        patched.setattr(terminal, "_draw", lambda *_: 1 / 0)
        with terminal:
            began = time.monotonic()
            terminal.handler.flush()
    assert time.monotonic() - began < FLUSH_SECONDS, "nobody draws what it waits for"
    assert len(failures) == 1
    terminal.say("another one")
    assert not terminal._lines
