"""The trace: what it holds, that nobody waits for it, and that it can be read after a kill -9."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from click.testing import CliRunner
from trio.testing import MockClock

from ds4trio.cli import main
from ds4trio.config import ConfigError, Settings
from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.server.app import build_app
from ds4trio.server.monitor.trace import TraceFile
from ds4trio.testing import call_asgi, chat_body, open_client, run_server

KEY = "sentinel-of-a-key"
PROMPT = "a" * 4000  # a bit more than 1,000 tokens


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def show(path: Path, *options: str) -> str:
    result = CliRunner().invoke(main, ["trace", "show", str(path), *options])
    assert result.exit_code == 0, result.output
    return result.output


async def traced(path: Path, bodies: Sequence[dict[str, Any]], *, leave_after: float | None = None) -> None:
    """Ask a server under virtual time; the last client leaves after some seconds."""
    engine = SimulatedEngine(parallel=1, prefill_tps=100, decode_tps=10, chunk=100, answer_tokens=20)
    app = build_app(Settings(engine="simulated", trace=str(path), api_key=(f"me:{KEY}",)), engine=engine)
    async with app.test_app():
        await app.host.settled.wait()
        for number, body in enumerate(bodies, 1):
            headers = {"authorization": f"Bearer {KEY}", "user-agent": "agent/1"}
            async with call_asgi(app, body, headers=headers) as call:
                if leave_after is not None and number == len(bodies):
                    await trio.sleep(leave_after)
                else:
                    await call.ended.wait()


async def test_it_holds_all_of_a_request(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "trace.jsonl"
    await traced(path, [chat_body(PROMPT), chat_body(f"{PROMPT[:3000]}b")])
    server, *rest = events(path)
    assert (server["event"], server["settings"]["trace"]) == ("server", str(path))
    first, second = (
        [event for event in rest if event["request"] == id] for id in dict.fromkeys(e["request"] for e in rest)
    )
    told = {event["event"]: event for event in first}
    assert list(dict.fromkeys(event["event"] for event in first)) == [
        "arrived", "prompt", "sent", "cache", "progress", "output", "finished", "parsed", "end",
    ]  # fmt: skip
    assert (told["arrived"]["client"], told["arrived"]["protocol"]) == ("agent/1", "chat")
    assert told["prompt"]["text"] == f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    assert told["prompt"]["tokens"] == told["end"]["prompt_tokens"]
    assert (told["cache"]["cached_tokens"], told["cache"]["divergence"]) == (0, None)
    raw = "".join(event["text"] for event in first if event["event"] == "output")
    assert raw.startswith("Simulated answers")
    assert told["parsed"]["parts"] == [{"content": raw}]
    beats = [event for event in first if event["event"] == "sent" and event["beat"]]
    assert len(beats) == told["end"]["heartbeats"] == 2
    sent = "".join(event["text"] for event in first if event["event"] == "sent")
    assert sent.endswith("data: [DONE]\n\n")
    assert (told["finished"]["reason"], told["end"]["outcome"]) == ("stop", "stop")
    (cache,) = [event for event in second if event["event"] == "cache"]
    assert cache["cached_tokens"] > 700
    assert "sentinel" not in path.read_text()


async def test_a_client_that_leaves_has_an_end_and_what_was_understood(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "trace.jsonl"
    await traced(path, [chat_body("hi")], leave_after=1.05)
    told = {event["event"]: event for event in events(path)}
    assert (told["cancelled"]["cause"], told["cancelled"]["phase"]) == ("the client has gone", "decode")
    assert told["parsed"]["parts"][0]["content"].startswith("Simulated answers")
    assert told["end"]["outcome"] == "cancelled"


async def test_what_is_refused_is_there_with_its_message(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "trace.jsonl"
    await traced(path, [{"messages": [{"role": "nobody", "content": "x"}]}])
    refused = events(path)[1]
    assert (refused["event"], refused["status"], refused["path"]) == ("refused", 400, "/v1/chat/completions")
    assert "nobody" in refused["message"]
    assert "refused: 400" in show(path)


async def test_only_its_owner_reads_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"time": 1, "event": "server"}\n')
    path.chmod(0o644)
    await traced(path, [chat_body("hi")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert events(path)[0]["time"] == 1, "what was there is kept"
    with pytest.raises(ConfigError, match="Is a directory"):
        TraceFile(tmp_path)
    with pytest.raises(ConfigError, match="regular"):
        TraceFile(Path("/dev/null"))


async def test_what_does_not_fit_is_counted_and_nobody_waits(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    file = TraceFile(path, most_queued_bytes=10_000)
    for number in range(100):
        file.put("output", {"request": "req_1", "text": f"{number}"}, size=900)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.run, {})
        while not path.stat().st_size:  # noqa: ASYNC110 - a thread writes
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    told = events(path)
    kept = [event["text"] for event in told if event["event"] == "output"]
    (lost,) = [event["events"] for event in told if event["event"] == "lost"]
    assert kept == [str(number) for number in range(len(kept))]
    assert len(kept) + lost - sum(event["event"] == "server" for event in told) in (99, 100)
    assert len(kept) < 10


async def test_what_comes_while_it_closes_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace.jsonl"
    file = TraceFile(path)
    write = os.write

    def late(descriptor: int, data: bytes) -> int:
        if not path.stat().st_size:
            trio.from_thread.run_sync(nursery.cancel_scope.cancel)
            closing.wait(10)
            file.put("output", {"request": "req_1", "text": "late"})
        return write(descriptor, data)

    closing = threading.Event()
    monkeypatch.setattr("ds4trio.server.monitor.trace.os.write", late)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.run, {})
        with trio.CancelScope(shield=True):
            while not nursery.cancel_scope.cancel_called:  # noqa: ASYNC110 - a thread cancels
                await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked()
            closing.set()
    assert [(event["event"], event.get("events")) for event in events(path)] == [("server", None), ("lost", 1)]


async def test_cancelled_at_once_it_writes_what_is_queued_and_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    before = open_files()
    file = TraceFile(path)
    assert open_files() == before + 1
    with trio.CancelScope() as scope:
        scope.cancel()
        await file.run({})
    assert open_files() == before
    assert [event["event"] for event in events(path)] == ["server"]


async def test_what_a_failed_write_lost_is_told_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace.jsonl"
    file = TraceFile(path)
    write, failures = os.write, [OSError(28, "No space left on device")]

    def full_once(descriptor: int, data: bytes) -> int:
        if failures:
            raise failures.pop()
        return write(descriptor, data)

    monkeypatch.setattr("ds4trio.server.monitor.trace.os.write", full_once)
    with trio.CancelScope() as scope:
        scope.cancel()
        await file.run({})
    (lost,) = [json.loads(line) for line in path.read_text().split("\n") if line]
    assert (lost["event"], lost["events"]) == ("lost", 1)


async def test_a_disk_that_is_full_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from ds4trio.cli import main; main()"
    )
    path = tmp_path / "trace.jsonl"
    command = (sys.executable, "-c", code, "serve", "--port", "0", "--engine", "simulated", "--trace", str(path))
    with trio.fail_after(60):
        async with run_server(command=command) as server:
            for _ in range(3):
                async with open_client(server.port, chat_body("x" * 4000, max_tokens=3)) as client:
                    assert (await client.read_all()).endswith(b"[DONE]\n\n")
            await server.wait_log("writing the trace fails, going on without it: File too large")
    assert server.log_text.count("writing the trace fails") == 1
    assert "left out 1 line that is not whole" in CliRunner().invoke(main, ["trace", "show", str(path)]).output


async def test_a_kill_costs_the_last_line_at_most(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    flags = ("--engine", "simulated", "--decode-tps", "200", "--trace", str(path))
    with trio.fail_after(60):
        async with run_server(*flags) as server:
            assert "all prompts and answers are written to" in server.log_text
            async with open_client(server.port, chat_body("hello", max_tokens=1000)) as client:
                await client.read_until(b"words")
                os.kill(server.pid, signal.SIGKILL)
                await server.process.wait()
        *_, whole = path.read_bytes().splitlines(keepends=True)
        with path.open("ab") as file:
            file.write(whole[:20])  # what a write that was cut off leaves
        async with (
            run_server(*flags) as server,
            open_client(server.port, chat_body("again", max_tokens=3)) as client,
        ):
            await client.read_all()
    listing = show(path)
    first, second = [line for line in listing.splitlines() if line.startswith("req_")]
    assert first.endswith("none in this file")
    assert second.endswith("length")
    assert "left out 1 line that is not whole" in listing


async def test_show_lists_requests_and_tells_one_as_a_time_line(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "trace.jsonl"
    await traced(path, [chat_body(PROMPT), chat_body("say \x1b[31mred")], leave_after=1.05)
    header, first, second = show(path).splitlines()
    assert header.split() == ["ID", "ARRIVED", "PROTOCOL", "CLIENT", "PROMPT", "CACHED", "OUTPUT", "SECONDS", "END"]
    assert first.endswith("stop")
    assert second.endswith("cancelled: the client has gone")
    id = second.split()[0]
    told = show(path, "--request", id[:12])
    assert "| say  [31mred<|im_end|>" in told
    assert "\x1b" not in told
    assert "output    " in told
    assert "| Simulated answers have" in told
    assert "| content: Simulated answers have" in told
    assert "cause the client has gone" in told
    listed = [json.loads(line) for line in show(path, "--json").splitlines()]
    assert [request["outcome"] for request in listed] == ["stop", "cancelled"]
    one = [json.loads(line) for line in show(path, "--json", "--request", id).splitlines()]
    assert one == [event for event in events(path) if event.get("request") == id]
    nobody = CliRunner().invoke(main, ["trace", "show", str(path), "--request", "nobody"])
    assert nobody.exit_code == 1
    assert "is the id of no request" in nobody.output


def test_a_trace_from_a_stranger_steers_no_terminal_and_breaks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    red = "\x1b[31mred"
    good = [
        {"time": 1.0, "event": "arrived", "request": f"req_{red}", red: {red: red}, "client": red},
        {"time": 1.0, "event": "prompt", "request": f"req_{red}", "tokens": ["a"], "parts": ["a", {red: red}]},
        {"time": 2.0, "event": "output", "request": f"req_{red}", "tokens": 3, "text": None},
        {"time": 3.0, "event": "sent", "request": f"req_{red}", "text": None},
    ]
    bad: list[object] = [
        {"time": 1.0, "event": "arrived", "request": ["a"]},
        {"time": 1e300, "event": "arrived", "request": "req_1"},
        {"time": float("nan"), "event": "arrived", "request": "req_1"},
        {"time": 1.0, "event": ["arrived"], "request": "req_1"},
        {"time": 1.0, "event": "end", "request": "req_1", "seconds": "a"},
        {"time": 1.0, "event": "output", "request": "req_1", "choice": "a"},
        ["a"],
    ]
    path.write_text("\n".join(json.dumps(line) for line in (*good, *bad)) + "\n" + "[" * 100_000)
    listing = show(path)
    told = show(path, "--request", red[0])
    assert "left out 8 lines that are not whole" in listing
    assert "red" in listing
    assert told.count("[31mred") == 7
    assert "\x1b" not in listing + told + show(path, "--json") + show(path, "--json", "--request", red[0])


def test_a_file_that_is_no_trace_says_so(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("milk\n{}\n")
    result = CliRunner().invoke(main, ["trace", "show", str(path)])
    assert (result.exit_code, result.output) == (1, f"Error: {path} is no trace: none of its lines is an event\n")
    path.write_text("")
    assert show(path) == "no requests\n"


def test_a_trace_may_come_through_a_pipe(tmp_path: Path) -> None:
    events = "".join(
        json.dumps({"time": 1.0, "event": "arrived", "request": f"req_{n:06}"}) + "\n" for n in range(3000)
    )
    command = [sys.executable, "-m", "ds4trio", "trace", "show", "/dev/stdin"]
    listing = subprocess.run(command, input=events, capture_output=True, text=True, timeout=60, check=True).stdout
    assert listing.count("req_") == 3000


def test_a_trace_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ds4trio",
        "serve",
        "--engine",
        "simulated",
        "--trace",
        str(tmp_path / "no" / "file"),
    ]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 1
    assert "No such file or directory; give a file that can be written" in told.stderr
    assert "Traceback" not in told.stderr
