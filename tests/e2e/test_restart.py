"""Servers that are stopped and killed: what was computed before is there after, and so are the exact answers."""

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ds4trio.cli import main
from ds4trio.testing import ServerProcess, StreamClient, chat_body, fresh_prompt, open_client, run_server

pytestmark = pytest.mark.slow

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city", "days"],
            },
        },
    }
]


@pytest.fixture
def flags(tmp_path: Path) -> tuple[str, ...]:
    return "--kv-disk", "--kv-disk-dir", str(tmp_path / "kv"), "--ctx", "4096", "--kv-cache-min-tokens", "100"


def long_prompt(tokens: int = 1500) -> dict[str, Any]:
    return chat_body(
        fresh_prompt(tokens),
        max_tokens=8,
        temperature=0,
        return_progress=True,
        stream_options={"include_usage": True},
    )


async def ask(server: ServerProcess, body: dict[str, Any]) -> StreamClient:
    async with open_client(server.port, body) as client:
        await client.read_all()
    assert client.body.endswith(b"data: [DONE]\n\n")
    return client


def cached(client: StreamClient) -> int:
    return int(client.usage["prompt_tokens_details"]["cached_tokens"])


def processed(client: StreamClient) -> int:
    """How far the client has heard that its prefill is."""
    told = [event.data["prompt_progress"]["processed"] for event in client.events if "prompt_progress" in event.data]
    return int(told[-1]) if told else 0


def verified(flags: tuple[str, ...]) -> str:
    """What ``ds4trio cache verify`` says; it finds nothing wrong."""
    result = CliRunner().invoke(main, ["cache", "verify", "--kv-disk-dir", flags[2]])
    assert result.exit_code == 0, result.output
    return result.output


async def test_after_a_stop_the_same_prompt_is_not_computed_again(flags: tuple[str, ...]) -> None:
    body = long_prompt()
    async with run_server(*flags) as server:
        before = await ask(server, body)
    async with run_server(*flags) as server:
        after = await ask(server, body)
    assert cached(before) < 100
    assert cached(after) == after.usage["prompt_tokens"] - 1
    assert after.text == before.text
    verified(flags)


async def test_after_a_kill_a_prefill_goes_on_where_it_was(flags: tuple[str, ...]) -> None:
    for _ in range(3):
        body = long_prompt()
        async with run_server(*flags) as server, open_client(server.port, body) as client:
            until = random.uniform(600, 1300)
            while processed(client) < until:
                assert await client.read() is not None
            server.process.send_signal(signal.SIGKILL)
            await server.process.wait()
        verified(flags)
        async with run_server(*flags) as server:
            retry = await ask(server, body)
        assert cached(retry) >= processed(client) - 512


async def test_the_next_turn_after_a_restart_goes_on_from_the_tokens_that_were_sampled(flags: tuple[str, ...]) -> None:
    body: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": fresh_prompt(300)},
            {"role": "user", "content": "What is the weather in Paris?"},
        ],
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 200,
        "temperature": 0,
    }
    async with run_server(*flags) as server, open_client(server.port, body) as client:
        first = json.loads(await client.read_all())
    message = first["choices"][0]["message"]
    for call in message["tool_calls"]:
        arguments = json.loads(call["function"]["arguments"])
        # As a client's own JSON library writes it: the keys in another order, no white space.
        call["function"]["arguments"] = json.dumps(dict(reversed(arguments.items())), separators=(",", ":"))
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "Rain."} for call in message["tool_calls"]]
    body["messages"] += [message, *results]
    body["tool_choice"] = "none"
    for more in ((), ("--disable-exact-tool-replay",)):
        async with run_server(*flags, *more) as server, open_client(server.port, body) as client:
            second = json.loads(await client.read_all())
        reused = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        said = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
        if not more:
            assert reused >= said - 2, "the token that ended it, and the last one, were never computed"
        else:
            assert reused < said - 10, "or the test says nothing"


async def test_a_directory_that_cannot_be_written_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    async with run_server("--kv-disk", "--kv-disk-dir", str(tmp_path / "file" / "kv"), "--ctx", "2048") as server:
        answer = await ask(server, long_prompt(700))
        again = await ask(server, long_prompt(700))
    assert answer.usage["completion_tokens"]
    assert again.usage["completion_tokens"]
    assert server.log_text.count("writing KV to") == 1
