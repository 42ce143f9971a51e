"""What a client that vanished may come back for: its answer as far as it was computed, and what goes on with it.

Theory of operation. Clients give up at deadlines of their own and send the same request again. Nothing is computed for
a client that is gone, so when it vanishes its generations are suspended, and `RetryMemory` keeps them, with all they
have said, under a key of what was asked. The next request with that key takes them over: it hears at once what was said
before, as an answer of its own with its own ids, and then they go on. Two requests that are alike and both have clients
know nothing of each other.

Every answer is computed through an `Attempt`, which records what its generations say. The attempt of a client that
vanished is *leaving* until its generations have stopped: an equal request that comes in those milliseconds waits, or
both would compute.

Kept are answers with a first token, since a prefill that was cut off is in the engine's cache anyway. An answer that
was complete is kept too, if its client vanished before it took the last byte. What is kept is bounded in time, number
and bytes; what vanished first goes first.
"""

import hashlib
import logging
import math
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType

import trio

from ds4trio.api.task import Task
from ds4trio.chat import Conversation
from ds4trio.engine import (
    Engine,
    Finished,
    Generation,
    GenerationRequest,
    Progress,
    QueueFullError,
    Rest,
    Suspended,
    TextDelta,
)

__all__ = ["Attempt", "RetryMemory", "retry_key"]

log = logging.getLogger("ds4trio.request")

MOST_KEPT = 64
"""Requests."""
MOST_KEPT_BYTES = 128 * 2**20
EVENT_BYTES = 300
"""Of a delta or a logprob, without its text."""
LEAVING_SECONDS = 1.0
"""For which a request waits, in silence, for what its earlier try leaves; not for a step that does not end."""
REPLAYED_AT_ONCE = 32
"""Events between two checkpoints."""


def retry_key(task: Task, prompts: Sequence[Sequence[int]], credentials: Sequence[str]) -> bytes:
    """The digest of all that an answer depends on, whatever the protocol, and of who may have it.

    ``prompts`` are the token ids of the task's prompts. Blocks: a long prompt takes milliseconds.
    """
    asked = replace(task.prompt, messages=()) if isinstance(task.prompt, Conversation) else None
    sampling = sorted(task.overrides.items())
    limits = (task.max_tokens, task.stop, task.n, task.top_logprobs, task.ignore_eos)
    sizes = [len(prompt) for prompt in prompts]
    digest = hashlib.blake2b(repr((asked, sampling, limits, credentials, sizes)).encode(errors="replace"))
    for prompt in prompts:
        digest.update(array("q", prompt))
    return digest.digest()


@dataclass(slots=True)
class _Record:
    """What the generation of one choice has said, and what goes on with it."""

    wanted: bool
    """Whether anything may come of it: not without a key, nor where it has grown too large."""
    events: list[TextDelta | Finished] = field(default_factory=list)
    rest: Rest | None = None
    progress: Progress = field(default_factory=Progress)
    event_bytes: int = 0
    enough: bool = False
    """Whether its reader left it before its end, and would again."""

    @property
    def complete(self) -> bool:
        return self.enough or (bool(self.events) and isinstance(self.events[-1], Finished))

    @property
    def worth_keeping(self) -> bool:
        return self.wanted and (self.complete or self.rest is not None)

    @property
    def output_tokens(self) -> int:
        return max((event.output_tokens for event in self.events if isinstance(event, TextDelta)), default=0)

    @property
    def size_bytes(self) -> int:
        return self.event_bytes + (self.rest.size_bytes if self.rest is not None else 0)

    def add(self, event: TextDelta | Finished) -> None:
        if not self.wanted:
            return
        self.events.append(event)
        self.event_bytes += _size(event)
        if self.event_bytes > MOST_KEPT_BYTES:
            self.wanted = False
            self.events.clear()

    def close(self) -> None:
        if self.rest is not None:
            self.rest.close()
            self.rest = None


