"""The one thread that touches the files of a running server.

Any thread may ask it to read or to write a block, and never waits: reads are answered through a callback, writes wait
in a queue that is bounded in bytes. Somebody waits for a read and nobody for a write. So reads go first, and writes
keep to a rate, since flash wears, and wait for idle moments, since they compete with the engine for memory and the
disk. One that fails is not tried again: what is lost is only time.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from threading import Condition

from ds4trio.cache.disk.block import Block
from ds4trio.cache.disk.format import Payload
from ds4trio.cache.disk.store import BlockStore
from ds4trio.cache.state import State

__all__ = ["DiskThread"]

log = logging.getLogger("ds4trio.cache.disk")

PATIENCE_SECONDS = 0.5
"""How long a write waits for an idle moment."""
BURST_SECONDS = 1.0
"""How long a quiet time counts: so many seconds' worth of bytes may be written at once."""

Then = Callable[[State | None], None]


@dataclass(frozen=True, slots=True)
class _Read:
    block: Block
    then: Then


@dataclass(frozen=True, slots=True)
class _Write:
    block: Block
    payload: Payload
    words: str
    asked_at: float


class DiskThread:
    """Reads and writes blocks of a `BlockStore` in the thread that calls `run`; everything else is for any thread.

    ``bytes_per_second`` bounds writing on average, ``queue_bytes`` what waits to be written. ``clock`` is monotonic.
    """

    def __init__(
        self,
        store: BlockStore,
        *,
        bytes_per_second: float = inf,
        queue_bytes: int = 256 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._bytes_per_second = bytes_per_second
        self._most_queued = queue_bytes
        self._clock = clock
        self._changed = Condition()
        self._reads: deque[_Read] = deque()
        self._writes: deque[_Write] = deque()
        self._queued = 0
        self._idle = True
        self._free_at = -inf
        """When the bytes written so far are paid for."""
        self._closing_at: float | None = None

    @property
    def queued_bytes(self) -> int:
        """Payload that waits to be written or is being written."""
        with self._changed:
            return self._queued

    def read(self, block: Block, then: Then) -> None:
        """Read a block and call ``then`` in the disk thread with its payload, or with None if it cannot be had.

        After `close`, ``then`` is called with None at once, here.
        """
        with self._changed:
            if self._closing_at is None:
                self._reads.append(_Read(block, then))
                self._changed.notify()
                return
        then(None)

    def write(self, block: Block, payload: Payload, words: str = "") -> bool:
        """Queue a block to be written; the payload must not change any more. True too where it is there already.

        False: the queue is full, offer it again later, or the thread is closing. A payload larger than the whole
        queue is taken when nothing else waits.
        """
        with self._changed:
            full = self._queued > 0 and self._queued + len(payload) > self._most_queued
            if full or self._closing_at is not None:
                return False
            if not self._store.announce(block):
                return True
            self._queued += len(payload)
            self._writes.append(_Write(block, payload, words, self._clock()))
            self._changed.notify()
            return True

    def has_room(self, size: int) -> bool:
        """Whether the queue would take so many bytes now."""
        with self._changed:
            return self._closing_at is None and (not self._queued or self._queued + size <= self._most_queued)

    def set_idle(self, idle: bool) -> None:
        """Say that nothing is being computed now, or that something is again. Idle, until somebody says otherwise."""
        with self._changed:
            self._idle = idle
            self._changed.notify()

    def close(self, *, deadline: float) -> None:
        """Let `run` return, at the latest about ``deadline`` seconds from now; does not wait for it.

        Until then what is queued is still done, at full speed; after it, writes are dropped and reads answered None.
        """
        with self._changed:
            self._closing_at = min(self._clock() + deadline, inf if self._closing_at is None else self._closing_at)
            self._changed.notify()

    def run(self) -> None:
        """Do what is asked until `close`. Blocks; call it once, in a thread of its own."""
        while (job := self._next()) is not None:
            if isinstance(job, _Read):
                self._do_read(job)
            else:
                self._do_write(job)
        with self._changed:
            reads, writes = list(self._reads), list(self._writes)
            self._reads.clear()
            self._writes.clear()
        if writes:
            log.warning("%d KV blocks were not written to disk: no time left", len(writes))
        for write in writes:
            self._done(write)
        for read in reads:
            _call(read.then, None)

    def _next(self) -> _Read | _Write | None:
        """Wait for something to do; None: no more."""
        with self._changed:
            while True:
                now = self._clock()
                if self._closing_at is not None and now >= self._closing_at:
                    return None
                if self._reads:
                    return self._reads.popleft()
                if self._writes and self._due() <= now:
                    return self._writes.popleft()
                if self._closing_at is not None and not self._writes:
                    return None
                self._changed.wait(self._due() - now if self._writes else None)

    def _due(self) -> float:
        """When the first write may be made. The condition is held."""
        if self._closing_at is not None:
            return -inf
        crowded = self._queued > self._most_queued / 2
        idle_at = -inf if self._idle or crowded else self._writes[0].asked_at + PATIENCE_SECONDS
        return max(self._free_at, idle_at)

    def _do_read(self, job: _Read) -> None:
        payload = None
        try:
            payload = self._store.read(job.block)
        except Exception:
            log.exception("a KV block could not be read")
        _call(job.then, payload)

    def _do_write(self, job: _Write) -> None:
        self._free_at = max(self._free_at, self._clock() - BURST_SECONDS) + len(job.payload) / self._bytes_per_second
        try:
            self._store.write(job.block, job.payload, words=job.words)
        except Exception:
            log.exception("a KV block could not be written")
        self._done(job)

    def _done(self, job: _Write) -> None:
        self._store.withdraw(job.block)
        with self._changed:
            self._queued -= len(job.payload)


def _call(then: Then, payload: State | None) -> None:
    try:
        then(payload)
    except Exception:
        log.exception("the answer to a read of KV was not taken")
