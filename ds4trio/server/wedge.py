"""When a step does not come back: a driver that hangs, a disk under a mapped model that is gone, a machine that swaps.

Nobody can take a thread back from C. So what can be done is done for those who wait: health turns 503 for whoever
routes requests, the log says what was running, and each answer ends with an error that a client can act on. After twice
the time the process leaves, for its supervisor to start another one: only that frees the memory that the thread holds.
The same where a server that was told to stop waits for such a thread.
"""

import logging
import os
import threading
from collections.abc import Callable

import trio

from ds4trio.api.errors import InternalError
from ds4trio.config import Settings
from ds4trio.server.host import EngineHost
from ds4trio.server.monitor import Board

__all__ = ["WEDGED_STATUS", "watch_for_wedges", "wedge_timeout"]

log = logging.getLogger("ds4trio")

WEDGED_STATUS = os.EX_SOFTWARE
"""With which the process leaves."""
LOOKS = 8
"""At the step, in the time that it may take."""
MOST_SHOWN = 8
LAST_WORDS_SECONDS = 2.0
LONG_STEPS = 16
"""In stalls: a lone prompt's step takes up to eight, and what is expected may be wrong by half."""


def wedge_timeout(settings: Settings) -> float:
    """The seconds that a step may take: what was asked for, but not what healthy steps may take. Not a checkpoint."""
    return max(settings.wedge_timeout, LONG_STEPS * settings.max_stall_ms / 1000)


async def watch_for_wedges(
    host: EngineHost, board: Board, timeout: float, grace: float, *, leave: Callable[[int], None] = os._exit
) -> None:
    """Watch the steps of an engine until it is closed; one may take ``timeout`` seconds.

    From when the server stops it may take no longer than ``grace`` seconds, and all together twice that. A checkpoint;
    cancelling it changes nothing while the engine is still being closed, since that waits for the step.
    """
    look = min(timeout, grace) / LOOKS
    try:
        await host.settled.wait()
    except trio.Cancelled:
        # It is loading still, and a thread may be stuck in that too.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * grace):
            await host.ended.wait()
        if not host.ended.is_set():
            _leave("loading the model does not end", leave)
        raise
    with trio.CancelScope(shield=True):
        stuck = closing = 0.0
        looked = trio.current_time()
        while not host.ended.is_set() and (seconds := host.step_seconds) is not None:
            now = trio.current_time()
            # What passes while nobody can look, since the whole process was stopped, says nothing of a step.
            passed, looked = min(now - looked, 2 * look), now
            stuck = min(stuck + passed, seconds)
            if not host.draining.is_set():
                limit, spent = timeout, stuck
            else:
                closing += passed
                limit, spent = min(timeout, grace), min(stuck, closing)
            if spent >= 2 * limit or closing >= 2 * grace:
                _leave(f"the step has not come back for {seconds:.0f} s", leave)
            elif spent >= limit:
                _give_up(host, board, seconds)
            elif host.state == "wedged":
                log.warning("the step has come back")
                host.state = "ready"
            with trio.move_on_after(look):
                await host.ended.wait()


def _leave(why: str, leave: Callable[[int], None]) -> None:
    """Leave, also where nobody takes the last words: who draws a terminal may be held up with it, and its lock."""

    def say() -> None:
        log.critical("%s: leaving, status %d", why, WEDGED_STATUS)
        logging.shutdown()

    last_words = threading.Thread(target=say, name="last words", daemon=True)
    try:
        last_words.start()
        last_words.join(LAST_WORDS_SECONDS)
    finally:  # there may be no memory for a thread
        leave(WEDGED_STATUS)


def _give_up(host: EngineHost, board: Board, seconds: float) -> None:
    """Tell everybody who waits; at each look, since some were on their way when it began."""
    if host.state != "wedged":
        host.state = "wedged"
        running = [
            f"{id} {progress.phase.value} {progress.prefilled_tokens}/{progress.prompt_tokens}"
            for id, progress in board.computing()
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
