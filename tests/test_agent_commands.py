"""``ds4trio agent-config`` as a process, against a real server."""

import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import pytest
import trio

from ds4trio.agents import AGENTS, Target, dump
from ds4trio.testing import ServerProcess, run_server

KEY = "sk-local 'quoted' $HOME"


@pytest.fixture
async def server() -> AsyncGenerator[ServerProcess, None]:
    async with run_server("--engine", "simulated", "--served-model-name", "local", "--ctx", "65536") as process:
        yield process


@pytest.fixture
async def keyed() -> AsyncGenerator[ServerProcess, None]:
    async with run_server("--engine", "simulated", "--api-key", KEY) as process:
        yield process


async def run(*arguments: str, home: Path, answer: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    command = [sys.executable, "-m", "ds4trio", "agent-config", *arguments]
    done = await trio.run_process(
        command,
        stdin=answer.encode(),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env={**kept, "HOME": str(home), **environment},
    )
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def url(server: ServerProcess, path: str = "") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


async def test_each_agent_is_told_address_model_and_context(server: ServerProcess, tmp_path: Path) -> None:
    for agent in AGENTS:
        done = await run(agent.key, "--url", url(server, "/v1/"), home=tmp_path)
        assert done.returncode == 0, done.stderr
        target = Target(url=url(server), model="local", context=65_536)
        configuration = agent.configure(target, agent.protocols[0])
        for place, values in configuration.files.items():
            assert f"# {place}\n{dump(values, place.name)}" in done.stdout
        said = [shlex.split(line)[1] for line in done.stdout.splitlines() if line.startswith("export ")]
        assert said == [f"{name}={value}" for name, value in configuration.environment.items()]
        assert done.stdout.endswith(f"# start it with\n{agent.start.format(model='local')}\n")
    assert not os.listdir(tmp_path)  # noqa: PTH208 - a moment


async def test_what_is_written_has_all_of_it(keyed: ServerProcess, tmp_path: Path) -> None:
    for agent in AGENTS:
        home = tmp_path / agent.key
        home.mkdir()
        write = partial(run, agent.key, "--url", url(keyed), "--api-key", KEY, "--write", home=home)
        done = await write("--yes")
        assert done.returncode == 0, done.stderr
        lasting = agent.lasting(Target(url=url(keyed), model="simulated", context=131_072, api_key=KEY), "chat")
        if "chat" in agent.protocols:
            for place, values in lasting.files.items():
                assert place.path(home, {}).read_text() == dump(values, place.name)
        files = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
        assert files
        assert all(path.stat().st_mode & 0o077 == 0 for path in files)
        assert any(json.dumps(KEY).encode() in text or KEY.encode() in text for text in files.values())
        again = await write()
        assert again.stdout.count("has it already") == len(files)
        assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == files


async def test_the_diff_is_shown_and_no_is_no(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "codex" / "config.toml"
    path.parent.mkdir()
    path.write_text('model = "gpt-5"  # mine\n')
    ask = partial(run, "codex", "--url", url(server), "--write", home=tmp_path, CODEX_HOME=str(path.parent))
    no = await ask(answer="n\n")
    assert no.returncode == 1
    assert '-model = "gpt-5"  # mine\n' in no.stdout
    assert '+model = "local"' in no.stdout
    assert path.read_text() == 'model = "gpt-5"  # mine\n'
    yes = await ask(answer="y\n")
    assert yes.returncode == 0, yes.stderr
    assert tomllib.loads(path.read_text())["model"] == "local"
    assert path.with_name("config.toml.bak").read_text() == 'model = "gpt-5"  # mine\n'


async def test_a_file_that_others_read_is_closed_and_that_is_said(keyed: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text('model = "gpt-5"\n')
    path.chmod(0o644)
    done = await run("codex", "--url", url(keyed), "--api-key", KEY, "--write", "--yes", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{path} is open to others and gets a key: it becomes yours alone\n" in done.stdout
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_file_that_cannot_be_merged_is_left_alone(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_text("{ // mine\n}")
    done = await run("claude-code", "--url", url(server), "--write", "--yes", home=tmp_path)
    assert done.returncode == 1
    assert f"Error: {path}: it is no plain JSON" in done.stderr
    assert path.read_text() == "{ // mine\n}"


async def test_a_proxy_for_the_rest_of_the_world_is_not_asked(server: ServerProcess, tmp_path: Path) -> None:
    done = await run("codex", "--url", url(server), home=tmp_path, http_proxy="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr


async def test_a_missing_key_says_so(keyed: ServerProcess, tmp_path: Path) -> None:
    done = await run("codex", "--url", url(keyed), home=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: the server at {url(keyed)} asks for a key; give one with --api-key\n"
    done = await run("codex", "--url", url(keyed), "--api-key", "another", home=tmp_path)
    assert done.stderr == f"Error: the server at {url(keyed)} does not know this key; give one with --api-key\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "http://127.0.0.1:9"], "no server answers at http://127.0.0.1:9 (Connection refused); start one"),
        (["--url", "127.0.0.1:8000"], "'127.0.0.1:8000' is no server's address"),
        (["--url", "http://host:port"], "'http://host:port' is no server's address"),
        (["--url", "http://[::1"], "is no server's address"),
        (["--protocol", "chat"], "Codex does not speak chat; it speaks responses"),
    ],
)
async def test_what_cannot_be_asked_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = await run("codex", *arguments, home=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull",
        b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{"data":[]}',
        b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{}",
        b'HTTP/1.1 503 Busy\r\ncontent-length: 37\r\n\r\n{"error":{"message":"loading model"}}',
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
async def test_a_stranger_that_answers_is_one_line(answer: bytes, tmp_path: Path) -> None:
    async def stranger(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, stranger, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        done = await run("codex", "--url", f"http://127.0.0.1:{port}", home=tmp_path)
        nursery.cancel_scope.cancel()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")
    if b"503" in answer:
        assert "status 503: loading model" in done.stderr


def test_agents_are_told_apart() -> None:
    keys = [agent.key for agent in AGENTS]
    assert keys == sorted(set(keys), key=keys.index)
    assert set(keys) == {"claude-code", "codex", "opencode", "pi", "qwen-code", "crush", "aider"}
    assert all(agent.protocols for agent in AGENTS)