class _Recorded:
    """Implements `Generation`: what was said before, then what ``inner`` says; None where nothing more is to come."""

    def __init__(self, record: _Record, inner: Generation | None) -> None:
        self._record = record
        self._inner = inner
        self._said = None if inner is None else aiter(inner)
        self._to_replay = len(record.events)
        self._replayed = 0
        self._prefilled = False

    @property
    def progress(self) -> Progress:
        if self._inner is not None:
            return self._inner.progress
        progress = self._record.progress
        return replace(progress, cached_tokens=progress.prompt_tokens, prefilled_tokens=progress.prompt_tokens)

    async def prefill(self) -> None:
        if self._replayed == self._to_replay:
            await self._prefill()

    async def _prefill(self) -> None:
        if self._inner is not None and not self._prefilled:
            await self._inner.prefill()
            self._prefilled = True

    def __aiter__(self) -> AsyncIterator[TextDelta | Finished]:
        return self

    async def __anext__(self) -> TextDelta | Finished:
        if self._replayed < self._to_replay:
            event = self._record.events[self._replayed]
            self._replayed += 1
            if self._replayed % REPLAYED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            return event if isinstance(event, TextDelta) else _as_cached(event)
        if self._said is None:
            raise StopAsyncIteration
        await self._prefill()
        event = await anext(self._said)
        self._record.add(event)
        return event

    async def suspend(self) -> Suspended:
        suspended = Suspended() if self._inner is None else await self._inner.suspend()
        for event in suspended.events:
            self._record.add(event)
        return suspended


class Attempt:
    """The work of one request, for the length of the ``async with`` block. Made by `RetryMemory.attempt`.

    ``ended`` is set when nothing works for it any more and what is kept of it can be had.
    """

    def __init__(self, memory: "RetryMemory", engine: Engine, key: bytes | None, kind: str, id: str) -> None:
        self.key = key
        self.names = {"protocol": kind, "request": id}
        self.ended = trio.Event()
        self._memory = memory
        self._engine = engine
        self._records: dict[int, _Record] = {}
        self._entered = False
        self._vanished = False
        self._refused = False

    async def __aenter__(self) -> "Attempt":
        """Take over what an earlier try has left. A checkpoint where that try is leaving still: milliseconds."""
        self._records = await self._memory._take(self)
        self._entered = True
        if self._vanished:
            self._memory._leaving.add(self)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Leave what there is to a retry, or to nobody. Not a checkpoint."""
        kept = {}
        for index, record in self._records.items():
            if self._may_return and record.worth_keeping:
                kept[index] = record
            else:
                record.close()
        self._memory._end(self, kept)

    def vanish(self) -> None:
        """Note that the client is gone and may come back; the block is about to be left. Not a checkpoint."""
        self._vanished = True
        if self._entered and not self.ended.is_set():
            self._memory._leaving.add(self)

    @property
    def _may_return(self) -> bool:
        """Whether an equal request may follow."""
        return self.key is not None and (self._vanished or self._refused)

    @asynccontextmanager
    async def generate(
        self,
        index: int,
        request: GenerationRequest,
        *,
        on_progress: Callable[[Progress], None],
        on_computed: Callable[[Progress, int], None] = lambda _progress, _output: None,
    ) -> AsyncGenerator[Generation, None]:
        """`Engine.generate` for choice ``index``; its text begins with what was said of it before.

        At its end ``on_computed`` gets the progress, and how many tokens of output were computed this time.
        """
        record = self._records.setdefault(index, _Record(wanted=self.key is not None))
        if record.complete:
            yield _Recorded(record, None)
            return
        inner: Generation | None = None
        before = record.output_tokens
        try:
            async with AsyncExitStack() as stack:
                try:
                    inner = await stack.enter_async_context(
                        self._engine.generate(request, on_progress=on_progress, rest=record.rest)
                    )
                except QueueFullError:
                    self._refused = True  # it is told to come again
                    raise
                record.rest = None  # it is the generation's now
                generation = _Recorded(record, inner)
                try:
                    yield generation
                    record.enough = True
                finally:
                    record.progress = inner.progress
                    if self._may_return and not record.complete:
                        record.rest = (await generation.suspend()).rest
        finally:
            if inner is not None:  # by now the step that ran when it was stopped counts as well
                on_computed(inner.progress, max(0, inner.progress.output_tokens - before))


@dataclass(frozen=True, slots=True)
class _Kept:
    """All choices of an answer whose client vanished; ``until`` is Trio's clock."""

    records: dict[int, _Record]
    until: float

    @property
    def output_tokens(self) -> int:
        return sum(record.output_tokens for record in self.records.values())

    @property
    def size_bytes(self) -> int:
        return sum(record.size_bytes for record in self.records.values())

    def close(self) -> None:
        for record in self.records.values():
            record.close()


