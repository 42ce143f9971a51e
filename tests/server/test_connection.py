"""Hypercorn on real sockets with the simulated engine: connections that end, stall, reset and speak HTTP/2."""

import json
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import h2.config
import h2.connection
import h2.settings
import httpx2
import pytest
import trio

from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.server.wire import break_connection, open_sockets
from ds4trio.testing import chat_body, open_client
from tests.serving import serving


def fast(**options: Any) -> SimulatedEngine:
    return SimulatedEngine(**{"prefill_tps": 1e6, "decode_tps": 1e4, **options})


async def wait_for_running(engine: SimulatedEngine, count: int) -> None:
    """Poll: a client has no event to wait for that says what the server has noticed."""
    with trio.fail_after(5):
        while engine.running != count or engine.waiting:  # noqa: ASYNC110
            await trio.sleep(0.005)


def peers_of_this_process() -> set[tuple[str, int]]:
    """The far ends of all TCP connections that are open here: the server runs in this process too."""
    peers = set()
    for connection in open_sockets():
        with suppress(OSError):
            peers.add(connection.getpeername())
    return peers


async def read_to_end(stream: trio.SocketStream) -> bytes:
    data = b""
    async for piece in stream:
        data += piece
    return data


REQUEST = json.dumps(chat_body("hi", max_tokens=2)).encode()


def raw_request(connection: str) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"connection: %s\r\ncontent-length: %d\r\n\r\n%s" % (connection.encode(), len(REQUEST), REQUEST)
    )


async def test_connection_close_is_honoured() -> None:
    # quart-trio 0.12 cancels a finished request from inside Hypercorn's closing, which then never closes.
    async with serving(fast()) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            await stream.send_all(raw_request("close"))
            with trio.fail_after(3):
                data = await read_to_end(stream)
    assert b"[DONE]" in data


async def test_idle_keep_alive_connection_is_closed_and_an_active_one_is_reused() -> None:
    async with serving(fast(), keep_alive_timeout=0.3) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            for _ in range(2):
                await stream.send_all(raw_request("keep-alive"))
                data = b""
                while not data.endswith(b"0\r\n\r\n"):
                    data += await stream.receive_some(65536)
            with trio.fail_after(3):
                assert await read_to_end(stream) == b""


@pytest.mark.parametrize("way", ["close", "reset", "half_close"])
@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_in_any_way_frees_the_engine(way: str, stream: bool) -> None:
    engine = SimulatedEngine(prefill_tps=1)
    async with serving(engine) as server:
        async with open_client(server.port, chat_body("a long prompt", stream=stream)) as client:
            await wait_for_running(engine, 1)
            if way == "reset":
                client.reset()
            elif way == "half_close":
                await client.half_close()
            if way != "close":
                await wait_for_running(engine, 0)
        await wait_for_running(engine, 0)


@pytest.mark.parametrize("user_timeout", [True, False])
async def test_client_that_stops_reading_is_freed_and_others_are_unharmed(
    user_timeout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the kernel's own timer, and without it, as under plain Hypercorn."""
    if not user_timeout:
        monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    engine = SimulatedEngine(prefill_tps=1e6, decode_tps=1e5, answer_tokens=10**7)
    async with (
        serving(engine, stall_timeout=1.0) as server,
        open_client(server.port, chat_body("hi"), receive_buffer=4096) as stuck,
    ):
        await stuck.read()
        with trio.fail_after(10):
            while engine.running:
                async with open_client(server.port, chat_body("hello", max_tokens=3)) as other:
                    assert b"[DONE]" in await other.read_all()
                await trio.sleep(0.05)
            # The stuck task is freed with its descriptor, although this client is still there and reads nothing.
            address = stuck.stream.socket.getsockname()
            while address in peers_of_this_process():  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)


async def test_client_that_does_not_take_the_end_of_a_complete_answer_is_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    engine = SimulatedEngine(prefill_tps=1e6, decode_tps=1e6, answer_tokens=2000)
    async with (
        serving(engine, stall_timeout=1.0, send_buffer=8192) as server,
        open_client(server.port, chat_body("hi"), receive_buffer=4096) as stuck,
    ):
        await stuck.read()
        address = stuck.stream.socket.getsockname()
        await wait_for_running(engine, 0)
        assert address in peers_of_this_process()
        with trio.fail_after(5):
            while address in peers_of_this_process():  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)


async def test_server_stops_in_its_grace_although_a_client_does_not_read() -> None:
    engine = SimulatedEngine(prefill_tps=1e6, decode_tps=1e5, answer_tokens=10**7)
    async with (
        serving(engine, shutdown_grace=1.0) as server,
        open_client(server.port, chat_body("hi"), receive_buffer=4096) as stuck,
    ):
        await stuck.read()
        server.stop.set()
        with trio.fail_after(3):
            await server.stopped.wait()


