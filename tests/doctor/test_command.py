"""``ds4trio doctor`` as a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import trio

from ds4trio.testing import run_server


async def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "ds4trio", "doctor", *arguments]
    return await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, check=False, env={**os.environ, **environment}
    )


async def test_the_demo_model_on_this_machine(tmp_path: Path) -> None:
    done = await run("--port", "0", "--kv-disk-dir", str(tmp_path), DS4TRIO_KV_DISK="true")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.decode().splitlines()
    checks = ["python", "llama.cpp", "compiler", "threads", "model", "memory", "context", "template", "tools", "disk"]
    assert [line.split()[1] for line in lines][:10] == checks
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}
    assert not os.listdir(tmp_path)  # noqa: PTH208 - a moment


async def test_a_problem_is_exit_status_1_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    done = await run("--json", "--port", "0", "--model", str(path))
    assert done.returncode == 1
    findings = json.loads(done.stdout)
    assert all(set(finding) == {"check", "status", "says", "fix"} for finding in findings)
    problems = [finding for finding in findings if finding["status"] == "problem"]
    assert [finding["check"] for finding in problems] == ["load"]
    assert problems[0]["fix"]
    assert all(finding["fix"] for finding in findings if finding["status"] != "ok")


async def test_a_setting_that_cannot_be_used_is_one_line() -> None:
    done = await run("--model", "nowhere.gguf")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"Error: model = 'nowhere.gguf': no such file; give the path of a GGUF file\n"


async def test_who_answers() -> None:
    async with run_server("--engine", "simulated", "--served-model-name", "local", "--api-key", "k") as server:
        url = f"http://127.0.0.1:{server.port}"
        taken = await run("--engine", "simulated", "--port", str(server.port), "--api-key", "me:k")
        named = await run("--engine", "simulated", "--url", url, "--api-key", "k")
    elsewhere = await run("--engine", "simulated", "--url", "http://127.0.0.1:9")
    assert f"warning  port       {url}: ds4trio " in taken.stdout.decode()
    assert "with local answers there" in taken.stdout.decode()
    assert "ok       server     ds4trio " in named.stdout.decode()
    assert named.returncode == 0
    assert "problem  server     no server answers at http://127.0.0.1:9" in elsewhere.stdout.decode()
    assert elsewhere.returncode == 1


async def test_a_port_that_is_taken_by_somebody_else() -> None:
    async def stranger(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"SSH-2.0\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, stranger, listeners)
        port = listeners[0].socket.getsockname()[1]
        done = await run("--engine", "simulated", "--port", str(port))
        nursery.cancel_scope.cancel()
    assert done.returncode == 1
    assert f"problem  port       http://127.0.0.1:{port}: Address already in use" in done.stdout.decode()
