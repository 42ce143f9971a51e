"""The queue in front of an engine: at most ``parallel`` requests inside, at most ``max_queue`` waiting, in order.

Tickets live on the event loop only. A place is taken without waiting, a turn is waited for, and both are given back
by `Ticket.leave`, which may be called at any time: a client that goes away while it waits is out of the queue at once.
"""

import math

import trio

from ds4trio.engine.base import EngineStoppedError, QueueFullError

__all__ = ["Admission", "Ticket"]

# Before any request has ended there is no measured time of service to derive a Retry-After from.
FIRST_RETRY_AFTER = 5.0
SMOOTHING = 0.3
# The SDKs do not retry at all when they are told to wait for more than 120 s.
MOST_RETRY_AFTER = 60


class Ticket:
    """One request's place: first in the queue, then among the running."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self._turn = trio.Event()
        self._granted_at: float | None = None

    @property
    def position(self) -> int:
        """1 for the next to be started, 0 once it is."""
        waiting = self._admission._waiting
        return waiting.index(self) + 1 if self in waiting else 0

    async def turn(self) -> None:
        """Wait until this request may run.

        A checkpoint; cancelling it leaves the ticket in the queue, so `leave` is still due. Raises
        `EngineStoppedError` when the admission was closed before the turn came.
        """
        await self._turn.wait()
        if self._granted_at is None:
            raise EngineStoppedError

    def leave(self) -> None:
        """Give the place back. Safe to call twice. Not a checkpoint."""
        self._admission._leave(self)


class Admission:
    """Hands out tickets in order of arrival."""

    def __init__(self, *, parallel: int, max_queue: int) -> None:
        self._parallel = parallel
        self._max_queue = max_queue
        self._waiting: list[Ticket] = []
        self._running: set[Ticket] = set()
        self._closed = False
        self._seconds_per_request = FIRST_RETRY_AFTER

    @property
    def waiting(self) -> int:
        """How many tickets wait for their turn."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many tickets have had their turn and not left."""
        return len(self._running)

    def join(self) -> Ticket:
        """Take the last place. Not a checkpoint. Raises `QueueFullError` or `EngineStoppedError`."""
        if self._closed:
            raise EngineStoppedError
        if len(self._waiting) >= self._max_queue and len(self._running) >= self._parallel:
            raise QueueFullError(len(self._waiting), self._retry_after())
        ticket = Ticket(self)
        self._waiting.append(ticket)
        self._grant()
        return ticket

    def close(self) -> None:
        """Wake everyone who waits with `EngineStoppedError`; refuse everyone who comes. Not a checkpoint."""
        self._closed = True
        for ticket in self._waiting:
            ticket._turn.set()
        self._waiting.clear()

    def _leave(self, ticket: Ticket) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        elif ticket in self._running:
            self._running.remove(ticket)
            assert ticket._granted_at is not None
            took = trio.current_time() - ticket._granted_at
            self._seconds_per_request += SMOOTHING * (took - self._seconds_per_request)
            self._grant()

    def _grant(self) -> None:
        while self._waiting and len(self._running) < self._parallel:
            ticket = self._waiting.pop(0)
            self._running.add(ticket)
            ticket._granted_at = trio.current_time()
            ticket._turn.set()

    def _retry_after(self) -> int:
        """Whole seconds until a place in the queue is likely to be free, from the measured time of service."""
        return min(MOST_RETRY_AFTER, max(1, math.ceil(self._seconds_per_request / self._parallel)))
