"""The queue in front of an engine: at most ``parallel`` requests inside, at most ``max_queue`` waiting.

The more urgent go first, those of one priority in order of arrival; but nobody is overtaken more than `MOST_OVERTAKEN`
times, so a stream of urgent requests keeps no other one out. Tickets live on the event loop only. A place is taken
without waiting, a turn is waited for, and both are given back by `Ticket.leave`, which may be called at any time: a
client that goes away while it waits is out of the queue at once.

Who finds the queue full is told when to come back: when the first of those that run is likely to end, since then the
first of the queue starts and its place is free. An engine that knows how long its request still takes says so in
`Admission.join`; of the others no more is known than how long requests took so far.
"""

import math
from collections.abc import Callable

import trio

from ds4trio.engine.base import EngineStoppedError, QueueFullError

__all__ = ["MOST_OVERTAKEN", "Admission", "Duration", "Ticket", "seconds_left"]

MOST_OVERTAKEN = 8
"""So many that came later may be started before a request."""

# Taken for the length of what was never measured, in seconds.
FIRST_GUESS = 5.0
SMOOTHING = 0.3
# Whole seconds that a client is told to wait. SDKs give up at once when they are told more than one or two minutes.
LEAST_RETRY_AFTER, MOST_RETRY_AFTER = 1, 60


class Duration:
    """How long something takes that happens again and again: the mean, in which the latest count most."""

    def __init__(self) -> None:
        self._mean = FIRST_GUESS

    def took(self, seconds: float) -> None:
        """Count one that has ended."""
        self._mean += SMOOTHING * (seconds - self._mean)

    def left(self, elapsed: float) -> float:
        """Seconds that one is likely to go on that began ``elapsed`` seconds ago.

        One that has outlasted the mean is given as long again: that it must end any moment would be a poor guess.
        """
        return self._mean - elapsed if elapsed < self._mean else self._mean


def seconds_left(decoding: Duration, *, prefill_left: float | None, decoding_since: float | None) -> float | None:
    """What an engine tells `Admission.join` of its request: the rest of its prefill and a mean decode, or the latter's.

    ``decoding_since`` is when its first token came, by Trio's clock, None before; ``prefill_left`` is None while no
    rate is known.
    """
    if decoding_since is not None:
        return decoding.left(trio.current_time() - decoding_since)
    return None if prefill_left is None else prefill_left + decoding.left(0)


class Ticket:
    """One request's place: first in the queue, then among the running. Made by `Admission.join`."""

    def __init__(self, admission: "Admission", priority: int, remaining: Callable[[], float | None]) -> None:
        self._admission = admission
        self._priority = priority
        self._overtaken = 0
        self._remaining = remaining
        self._turn = trio.Event()
        self._granted_at: float | None = None

    @property
    def position(self) -> int:
        """1 for the next to be started, 0 once it is."""
        return self._admission._position(self)

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
    """Hands out tickets, and turns to those who have one."""

    def __init__(self, *, parallel: int, max_queue: int) -> None:
        self._parallel = parallel
        self._max_queue = max_queue
        self._waiting: list[Ticket] = []
        self._positions: dict[Ticket, int] | None = None
        """Of all that wait; None once it has changed. Whoever shows a long queue asks for each of them."""
        self._running: set[Ticket] = set()
        self._closed = False
        self._service = Duration()
        """From a turn to the leaving."""

    @property
    def waiting(self) -> int:
        """How many tickets wait for their turn."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many tickets have had their turn and not left."""
        return len(self._running)

    def join(self, *, priority: int = 0, remaining: Callable[[], float | None] = lambda: None) -> Ticket:
        """Take a place: behind all who are as urgent or more so, or were overtaken often enough, before the others.

        Lower ``priority`` goes first. ``remaining`` is asked for the seconds that this request is still expected to
        take once it had its turn, None while that is unknown. Not a checkpoint. Raises `QueueFullError` or
        `EngineStoppedError`.
        """
        if self._closed:
            raise EngineStoppedError
        if len(self._waiting) >= self._max_queue and len(self._running) >= self._parallel:
            raise QueueFullError(len(self._running), len(self._waiting), self._retry_after())
        ticket = Ticket(self, priority, remaining)
        place = len(self._waiting)
        while place and (other := self._waiting[place - 1])._priority > priority and other._overtaken < MOST_OVERTAKEN:
            other._overtaken += 1
            place -= 1
        self._waiting.insert(place, ticket)
        self._positions = None
        self._grant()
        return ticket

    def close(self) -> None:
        """Wake everyone who waits with `EngineStoppedError`; refuse everyone who comes. Not a checkpoint."""
        self._closed = True
        for ticket in self._waiting:
            ticket._turn.set()
        self._waiting.clear()
        self._positions = None

    def _position(self, ticket: Ticket) -> int:
        if self._positions is None:
            self._positions = {ticket: position for position, ticket in enumerate(self._waiting, 1)}
        return self._positions.get(ticket, 0)

    def _leave(self, ticket: Ticket) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            self._positions = None
        elif ticket in self._running:
            self._running.remove(ticket)
            self._service.took(_elapsed(ticket))
            self._grant()

    def _grant(self) -> None:
        while self._waiting and len(self._running) < self._parallel:
            ticket = self._waiting.pop(0)
            self._positions = None
            self._running.add(ticket)
            ticket._granted_at = trio.current_time()
            ticket._turn.set()

    def _retry_after(self) -> int:
        """Whole seconds until the first of the running is expected to end."""
        soonest = min(self._left(ticket) for ticket in self._running)
        return max(LEAST_RETRY_AFTER, math.ceil(min(MOST_RETRY_AFTER, soonest)))

    def _left(self, ticket: Ticket) -> float:
        known = ticket._remaining()
        return self._service.left(_elapsed(ticket)) if known is None else known


def _elapsed(ticket: Ticket) -> float:
    assert ticket._granted_at is not None
    return trio.current_time() - ticket._granted_at
