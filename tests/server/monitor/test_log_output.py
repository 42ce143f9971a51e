"""The log's forms: JSON with fields, nobody else's chatter, and no word of a prompt or a key in any of them."""

import json
import logging
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from ds4trio.server.monitor.log_output import JsonFormatter, PlainFormatter, logging_to
from ds4trio.testing import ServerProcess, chat_body, open_client, run_server

PROMPT, KEY = "sentinel-of-a-prompt", "sentinel-of-a-key"
LONG = f"{PROMPT} " * 300  # some 1,600 tokens
JSON_READY = re.compile(r'"event": "ready", "url": "http://127\.0\.0\.1:(\d+)"')
SIMULATED = ("--engine", "simulated", "--prefill-tps", "2000", "--decode-tps", "100", "--parallel", "1")


async def every_phase(server: ServerProcess, key: str = KEY) -> None:
    """Requests that are answered, that miss the cache, that leave in the queue, in prefill and in decode, that fail."""
    headers = {"authorization": f"Bearer {key}"}

    async def ask(body: dict[str, Any], path: str = "/v1/chat/completions", *, until: bytes | None = None) -> None:
        async with open_client(server.port, body, path=path, headers=headers) as client:
            if until is None:
                await client.read_all()
            else:
                await client.read_until(until)
                client.reset()

    said = len(server.log)
    await ask(chat_body(f"{LONG} first", max_tokens=4))
    await ask(chat_body(f"{LONG} second", max_tokens=4))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, chat_body(f"other {LONG}", max_tokens=4))
        async with open_client(server.port, chat_body(f"third {LONG}"), headers=headers) as waiting:
            await waiting.read()
    await ask(chat_body(f"fourth {LONG}"), until=b"role")
    await ask(chat_body("x", max_tokens=2000), until=b'"content":"Simulated')
    await server.wait_log("cancelled.*decode|decode.*cancelled", after=said)
    await ask({"messages": [{"role": PROMPT, "content": PROMPT}]})
    await ask({"messages": [{"role": "user", "content": PROMPT}], "response_format": {"type": PROMPT}})
    await ask({"model": PROMPT, "messages": [{"role": "user", "content": PROMPT}]})
    await ask(chat_body(f"{PROMPT} " * 200_000))
    async with open_client(server.port, chat_body(PROMPT), headers={"x-api-key": f"{KEY}-wrong"}) as client:
        await client.read_all()
        assert client.status == 401


@pytest.mark.parametrize(
    ("level", "ready"),
    [("debug", JSON_READY), ("info", JSON_READY), ("debug", None)],
    ids=["json", "json-info", "plain"],
)
async def test_neither_a_prompt_nor_a_key_is_logged(level: str, ready: re.Pattern[str] | None, tmp_path: Path) -> None:
    flags = [*SIMULATED, "--log-level", level, "--api-key", f"me:{KEY}", "--log-format", "json" if ready else "plain"]
    with trio.fail_after(30):
        async with run_server(*flags, **({"ready": ready} if ready else {})) as server:  # type: ignore[arg-type]
            await every_phase(server)
            server.process.send_signal(signal.SIGTERM)
            await server.process.wait()
            await server.closed()
    assert "cancelled" in server.log_text
    assert "sentinel" not in server.log_text


async def test_json_is_an_object_a_line_with_fields() -> None:
    with trio.fail_after(30):
        async with run_server(*SIMULATED, "--log-format", "json", "--api-key", KEY, ready=JSON_READY) as server:
            await every_phase(server)
            server.process.send_signal(signal.SIGTERM)
            await server.process.wait()
            await server.closed()
    lines = [json.loads(line.text) for line in server.log]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    of = {
        event: [line for line in lines if line.get("event") == event] for event in {line.get("event") for line in lines}
    }
    assert {"listening", "ready", "prefill", "finished", "cancelled", "ended", "stopping"} <= of.keys()
    prefill = of["prefill"][0]
    assert prefill["request"].startswith("req_")
    assert prefill["protocol"] == "chat"
    assert 0 < prefill["prefilled_tokens"] <= prefill["prompt_tokens"]
    assert {line["phase"] for line in of["cancelled"]} >= {"decode"}
    assert {line["cause"] for line in of["cancelled"]} == {"the client has gone"}
    ended = {line["request"]: line for line in of["ended"]}
    assert len(ended) == len(of["ended"]) == 6
    first, second, *_ = of["ended"]
    assert (first["outcome"], first["output_tokens"], first["cached_tokens"]) == ("length", 4, 0)
    assert second["cached_tokens"] > second["computed_tokens"] > 0
    assert first["first_token"] > 0


def test_an_exception_is_told_by_its_place_and_kind_only() -> None:
    try:
        raise ValueError(PROMPT)
    except ValueError as error:
        record = logging.LogRecord(
            "trio", logging.ERROR, __file__, 1, "broken", (), (ValueError, error, error.__traceback__)
        )
    plain, structured = PlainFormatter().format(record), json.loads(JsonFormatter().format(record))
    for text in (plain, structured["exception"]):
        assert "ValueError" in text
        assert "test_log_output.py" in text
        assert PROMPT not in text


def test_what_cannot_be_encoded_is_a_line_all_the_same() -> None:
    record = logging.LogRecord(
        "x", logging.INFO, "", 1, "%(path)s\n%(other)s", ({"path": "\udcff", "other": {1}},), None
    )
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["other"] == "{1}"


def test_at_debug_only_our_own_loggers_say_more(capsys: pytest.CaptureFixture[str]) -> None:
    levels = [logging.getLogger().level, logging.getLogger("ds4trio").level]
    try:
        with logging_to(None, level="debug", format="plain"):
            logging.getLogger("ds4trio.engine").debug("ours")
            logging.getLogger("h2.connection").debug("theirs")
            logging.getLogger("h2.connection").info("news")
        with logging_to(None, level="warning", format="plain"):
            logging.getLogger("ds4trio").info("too little")
            logging.getLogger("trio").info("too little")
    finally:
        for name, level in zip(("", "ds4trio"), levels, strict=True):
            logging.getLogger(name).setLevel(level)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["ours", "news"]
