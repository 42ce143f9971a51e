"""A step that does not come back, in virtual time: who is told, and when the process leaves."""

import math
import subprocess
import sys
from functools import partial

import trio
from trio.testing import MockClock

from ds4trio.config import Settings
from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.server.host import EngineHost
from ds4trio.server.monitor import Board
from ds4trio.server.wedge import LOOKS, WEDGED_STATUS, watch_for_wedges

TIMEOUT, GRACE = 40.0, 4.0
LOOK = GRACE / LOOKS


class StuckEngine(SimulatedEngine):
    """Its step does not come back from ``stuck_at`` on."""

    stuck_at = math.inf

    @property
    def step_seconds(self) -> float:  # type: ignore[override]  # the simulated one knows that it has none
        return max(0.0, trio.current_time() - self.stuck_at)


async def watched(engine: StuckEngine, nursery: trio.Nursery) -> tuple[EngineHost, list[float]]:
    """A host whose engine is watched, and the times at which the process would have left."""
    host = EngineHost(Settings(engine="simulated"), engine)
    left: list[float] = []

    def leave(status: int) -> None:
        assert status == WEDGED_STATUS != 0
        left.append(trio.current_time())
        nursery.cancel_scope.cancel()
        host.ended.set()  # no process goes on from here

    nursery.start_soon(host.run)
    nursery.start_soon(partial(watch_for_wedges, host, Board(kv=lambda: None), TIMEOUT, GRACE, leave=leave))
    await host.settled.wait()
    return host, left


def state_of(host: EngineHost) -> str:
    return host.state


async def test_it_leaves_after_twice_the_time(autojump_clock: MockClock) -> None:
    engine = StuckEngine(context_length=1024)
    async with trio.open_nursery() as nursery:
        host, left = await watched(engine, nursery)
        engine.stuck_at = begun = trio.current_time()
        await trio.sleep(TIMEOUT - LOOK)
        assert state_of(host) == "ready"
        await trio.sleep(2 * LOOK)
        assert state_of(host) == "wedged"
        await trio.sleep_forever()
    assert begun + 2 * TIMEOUT <= left[0] <= begun + 2 * TIMEOUT + LOOK


async def test_a_step_that_comes_back_is_forgiven(autojump_clock: MockClock) -> None:
    engine = StuckEngine(context_length=1024)
    async with trio.open_nursery() as nursery:
        host, left = await watched(engine, nursery)
        engine.stuck_at = trio.current_time()
        await trio.sleep(TIMEOUT + LOOK)
        assert state_of(host) == "wedged"
        engine.stuck_at = math.inf
        await trio.sleep(2 * LOOK)
        assert state_of(host) == "ready"
        await trio.sleep(3 * TIMEOUT)
        assert state_of(host) == "ready"
        assert not left
        nursery.cancel_scope.cancel()


async def test_a_server_that_stops_waits_for_no_longer_than_twice_its_grace(autojump_clock: MockClock) -> None:
    engine = StuckEngine(context_length=1024)
    async with trio.open_nursery() as nursery:
        host, left = await watched(engine, nursery)
        engine.stuck_at = trio.current_time()
        await trio.sleep(TIMEOUT / 2)
        host.drain()
        drained = trio.current_time()
        await trio.sleep(GRACE + 2 * LOOK)
        assert state_of(host) == "wedged", "all are told before it leaves"
        await trio.sleep_forever()
    assert drained + 2 * GRACE - LOOK <= left[0] <= drained + 2 * GRACE + 2 * LOOK


async def test_a_process_that_was_stopped_as_a_whole_is_not_stuck(autojump_clock: MockClock) -> None:
    engine = StuckEngine(context_length=1024)
    async with trio.open_nursery() as nursery:
        host, left = await watched(engine, nursery)
        engine.stuck_at = trio.current_time()
        await trio.sleep(LOOK)
        autojump_clock.jump(5 * TIMEOUT)  # nobody could look meanwhile
        await trio.sleep(2 * LOOK)
        assert state_of(host) == "ready"
        assert not left
        nursery.cancel_scope.cancel()


async def test_a_model_that_does_not_end_loading_does_not_hold_up_the_end(autojump_clock: MockClock) -> None:
    host = EngineHost(Settings(engine="simulated"), SimulatedEngine(context_length=1024))
    left: list[float] = []
    with trio.move_on_after(1) as scope:
        board = Board(kv=lambda: None)
        await watch_for_wedges(host, board, TIMEOUT, GRACE, leave=lambda _: left.append(trio.current_time()))
    assert scope.cancelled_caught
    assert left == [scope.deadline + 2 * GRACE]


async def test_one_that_does_is_not_left(autojump_clock: MockClock) -> None:
    host = EngineHost(Settings(engine="simulated"), SimulatedEngine(context_length=1024))
    host.ended.set()
    with trio.move_on_after(1) as scope:
        await watch_for_wedges(host, Board(kv=lambda: None), TIMEOUT, GRACE)
    assert scope.cancelled_caught


async def test_an_engine_without_a_thread_is_not_watched(autojump_clock: MockClock) -> None:
    host = EngineHost(Settings(engine="simulated"), SimulatedEngine(context_length=1024))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run)
        await watch_for_wedges(host, Board(kv=lambda: None), TIMEOUT, GRACE)
        nursery.cancel_scope.cancel()


STUCK = """
import logging, os, threading
from ds4trio.server.wedge import _leave

class Stuck(logging.Handler):
    def flush(self):
        threading.Event().wait()

stuck = Stuck()
_leave("the step has not come back", os._exit)
"""


def test_a_log_that_is_stuck_too_keeps_nobody() -> None:
    left = subprocess.run([sys.executable, "-c", STUCK], timeout=30, check=False, capture_output=True)
    assert left.returncode == WEDGED_STATUS
    assert b"leaving, status 70" in left.stderr