async def test_http_2_streams() -> None:
    async with (
        serving(fast()) as server,
        httpx2.AsyncClient(http1=False, http2=True, base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        answer = await client.post("/v1/chat/completions", json=chat_body("hi"))
        health = await client.get("/health")
    assert answer.http_version == health.http_version == "HTTP/2"
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert health.json() == {"status": "ok", "running": 0, "waiting": 0}


@asynccontextmanager
async def http_2_request(
    port: int, window: int = 65535
) -> AsyncGenerator[tuple[trio.SocketStream, h2.connection.H2Connection], None]:
    """A chat request on stream 1 of a connection of its own, with the first bytes of its answer read."""
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    headers = {":method": "POST", ":path": "/v1/chat/completions", ":scheme": "http", ":authority": "localhost"}
    connection.send_headers(1, [*headers.items(), ("content-type", "application/json")])
    connection.send_data(1, json.dumps(chat_body("a long prompt")).encode(), end_stream=True)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(connection.data_to_send())
        received = b""
        while b"assistant" not in received:
            received += await stream.receive_some(65536)
        yield stream, connection


async def test_http_2_reset_of_one_stream_frees_the_engine() -> None:
    engine = SimulatedEngine(prefill_tps=1)
    async with serving(engine) as server, http_2_request(server.port) as (stream, connection):
        assert engine.running == 1
        connection.reset_stream(1)
        await stream.send_all(connection.data_to_send())
        await wait_for_running(engine, 0)


@pytest.mark.parametrize("pings", [False, True])
async def test_http_2_connection_of_which_nothing_is_wanted_any_more_is_closed(pings: bool) -> None:
    engine = SimulatedEngine(prefill_tps=1)
    async with serving(engine, keep_alive_timeout=1) as server, http_2_request(server.port) as (stream, connection):
        connection.reset_stream(1)
        if pings:
            connection.ping(b"are you?")
        await stream.send_all(connection.data_to_send())
        with trio.fail_after(4), suppress(trio.BrokenResourceError):
            await read_to_end(stream)


async def test_http_2_that_hypercorn_breaks_on_does_not_take_the_server_from_others() -> None:
    async with serving(fast()) as server:
        for headers, answered_first in (
            ([(":method", "GET"), (":scheme", "http"), (":authority", "localhost")], False),
            ([(":method", "POST"), (":path", "/x"), (":scheme", "http"), (":authority", "localhost")], True),
        ):
            configuration = h2.config.H2Configuration(validate_outbound_headers=False)
            connection = h2.connection.H2Connection(configuration)
            connection.initiate_connection()
            connection.send_headers(1, headers)
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(connection.data_to_send())
                if answered_first:
                    received = b""
                    while b"error" not in received:
                        received += await stream.receive_some(65536)
                    connection.send_data(1, b"late", end_stream=True)
                    await stream.send_all(connection.data_to_send())
                with trio.move_on_after(0.5):
                    await read_to_end(stream)
        async with open_client(server.port, chat_body("hi", max_tokens=2)) as client:
            assert b"[DONE]" in await client.read_all()


async def test_http_2_client_that_does_not_read_does_not_hold_up_the_servers_end() -> None:
    engine = SimulatedEngine(prefill_tps=1e6, decode_tps=1e5, answer_tokens=10**7)
    async with serving(engine, shutdown_grace=1.0) as server, http_2_request(server.port, 300):
        server.stop.set()
        with trio.fail_after(3):
            await server.stopped.wait()


async def test_nobody_is_let_in_any_more_once_the_server_stops() -> None:
    async with serving(fast()) as server:
        server.stop.set()
        await server.stopped.wait()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", server.port)


async def test_looking_for_a_connection_leaves_no_descriptor_behind() -> None:
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208
    for _ in range(5):
        break_connection(("127.0.0.1", 1), ("127.0.0.1", 2))
    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208


async def test_body_over_the_limit_is_a_413() -> None:
    async with (
        serving(fast(), max_body_bytes=2048) as server,
        open_client(server.port, chat_body("x" * 4096)) as client,
    ):
        await client.read_all()
    assert client.status == 413
    assert json.loads(client.body)["error"]["type"] == "invalid_request_error"


async def test_body_that_does_not_arrive_is_a_408() -> None:
    async with serving(fast(), body_timeout=0.2) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            await stream.send_all(raw_request("close")[:-5])
            with trio.fail_after(3):
                data = await stream.receive_some(65536)
    assert data.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("target", ["http://[::1/health", "//[", "http://x/nothing", "*", "/%ff%00"])
async def test_odd_request_target_is_a_404_in_json(target: str) -> None:
    async with serving(SimulatedEngine()) as server, await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        await stream.send_all(f"GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        answer = b"".join([data async for data in stream])
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"there is no such endpoint" in answer


@pytest.mark.parametrize("frames", [False, True], ids=["half a header", "half an HTTP/2 preface"])
async def test_headers_that_do_not_come_keep_no_connection(frames: bool) -> None:
    half = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00" if frames else b"POST /v1/chat/completions HTTP/1.1\r\nhost: lo"
    async with serving(fast(), keep_alive_timeout=1) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream, trio.open_nursery() as nursery:

            async def trickle() -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await stream.send_all(half)
                    while not frames:
                        await trio.sleep(0.1)  # the very point: something always comes
                        await stream.send_all(b"c")

            nursery.start_soon(trickle)
            with trio.fail_after(4):
                with suppress(trio.BrokenResourceError):
                    await read_to_end(stream)
            nursery.cancel_scope.cancel()


async def test_one_connection_too_many_is_told_so_and_disturbs_nobody() -> None:
    async with serving(fast(decode_tps=50), max_connections=2) as server:
        async with (
            open_client(server.port, chat_body("hi", max_tokens=60)) as first,
            open_client(server.port, chat_body("hi", max_tokens=60)) as second,
        ):
            await first.read()
            await second.read()
            async with open_client(server.port, chat_body("hi")) as third:
                await third.read_all()
            assert third.status == 503
            assert int(third.headers["retry-after"]) > 0
            assert "--max-connections" in json.loads(third.body)["error"]["message"]
            await first.read_all()
            await second.read_all()
        assert first.body.endswith(b"data: [DONE]\n\n")
        assert second.body.endswith(b"data: [DONE]\n\n")
        with trio.fail_after(5):
            while True:  # the server notices a moment later that they have gone
                async with open_client(server.port, chat_body("hi", max_tokens=2)) as fourth:
                    await fourth.read_all()
                if fourth.status == 200:
                    break
