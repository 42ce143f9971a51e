"""What a client hears, and what a server notices, through a proxy that is configured as in ``examples/``."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

from ds4trio.testing import ServerProcess, StreamClient, chat_body, open_client, run_server
from tests.e2e.proxies import HOST, Kind, open_proxy

pytestmark = pytest.mark.parametrize("kind", ["nginx", "caddy"])

KEY = "sk-proxy"
PROMPT = "word " * 400
BEAT = 0.5
# The prompt's few hundred tokens take several seconds.
SLOW = ("--prefill-tps", "100", "--heartbeat-interval", str(BEAT), "--json-grace", "1")
ENDLESS = ("--prefill-tps", "1", "--heartbeat-interval", str(BEAT))


@asynccontextmanager
async def behind(kind: Kind, folder: Path, *flags: str) -> AsyncGenerator[tuple[ServerProcess, int], None]:
    async with (
        run_server("--engine", "simulated", "--decode-tps", "1000", *flags) as server,
        open_proxy(kind, folder / kind, server.port) as port,
    ):
        yield server, port


def ask(port: int, body: dict[str, Any], *, key: str = KEY, host: str = HOST) -> Any:
    """A client that speaks to the proxy by its name."""
    headers = {"host": host} | ({"authorization": f"Bearer {key}"} if key else {})
    return open_client(port, body, headers=headers)


def gaps(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


async def test_heartbeats_come_through_as_they_are_sent(kind: Kind, tmp_path: Path) -> None:
    async with behind(kind, tmp_path, "--api-key", KEY, *SLOW) as (_, port), ask(port, chat_body(PROMPT)) as client:
        assert b"data: [DONE]" in await client.read_all()
    assert client.status == 200
    assert client.arrivals[0].at < BEAT
    beats = client.times_of_beats
    assert len(beats) >= 5
    assert all(abs(gap - BEAT) < 0.8 * BEAT for gap in gaps(beats))
    assert client.longest_silence < 2 * BEAT


async def test_white_space_of_a_document_comes_through_as_it_is_sent(kind: Kind, tmp_path: Path) -> None:
    async with (
        behind(kind, tmp_path, "--api-key", KEY, *SLOW) as (_, port),
        ask(port, chat_body(PROMPT, stream=False)) as client,
    ):
        body = await client.read_all()
    assert body.rstrip().endswith(b"}")
    spaces = client.times_of_beats
    assert len(spaces) >= 4
    assert all(abs(gap - BEAT) < 0.8 * BEAT for gap in gaps(spaces))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_hangs_up_ends_the_request_behind(kind: Kind, stream: bool, tmp_path: Path) -> None:
    async with behind(kind, tmp_path, "--api-key", KEY, "--json-grace", "1", *ENDLESS) as (server, port):
        async with ask(port, chat_body(PROMPT, stream=stream)) as client:
            await client.read()
        left = trio.current_time()
        line = await server.wait_log(r"cancelled in prefill .*: the client has gone")
        assert line.at - left < 2


async def test_large_bodies_pass_up_to_what_the_server_takes(kind: Kind, tmp_path: Path) -> None:
    async with behind(kind, tmp_path, "--api-key", KEY) as (_, port):
        async with ask(port, chat_body("hi", padding="x" * (12 * 2**20))) as client:
            assert b"[DONE]" in await client.read_all()
        assert client.status == 200


@pytest.mark.slow
async def test_a_long_silence_is_waited_for(kind: Kind, tmp_path: Path) -> None:
    """Without heartbeats; nginx's own limit is 60 s, and would cut it."""
    if kind == "caddy":
        pytest.skip("Caddy has no limit of its own")
    flags = ("--heartbeat", "off", "--prefill-tps", "6", "--api-key", KEY)
    cut: list[bytes] = []
    async with behind(kind, tmp_path, *flags) as (server, port), trio.open_nursery() as nursery:

        async def ask_without_the_line() -> None:
            async with (
                open_proxy(kind, tmp_path / "default", server.port, without="proxy_read_timeout") as default,
                ask(default, chat_body(PROMPT)) as client,
            ):
                with suppress(h11.RemoteProtocolError):
                    await client.read_all()
                cut.append(client.body)

        nursery.start_soon(ask_without_the_line)
        async with ask(port, chat_body(PROMPT)) as client:
            body = await client.read_all()
    assert b"[DONE]" in body
    assert client.longest_silence > 61
    assert all(b"[DONE]" not in body for body in cut)
    assert len(cut) == 1


async def test_whom_the_server_answers_through_a_proxy(kind: Kind, tmp_path: Path) -> None:
    async with run_server("--engine", "simulated") as server, open_proxy(kind, tmp_path / "a", server.port) as port:
        assert await status(port, key="") == 403
    flags = ("--no-auth", "--allowed-host", HOST)
    async with (
        run_server("--engine", "simulated", *flags) as server,
        open_proxy(kind, tmp_path / "b", server.port) as port,
    ):
        assert await status(port, key="") == 200
    async with behind(kind, tmp_path, "--api-key", KEY) as (_, port):
        assert [await status(port, key=""), await status(port, key=KEY)] == [401, 200]


async def status(port: int, *, key: str) -> int | None:
    client: StreamClient
    async with ask(port, chat_body("hi"), key=key) as client:
        await client.read_all()
    return client.status
