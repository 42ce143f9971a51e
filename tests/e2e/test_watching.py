"""What the operator of a real model sees, and what a bug report would hold."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from ds4trio.cli import main
from ds4trio.testing import chat_body, fresh_prompt, open_client, run_server
from tests.terminal_session import open_session

SENTINEL = "sentinel"
JSON_READY = re.compile(r'"event": "ready", "url": "http://127\.0\.0\.1:(\d+)"')
TOOL = {
    "type": "function",
    "function": {
        "name": f"{SENTINEL}_tool",
        "description": SENTINEL,
        "parameters": {
            "type": "object",
            "properties": {SENTINEL: {"type": "string", "enum": [SENTINEL]}},
            "required": [SENTINEL],
        },
    },
}


def instructed(system: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "Go on."}]
    return {"stream": True, "messages": messages, "max_tokens": 8, "temperature": 0}


async def ask(port: int, body: dict[str, Any]) -> bytes:
    async with open_client(port, body) as client:
        return await client.read_all()


@pytest.mark.slow
async def test_bars_of_a_real_prefill_and_its_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    prompt = fresh_prompt(700)
    with trio.fail_after(200):
        async with open_session("--trace", str(path), "--heartbeat-interval", "1", "--threads", "1") as session:
            assert b"the model is being loaded" in session.raw
            async with open_client(session.port, instructed(prompt)) as client:
                await session.wait_for(r"chat [0-9a-f]{8} ━+ prefill \d+/[67]\d\d \(\d+\.\d%\) \d+ t/s eta \d+s .*♥ \d")
                await client.read_all()
            await session.wait_for(r"chat req_[0-9a-f]{24} (length|stop): computed=[67]\d\d cached=0 output=\d+ ttft=")
            other = prompt.split()
            other[200] = "otherwise"
            await ask(session.port, instructed(" ".join(other)))
            await session.wait_for(r"cache miss: \d+ of \d+ prompt tokens reused")
    listing = CliRunner().invoke(main, ["trace", "show", str(path)]).output.splitlines()
    assert len(listing) == 3
    id = listing[2].split()[0]
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    asked = next(event for event in events if event["event"] == "prompt")
    assert asked["text"].startswith(f"<|im_start|>system\n{prompt}<|im_end|>\n")
    assert asked["text"].endswith("<|im_start|>user\nGo on.<|im_end|>\n<|im_start|>assistant\n")
    told = {event["event"]: event for event in events if event.get("request") == id}
    assert told["cache"]["divergence"]["lost"] > 300
    assert "otherwise" in told["cache"]["divergence"]["asked"]
    shown = CliRunner().invoke(main, ["trace", "show", str(path), "--request", id]).output
    assert "divergence (position" in shown
    assert f"| content: {told['parsed']['parts'][0]['content'].splitlines()[0]}" in shown


@pytest.mark.slow
async def test_no_word_of_a_prompt_in_the_log_of_a_real_model() -> None:
    flags = ("--log-format", "json", "--log-level", "debug", "--threads", "1")
    with trio.fail_after(200):
        async with run_server(*flags, ready=JSON_READY) as server:
            for number in range(2):
                await ask(server.port, instructed(f"{number} " + f"{SENTINEL} " * 100))
            called = chat_body(SENTINEL, tools=[TOOL], tool_choice="required", max_tokens=60)
            assert SENTINEL.encode() in await ask(server.port, called)
            impossible = {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"const": SENTINEL, "type": "object"}},
            }
            await ask(server.port, chat_body(SENTINEL, response_format=impossible, max_tokens=30))
            broken = {"prompt": SENTINEL, "max_tokens": 5, "grammar": f"start: {SENTINEL}"}
            async with open_client(server.port, broken, path="/v1/completions") as client:
                await client.read_all()
            server.process.send_signal(signal.SIGTERM)
            await server.process.wait()
            await server.closed()
    lines = [json.loads(line.text) for line in server.log]
    assert {"model", "miss", "prefill", "ended"} <= {line.get("event") for line in lines}
    assert {line["logger"].partition(".")[0] for line in lines if line["level"] == "debug"} == {"ds4trio"}
    assert SENTINEL not in server.log_text
