"""When a step does not come back: a driver that hangs, a disk under a mapped model that is gone, a machine that swaps.

Nobody can take a thread back from C. So what can be done is done for those who wait: health turns 503 for whoever
routes requests, the log says what was running, and each answer ends with an error that a client can act on. After twice
the time the process leaves, for its supervisor to start another one: only that frees the memory that the thread holds.
The same where a server that was told to stop waits for such a thread.
"""

import logging
import os
from collections.abc import Callable

import trio

from ds4trio.api.errors import InternalError
from ds4trio.engine import Phase
from ds4trio.server.host import EngineHost
from ds4trio.server.monitor import Board

__all__ = ["WEDGED_STATUS", "watch_for_wedges"]

log = logging.getLogger("ds4trio")

WEDGED_STATUS = os.EX_SOFTWARE
"""With which the process leaves."""
LOOKS = 8
"""At the step, in the time that it may take."""
MOST_SHOWN = 8


async def watch_for_wedges(
    host: EngineHost, board: Board, timeout: float, grace: float, *, leave: Callable[[int], None] = os._exit
) -> None:
    """Watch the steps of an engine until it is closed; one may take ``timeout`` seconds.

    Once the server is stopping it may take no longer than ``grace`` seconds. A checkpoint; cancelling it changes
    nothing while the engine is still being closed, since that waits for the step.
    """
    await host.settled.wait()
    with trio.CancelScope(shield=True):
        while not host.ended.is_set() and (seconds := host.step_seconds) is not None:
            if seconds >= 2 * (min(timeout, grace) if host.draining.is_set() else timeout):
                log.critical("the step has not come back for %.0f s: leaving, status %d", seconds, WEDGED_STATUS)
                logging.shutdown()
                leave(WEDGED_STATUS)
            elif seconds >= timeout and host.state == "ready":
                _give_up(host, board, seconds)
            elif seconds < timeout and host.state == "wedged":
                log.warning("the step has come back")
                host.state = "ready"
            with trio.move_on_after(min(timeout, grace) / LOOKS):
                await host.ended.wait()


def _give_up(host: EngineHost, board: Board, seconds: float) -> None:
    """Tell everybody who waits."""
    host.state = "wedged"
    running = [
        f"{id} {progress.phase.value} {progress.prefilled_tokens}/{progress.prompt_tokens}"
        for id, lifeline in board.live.items()
        for progress in lifeline.running
        if progress.phase is not Phase.QUEUED
    ]
    more = f" and {len(running) - MOST_SHOWN} more" if len(running) > MOST_SHOWN else ""
    log.critical(
        "no step has come back for %.0f s; %d requests live, running: %s%s",
        seconds,
        len(board.live),
        ", ".join(running[:MOST_SHOWN]) or "none",
        more,
    )
    error = InternalError("the model has not answered for a long time; try again later", code="engine_wedged")
    for lifeline in [*board.live.values()]:
        lifeline.stop(error, "the engine is stuck")
