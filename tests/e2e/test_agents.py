"""Real agent clients, and the listener and the page that speak of them.

The clients are not Python's to install: ``python -m benchmarks.agents`` does it. Where they are missing, or where no
network namespace can be made, the tests that need them are skipped.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from benchmarks.agents.clients import CLIENTS, AgentClient
from benchmarks.agents.install import FOLDER_VARIABLE, default_folder, is_installed
from benchmarks.agents.tap import open_tap
from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.testing import chat_body, open_client
from tests.serving import serving

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "agents.md"


def run_agents(client: AgentClient, *flags: str) -> "subprocess.CompletedProcess[str]":
    """One line of the benchmark's table."""
    folder = default_folder()
    if not is_installed(client, folder):
        pytest.skip(f"{client.name} {client.version} is not in {FOLDER_VARIABLE}: python -m benchmarks.agents")
    if subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    command = [sys.executable, "-m", "benchmarks.agents", "--only", client.key, *flags]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.agents
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.key)
def test_client_waits_for_a_prefill_of_three_times_its_patience(client: AgentClient) -> None:
    done = run_agents(client)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.agents
def test_without_heartbeats_a_client_gives_up() -> None:
    codex = next(client for client in CLIENTS if client.key == "codex")
    done = run_agents(codex, "--heartbeat", "off")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "| **no** |" in done.stdout


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.key)
def test_the_page_names_the_version_that_is_run(client: AgentClient) -> None:
    assert f"| {client.name} | {client.version} | {client.protocol} |" in PAGE.read_text(encoding="utf-8")


async def test_tap_notes_a_whole_answer() -> None:
    async with serving(SimulatedEngine(answer="Seven words.")) as server, open_tap(server.port) as tap:
        for _ in range(2):
            async with open_client(tap.port, chat_body("hi")) as client:
                body = await client.read_all()
    for exchange in tap.exchanges:
        assert (exchange.method, exchange.path, exchange.status) == ("POST", "/v1/chat/completions", 200)
        assert exchange.whole
        assert b'"content":"hi"' in exchange.body
        assert exchange.first(b"Seve") is not None
        assert exchange.first(b"Eight") is None
    assert len(tap.exchanges) == 2
    assert tap.exchanges[-1].answer == body


async def test_tap_passes_on_that_a_client_left() -> None:
    engine = SimulatedEngine(prefill_tps=1)
    async with serving(engine) as server, open_tap(server.port) as tap:
        async with open_client(tap.port, chat_body("hi")) as client:
            await client.read()
            assert engine.running == 1
        with trio.fail_after(10):
            while engine.running:  # noqa: ASYNC110 - the engine has no event for this
                await trio.sleep(0.01)
    assert not tap.exchanges[0].whole
