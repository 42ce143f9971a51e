"""``ds4trio serve --supervise``: a parent that holds the port and starts the server again when it breaks down.

The parent does nothing else, so there is little in it that could break. The listening socket is its own and every
server inherits it, the way systemd passes sockets (sd_listen_fds(3)): whoever connects while there is no server waits
in the backlog, and gets a 503 with Retry-After while the next one loads its model. KV that is kept on disk is there
again too.
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Sequence

import trio

from ds4trio.server.serve import FIRST_INHERITED, UNUSABLE_MODEL_STATUS
from ds4trio.server.wedge import WEDGED_STATUS

__all__ = ["supervise"]

log = logging.getLogger("ds4trio.supervise")

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SIGNALLED = 128
"""What a shell adds to the number of the signal that ended a program."""
SOON = 60.0
"""Seconds: a server that ends sooner than that has achieved nothing."""
MOST_FAILURES = 5
"""In a row, each sooner than that."""
PAUSES = (0.0, 1.0, 2.0, 5.0)
"""Seconds before the next start, by the number of failures before."""


async def supervise(listener: socket.socket, command: Sequence[str]) -> int:
    """Run a server's ``command`` on a listening socket, again whenever it fails; returns its last status.

    A checkpoint; cancelling it kills the server. It ends when the server ends well, when a SIGTERM or SIGINT has told
    both to, when its model cannot be loaded from the first, and when it fails again and again. SIGHUP is passed on.
    """
    stopping = False
    failures = 0

    async def pass_on() -> None:
        nonlocal stopping
        with trio.open_signal_receiver(*PASSED_ON) as signals:
            receiving.set()
            async for number in signals:
                stopping |= number != signal.SIGHUP
                if child is not None:
                    # While a child is only being started, SIGINT would make Python tell a long story.
                    child.send_signal(signal.SIGTERM if number == signal.SIGINT else number)
                elif stopping:
                    nursery.cancel_scope.cancel()

    def inherit() -> None:
        # In the child, before it becomes another program.
        os.dup2(listener.fileno(), FIRST_INHERITED)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it has a use for it
        os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), "1"

    child: trio.Process | None = None
    receiving = trio.Event()
    status = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_on)
        await receiving.wait()
        while not stopping:
            began = time.monotonic()
            try:
                child = await trio.lowlevel.open_process(
                    command,
                    pass_fds=(FIRST_INHERITED,),
                    preexec_fn=inherit,
                    process_group=0,  # else Ctrl-C at a terminal would reach it twice, which means at once
                )
            except OSError as error:  # no memory for another process, right after the last one had taken it all
                log.error("no server can be started: %s", error.strerror)
                status = os.EX_OSERR
            else:
                try:
                    status = await child.wait()
                finally:
                    if child.returncode is None:
                        child.kill()
                    child = None
            if status == 0 or (status == UNUSABLE_MODEL_STATUS and failures == 0) or stopping:
                break
            failures = failures + 1 if time.monotonic() < began + SOON else 1
            if failures >= MOST_FAILURES:
                log.error(
                    "the server failed %(failures)d times in a row, the last time with status %(status)d",
                    {"event": "gave_up", "failures": failures, "status": status},
                )
                break
            pause = PAUSES[failures - 1]
            log.error(
                "the server ended with status %(status)d: started again in %(seconds)g s",
                {"event": "restarting", "status": status, "seconds": pause},
            )
            await trio.sleep(pause)
        nursery.cancel_scope.cancel()
    if stopping and status != WEDGED_STATUS:
        return 0  # whatever came before, or that it had no time to be told in words
    return status if status >= 0 else SIGNALLED - status
