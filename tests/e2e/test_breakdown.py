"""Servers that break down: a thread that is stuck in C, a process that is killed, and who starts it again."""

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

from ds4trio.server.serve import UNUSABLE_MODEL_STATUS
from ds4trio.server.wedge import WEDGED_STATUS
from ds4trio.testing import ServerProcess, StreamClient, chat_body, open_client, run_server

pytestmark = pytest.mark.slow

# A server whose decoding does not come back for as long as there is a file.
STUCK = """
import os, sys, time
import llama_cpp
decode = llama_cpp.llama_decode
def stuck(*arguments):
    while os.path.exists(os.environ["STUCK"]):
        time.sleep(0.01)
    return decode(*arguments)
llama_cpp.llama_decode = stuck
from ds4trio.cli import main
main()
"""
COMMAND = (sys.executable, "-c", STUCK, "serve", "--port", "0", "--no-kv-disk", "--shutdown-grace", "1")


async def get(server: ServerProcess, path: str) -> StreamClient:
    async with open_client(server.port, method="GET", path=path) as client:
        await client.read_all()
    return client


async def ask(server: ServerProcess, **members: Any) -> StreamClient:
    async with open_client(server.port, chat_body("Say hello.", max_tokens=4, **members)) as client:
        await client.read_all()
    return client


async def test_a_step_that_does_not_come_back(tmp_path: Path) -> None:
    stuck = tmp_path / "stuck"
    flags = ("--wedge-timeout", "3", "--heartbeat-interval", "1")
    async with run_server(*flags, command=COMMAND, environment={"STUCK": str(stuck)}) as server:
        await ask(server)
        stuck.touch()
        async with open_client(server.port, chat_body("Say hello.", max_tokens=4)) as stream:
            await stream.read()
            document = await ask(server, stream=False)
            await stream.read_all()
        assert stream.status == 200
        assert b"engine_wedged" in stream.body
        assert b"\n: " in stream.body, "it was not silent before"
        assert document.status in {500, 503}
        health = await get(server, "/health")
        assert (health.status, b'"wedged"' in health.body) == (503, True)
        refused = await ask(server)
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) > 0
        assert "prefill" in (await server.wait_log("no step has come back for")).text
        stuck.unlink()
        await server.wait_log("the step has come back")
        assert (await get(server, "/health")).status == 200
        assert (await ask(server)).body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("told", [False, True], ids=["after twice the time", "when it is told to stop"])
async def test_it_leaves_a_thread_that_is_stuck(tmp_path: Path, told: bool) -> None:
    stuck = tmp_path / "stuck"
    timeout = "600" if told else "2"
    async with run_server("--wedge-timeout", timeout, command=COMMAND, environment={"STUCK": str(stuck)}) as server:
        stuck.touch()
        async with open_client(server.port, chat_body("Say hello.")) as client:
            await client.read()
            if told:
                server.process.send_signal(signal.SIGTERM)
            with trio.fail_after(20):
                assert await server.process.wait() == WEDGED_STATUS
        assert "Traceback" not in server.log_text


async def test_it_can_be_stopped_while_it_loads() -> None:
    ready = re.compile(r"listening on http://[\d.]+:(\d+)")
    async with run_server("--no-kv-disk", ready=ready) as server:
        server.process.send_signal(signal.SIGTERM)
        with trio.fail_after(30):
            assert await server.process.wait() == 0


async def test_ctrl_c_before_it_has_begun_tells_no_story() -> None:
    # The signal comes while the command line is being imported. What runs in a shell's background ignores it at first.
    code = "import os, sys, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "sys.meta_path.insert(0, type('T', (), {'find_spec': lambda self, name, *_: "
    code += "os.kill(os.getpid(), signal.SIGINT) if name == 'ds4trio.config' else None})()); "
    code += "from ds4trio.__main__ import run; run()"
    told = await trio.run_process([sys.executable, "-c", code], check=False, capture_stderr=True)
    assert (told.returncode, told.stderr) == (130, b"")


def child_of(server: ServerProcess) -> int:
    # Each thread has its own, and it is not the first one that starts processes.
    lists = Path(f"/proc/{server.pid}/task").glob("*/children")
    children = " ".join(each.read_text() for each in lists).split()
    assert len(children) == 1
    return int(children[0])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read from /proc")
async def test_a_supervised_server_is_started_again_and_its_port_stays_open() -> None:
    async with run_server("--supervise", "--no-kv-disk") as server:
        await ask(server)
        first = child_of(server)
        async with open_client(server.port, chat_body("Tell me a long story.", ignore_eos=True)) as client:
            await client.wait_for_token()
            os.kill(first, signal.SIGKILL)
            with pytest.raises((h11.RemoteProtocolError, trio.BrokenResourceError)):
                await client.read_all()
        # Nobody is refused: who comes now waits, hears that the model is being loaded, or is answered.
        statuses = [(await get(server, "/health")).status]
        while statuses[-1] != 200:
            assert statuses[-1] == 503
            statuses.append((await get(server, "/health")).status)
        assert (await ask(server)).body.endswith(b"data: [DONE]\n\n")
        assert child_of(server) != first
        await server.wait_log("ended with status -9: started again")
        server.process.send_signal(signal.SIGTERM)
        with trio.fail_after(20):
            assert await server.process.wait() == 0


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read from /proc")
async def test_a_supervisor_gives_up_on_a_server_that_fails_again_and_again() -> None:
    async with run_server("--supervise", "--engine", "simulated") as server:
        seen = 0
        for _ in range(5):
            os.kill(child_of(server), signal.SIGKILL)
            await server.wait_log("ended with status -9|5 times in a row", after=seen)
            seen = len(server.log)
            if server.process.returncode is None and "in a row" not in server.log_text:
                await server.wait_log("serves simulated", after=seen)
        with trio.fail_after(20):
            assert await server.process.wait() == 128 + signal.SIGKILL
        assert "failed 5 times in a row" in server.log_text


async def test_a_supervisor_does_not_start_again_what_never_worked(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF is not all")
    command = [sys.executable, "-m", "ds4trio", "serve", "--supervise", "--port", "0", "--model", str(broken)]
    with trio.fail_after(60):
        told = await trio.run_process(command, check=False, capture_stderr=True)
    assert told.returncode == UNUSABLE_MODEL_STATUS
    assert b"cannot load" in told.stderr
    assert b"again" not in told.stderr
    assert b"Traceback" not in told.stderr
