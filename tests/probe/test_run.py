"""The whole examination, of servers whose behaviour is known."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import trio

from ds4trio.probe import as_document, open_target, plan, steps
from ds4trio.testing import StartServer
from ds4trio.testing.stream import Protocol
from tests.probe.fake import Answer, answering


async def probe(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ds4trio", "probe", *arguments]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, env=dict(os.environ))


async def measured(*arguments: str) -> dict[str, Any]:
    result = await probe("--json", *arguments)
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    figures: dict[str, Any] = document["measured"]
    return figures


@pytest.mark.slow
@pytest.mark.parametrize("api", ["chat", "messages"])
async def test_a_server_that_is_never_silent_and_forgets_nothing(ds4trio_server: StartServer, api: Protocol) -> None:
    # Chunks have 512 tokens: they have to be short beside the deadlines.
    flags = ("--prefill-tps", "4000", "--decode-tps", "100", "--heartbeat-interval", "0.5")
    server = await ds4trio_server(*flags)
    figures = await measured(f"http://127.0.0.1:{server.port}", "--quick", "--api", api)
    assert figures["prompt"]["tokens"] == pytest.approx(12_000, rel=0.2)
    assert figures["first_token"]["seconds"] == pytest.approx(3, rel=0.3)
    assert figures["first_byte"]["seconds"] < 0.3
    assert figures["silence_prefill"]["bytes"] == pytest.approx(0.5, abs=0.15)
    assert figures["silence_prefill"]["events"] == pytest.approx(0.5, abs=0.15)
    assert figures["silence_queue"]["bytes"] < 0.7
    assert figures["silence_decode"]["bytes"] < 0.3
    assert figures["after_cancel"]["seconds"] < 0.5
    assert figures["retry_after_answer"]["share"] < 0.2
    assert figures["retry_after_answer"]["cached_tokens"] > 10_000
    assert figures["retry_after_cancel"]["share"] < 0.8
    assert figures["retry_after_cancel"]["cached_tokens"] > 3000
    assert figures["deadline"]["tries"] in (3, 4, 5)
    assert figures["slow_reader"]["seconds"] < 1.5


async def test_comments_are_bytes_but_no_events(ds4trio_server: StartServer) -> None:
    server = await ds4trio_server("--prefill-tps", "400", "--heartbeat", "comment", "--heartbeat-interval", "0.5")
    target = await open_target(f"http://127.0.0.1:{server.port}")
    rows = await steps(target, await plan(target, quick=True))[0].measure()
    figures = {row.key: row.figures for row in rows}
    took = figures["first_token"]["seconds"]
    assert figures["silence_prefill"]["bytes"] == pytest.approx(0.5, abs=0.2)
    assert figures["silence_prefill"]["events"] == pytest.approx(took, abs=0.3)


async def test_a_step_that_fails_says_so(ds4trio_server: StartServer) -> None:
    server = await ds4trio_server("--parallel", "1", "--max-queue", "0", "--prefill-tps", "500")
    target = await open_target(f"http://127.0.0.1:{server.port}")
    behind = next(step for step in steps(target, await plan(target, quick=True)) if step.name == "behind others")
    (row,) = await behind.measure()
    assert row.shown.startswith("no figure: status 429, and no text: ")
    assert as_document(target, [row])["measured"] == {"behind_others": {"problem": row.shown}}


@pytest.mark.parametrize("usage", [{"prompt_tokens": 7}, {"prompt_tokens": "7"}, {"input_tokens": -7}, ["7"], 7])
async def test_a_server_that_does_not_count_gets_no_prompt_beyond_its_context(usage: object) -> None:
    event = json.dumps({"choices": [{"delta": {"content": "hi"}}], "usage": usage}).encode()

    def server(method: str, path: str) -> Answer:
        if method == "GET":
            return 200, "application/json", b'{"data": [{"id": "m", "n_ctx": 50000}]}'
        return 200, "text/event-stream", b"data: " + event + b"\n\n"

    async with answering(server) as port:
        with trio.fail_after(20):
            found = await plan(await open_target(f"http://127.0.0.1:{port}"))
    assert 0 < found.size <= 35_000
    assert found.prefill > 0


async def test_trouble_is_one_line_and_status_1(ds4trio_server: StartServer) -> None:
    server = await ds4trio_server()
    result = await probe(f"http://127.0.0.1:{server.port}", "--model", "nothing")
    assert result.returncode == 1
    assert result.stdout == b""
    assert result.stderr.startswith(b"Error: the server does not know the model 'nothing'; it has simulated; give one")
    assert result.stderr.count(b"\n") == 1