class RetryMemory:
    """What was computed for clients that vanished less than ``window`` seconds ago; 0 keeps nothing.

    It keeps things only while `run` runs.
    """

    def __init__(self, *, window: float) -> None:
        self._window = window
        self._kept: dict[bytes, _Kept] = {}
        """What vanished first comes first."""
        self._leaving: set[Attempt] = set()
        self._open = False
        self._news = trio.Event()

    async def run(self) -> None:
        """Forget what is too old, until cancelled; then forget everything."""
        self._open = True
        try:
            while True:
                self._news = trio.Event()
                with trio.move_on_at(next((kept.until for kept in self._kept.values()), math.inf)):
                    await self._news.wait()
                self._forget(lambda oldest: oldest.until <= trio.current_time())
        finally:
            self._open = False
            self._forget(lambda _: True)

    @property
    def kept(self) -> int:
        """Requests that may be taken over. Not a checkpoint."""
        return len(self._kept)

    def attempt(self, engine: Engine, key: bytes, *, kind: str, id: str) -> Attempt:
        """What computes a request with ``engine``; ``key`` is its `retry_key`, ``kind`` and ``id`` are for the log."""
        return Attempt(self, engine, key if self._window else None, kind, id)

    async def _take(self, attempt: Attempt) -> dict[int, _Record]:
        if attempt.key is None:
            return {}
        with trio.move_on_after(LEAVING_SECONDS):
            while (twin := next((other for other in self._leaving if other.key == attempt.key), None)) is not None:
                await twin.ended.wait()
        if (kept := self._kept.pop(attempt.key, None)) is None:
            return {}
        log.info(
            "%(protocol)s %(request)s takes over an earlier try (output %(output_tokens)d)",
            {"event": "resumed", **attempt.names, "output_tokens": kept.output_tokens},
        )
        return kept.records

    def _end(self, attempt: Attempt, records: dict[int, _Record]) -> None:
        self._leaving.discard(attempt)
        attempt.ended.set()
        if attempt.key is None or not records:
            return
        kept = _Kept(records, trio.current_time() + self._window)
        other = self._kept.pop(attempt.key, None)
        if other is not None and other.output_tokens > kept.output_tokens:
            # Both had clients once, and both vanished: the one that came further is worth more.
            kept, other = replace(other, until=kept.until), kept
        if other is not None:
            other.close()
        self._kept[attempt.key] = kept
        log.info(
            "%(protocol)s %(request)s is kept for a retry for %(seconds)g s (output %(output_tokens)d)",
            {"event": "kept", **attempt.names, "seconds": self._window, "output_tokens": kept.output_tokens},
        )
        self._forget(lambda _: not self._open or len(self._kept) > MOST_KEPT or self._kept_bytes > MOST_KEPT_BYTES)
        self._news.set()

    @property
    def _kept_bytes(self) -> int:
        return sum(kept.size_bytes for kept in self._kept.values())

    def _forget(self, due: Callable[["_Kept"], bool]) -> None:
        """Forget the oldest as long as it is due."""
        while self._kept:
            key, oldest = next(iter(self._kept.items()))
            if not due(oldest):
                break
            del self._kept[key]
            oldest.close()


def _as_cached(event: Finished) -> Finished:
    """The end of an answer of which nothing was computed this time."""
    usage = replace(event.usage, cached_tokens=event.usage.prompt_tokens)
    return replace(event, usage=usage, prefill_seconds=0.0)


def _size(event: TextDelta | Finished) -> int:
    """About how many bytes it takes."""
    if isinstance(event, Finished):
        return EVENT_BYTES
    logprobs = sum(1 + len(logprob.top) for logprob in event.logprobs)
    return EVENT_BYTES * (1 + logprobs) + len(event.text)
