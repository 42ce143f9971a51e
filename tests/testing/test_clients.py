"""Clients that give up, each in its way, on real sockets: what they do, and that the server notices."""

import sys
from itertools import pairwise

import pytest
import trio

from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.testing import Watchdog, assert_no_orphans, chat_body, open_client, retry_storm, silence_of, watch
from tests.serving import serving

LONG = chat_body("word" * 3000)


async def wait_for_running(engine: SimulatedEngine, count: int) -> None:
    with trio.fail_after(10):
        while engine.running != count:  # noqa: ASYNC110 - a client has no event that says what the server has noticed
            await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("watchdog", "reason"),
    [
        (Watchdog(idle=0.4), "no bytes for 0.4 s"),
        (Watchdog(idle=0.4, counts="events"), "no events for 0.4 s"),
        (Watchdog(lifetime=0.4), "older than 0.4 s"),
        (Watchdog(headers=0.4), None),
    ],
)
async def test_a_watchdog_hangs_up_on_a_socket_too(watchdog: Watchdog, reason: str | None) -> None:
    engine = SimulatedEngine(prefill_tps=2000, answer_tokens=2)
    async with (
        serving(engine, heartbeat="off", keep_alive_timeout=0.5) as server,
        assert_no_orphans(server.app),
        open_client(server.port, LONG) as client,
    ):
        cut = await watch(client, watchdog)
    assert (cut.reason if cut else None) == reason
    if cut:
        assert 0.4 <= cut.at < 1
        assert client.over_at == pytest.approx(cut.at, abs=0.2)


async def test_a_client_that_counts_bytes_stays_where_one_that_counts_events_goes() -> None:
    async with serving(SimulatedEngine(prefill_tps=2000), heartbeat="comment", heartbeat_interval=0.1) as server:
        async with open_client(server.port, LONG) as client:
            assert await watch(client, Watchdog(idle=0.5)) is None
        other = chat_body("text" * 3000)
        async with open_client(server.port, other) as client:
            assert await watch(client, Watchdog(idle=0.5, counts="events")) is not None
        silence = silence_of(client)
    assert silence.events.seconds >= 0.5
    assert silence.bytes.seconds < 0.4


@pytest.mark.skipif(sys.platform != "linux", reason="a socket vanishes by a packet filter of Linux")
async def test_a_client_that_vanishes_is_missed_only_after_the_stall_timeout_and_others_stay() -> None:
    engine = SimulatedEngine(prefill_tps=1e6, decode_tps=20, answer_tokens=10**6)
    async with (
        serving(engine, stall_timeout=1.0) as server,
        open_client(server.port, chat_body("hi")) as gone,
        open_client(server.port, chat_body("hello")) as other,
        trio.open_nursery() as nursery,
    ):
        await gone.wait_for_token()
        nursery.start_soon(other.read_all)
        await wait_for_running(engine, 2)
        gone.vanish()
        vanished = trio.current_time()
        await wait_for_running(engine, 1)
        assert trio.current_time() - vanished > 0.8, "neither a FIN nor a RST has told"
        with trio.move_on_after(0.2):
            await gone.read_until(b"[DONE]")
        heard = len(other.arrivals)
        with trio.fail_after(5):
            while len(other.arrivals) == heard:  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_slow_reader_takes_no_more_than_it_says() -> None:
    engine = SimulatedEngine(prefill_tps=1e6, decode_tps=1e5, answer_tokens=10**6)
    async with serving(engine) as server, open_client(server.port, chat_body("hi"), receive_buffer=2048) as client:
        with trio.move_on_after(1):
            await client.read_slowly(100)
    assert 1 <= len(client.body) <= 101
    assert not client.ended.is_set()


async def test_the_last_try_of_a_storm_is_answered_and_the_others_have_gone() -> None:
    engine = SimulatedEngine(prefill_tps=3000, decode_tps=1000, answer_tokens=3)
    async with serving(engine, keep_alive_timeout=0.5) as server, assert_no_orphans(server.app):
        clients = await retry_storm(server.port, LONG, tries=5, within=0.5)
    assert len(clients) == 5
    assert [client.body.endswith(b"data: [DONE]\n\n") for client in clients] == [False] * 4 + [True]
    # A busy machine is late, but nobody comes early.
    assert all(later.sent_at - earlier.sent_at >= 0.1 for earlier, later in pairwise(clients))


async def test_overlapping_tries_are_all_answered() -> None:
    engine = SimulatedEngine(prefill_tps=3000, decode_tps=1000, answer_tokens=3)
    async with serving(engine) as server:
        clients = await retry_storm(server.port, LONG, tries=3, within=0.1, overlapping=True)
    assert all(client.body.endswith(b"data: [DONE]\n\n") for client in clients)
