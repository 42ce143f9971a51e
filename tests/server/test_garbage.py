"""Bytes that are no HTTP: a 4xx or a closed connection, and nothing that is left over."""

import json
import re
from random import Random
from typing import Any

import msgspec
import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection

from ds4trio.config import Settings
from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.server.app import build_app
from ds4trio.server.openapi.answers.errors import OpenAIError
from ds4trio.testing import ServerProcess, chat_body, open_client, run_server
from ds4trio.testing.garbage import HEAD, HEALTH, KINDS, LEAVINGS, WHOLE, Leaving, throw
from tests.serving import serving

EACH = 40
STATUS = re.compile(rb"HTTP/1\.\d (\d{3})")


async def check_alive(port: int) -> None:
    async with open_client(port, method="GET", path="/health") as client:
        assert json.loads(await client.read_all())["status"] == "ok"
    async with open_client(port, chat_body("hi", max_tokens=2)) as client:
        assert (await client.read_all()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("kind", list(KINDS))
async def test_garbage_is_refused_and_leaves_nothing(kind: str) -> None:
    random = Random(kind)
    engine = SimulatedEngine(prefill_tps=1e6, decode_tps=1e4)
    async with serving(engine, keep_alive_timeout=0.5) as server:
        before = tasks()
        for number in range(EACH):
            data = KINDS[kind](random)
            heard = await throw(server.port, data, LEAVINGS[number % len(LEAVINGS)], patience=0.1)
            assert all(status < b"500" for status in STATUS.findall(heard)), (data[:500], heard)
        await check_alive(server.port)
        await wait_for_tasks(before)
        assert (engine.running, engine.waiting, server.app.board.live) == (0, 0, {})


@pytest.mark.parametrize(
    "data",
    [
        b"GET /\r\n\r\n",
        b"no HTTP\r\n\r\n",
        HEAD + b"transfer-encoding: gzip\r\n\r\n",
        HEAD + b"content-length: -1\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_told_so_in_words(data: bytes) -> None:
    async with serving(SimulatedEngine()) as server:
        with trio.fail_after(5):
            heard = await throw(server.port, data, "wait", patience=4)
    head, _, body = heard.partition(b"\r\n\r\n")
    assert STATUS.search(head)[1].startswith(b"4")  # type: ignore[index]  # a failure says what came
    assert b"content-type: application/json" in head.lower()
    assert msgspec.json.decode(body, type=OpenAIError).error.message


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def wait_for_tasks(count: int) -> None:
    with trio.fail_after(10):
        while tasks() != count:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.02)


@pytest.mark.parametrize("leaving", ["close", "reset"])
async def test_a_client_that_left_before_the_first_of_two_answers_leaves_nothing(leaving: Leaving) -> None:
    # Hypercorn 0.18 reads the second when the first is answered, and waits for that for ever.
    async with serving(SimulatedEngine(decode_tps=50), keep_alive_timeout=0.5, heartbeat_interval=0.1) as server:
        before = tasks()
        for _ in range(3):
            await throw(server.port, WHOLE + WHOLE, leaving)
        await wait_for_tasks(before)
        assert server.app.board.live == {}


@pytest.mark.parametrize("version", ["13", "1", ""])
async def test_a_websocket_over_http1_is_a_plain_request(version: str) -> None:
    upgrade = f"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: {version}\r\n"
    request = f"GET /health HTTP/1.1\r\nhost: localhost\r\n{upgrade}sec-websocket-key: AAAA\r\n\r\n"
    async with serving(SimulatedEngine(), keep_alive_timeout=0.5) as server:
        before = tasks()
        heard = await throw(server.port, request.encode(), "wait")
        assert heard.startswith(b"HTTP/1.1 200")
        await wait_for_tasks(before)


@pytest.mark.parametrize("version", ["13", "1"])
async def test_a_websocket_over_http2_ends_the_connection(version: str) -> None:
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    names = {":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":path": "/", ":authority": "localhost"}
    connection.send_headers(1, [*names.items(), ("sec-websocket-version", version)])
    async with serving(SimulatedEngine(prefill_tps=1e6, decode_tps=1e4)) as server:
        before = tasks()
        with trio.fail_after(5):
            await throw(server.port, connection.data_to_send(), "wait", patience=10)
        await wait_for_tasks(before)
        await check_alive(server.port)


async def test_a_server_that_is_not_ours_gets_a_refusal_of_websockets() -> None:
    """Plain Hypercorn hands them to the application."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "query_string": b"", "scheme": "ws", "headers": [], "asgi": {}}
    app: Any = build_app(Settings(engine="simulated"))
    await app(scope, trio.sleep_forever, send)
    assert sent[0]["status"] == 400
    assert msgspec.json.decode(sent[1]["body"], type=OpenAIError).error.message


async def test_the_head_of_endless_events_has_an_end() -> None:
    head = b"HEAD /requests/events HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with serving(SimulatedEngine()) as server:
        heard = await throw(server.port, head + HEALTH, "wait", patience=1)
    assert [bytes(status) for status in STATUS.findall(heard)] == [b"200", b"200"]
    assert b'"status":"ok"' in heard


def resources(server: ServerProcess) -> tuple[int, int]:
    return server.open_descriptors(), server.threads()


async def test_a_real_process_is_the_same_after_garbage_of_all_kinds() -> None:
    random = Random(7)
    async with run_server("--engine", "simulated", "--prefill-tps", "1e6", "--decode-tps", "1e4") as server:
        await check_alive(server.port)
        before = resources(server)

        async def one_after_the_other() -> None:
            for _ in range(EACH):
                data = KINDS[random.choice(list(KINDS))](random)
                await throw(server.port, data, random.choice(LEAVINGS), patience=0.05)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one_after_the_other)
        await check_alive(server.port)
        # Connections that were left open go with the idle timeout.
        with trio.fail_after(40):
            while any(now > then for now, then in zip(resources(server), before, strict=True)):  # noqa: ASYNC110
                await trio.sleep(0.2)
        async with open_client(server.port, method="GET", path="/requests") as client:
            assert json.loads(await client.read_all())["requests"] == []
    assert server.process.returncode == 0
    assert "Traceback" not in server.log_text
