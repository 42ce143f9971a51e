"""The lifeline: a response whose nursery computes beside a heartbeat.

Theory of operation. Quart enters a response body with ``async with`` and iterates it in one task, so the body can be
the request's nursery. Two kinds of tasks live in it:

* `_compute` hands the prompt to the engine and waits for the first token, then brings the text, reads it (reasoning,
  content, tool calls) and has the protocol write it down; with several choices, one task each;
* `_watch` is a silence timer on the wall clock: whatever is written re-arms it, and when nothing was written for an
  interval it speaks. It does not depend on progress, since one chunk of prefill may take minutes, and it lives as long
  as the stream, since a decode is silent too while a tool call is being composed. When a client has taken no bytes for
  ``stall_timeout``, it closes it all.

They write into an outbox that the body's iteration empties, so nobody who computes ever waits for a client. When the
client goes, the connection cancels the task that iterates; the nursery closes, and leaving ``attempt.generate`` inside
it stops the computation within the running batch. What was computed may be kept for the client's retry; see `retries`.

A stream's status goes out as soon as the engine has taken the request. A document's may still change until its result
is known or ``json_grace`` has passed, so `connection` enters the body before it sends the status.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType

import trio
from quart.wrappers.response import ResponseBody

from ds4trio.api.answer import Answer
from ds4trio.api.errors import ApiError, CancelledError, TooOldError
from ds4trio.engine import EngineError, Finished, Generation, Progress, TextDelta
from ds4trio.engine.breakdown import first_leaf
from ds4trio.server.bodies import stream_response
from ds4trio.server.choices import Choice, Tally
from ds4trio.server.errors import api_error, log_breakdown
from ds4trio.server.heartbeat import Heartbeat
from ds4trio.server.monitor import Board, Record
from ds4trio.server.retries import Attempt

__all__ = ["Lifeline", "LifelineTimes"]


@dataclass(frozen=True, slots=True)
class LifelineTimes:
    """Seconds. A grace of 0 turns the early 200 of documents off. At ``age`` a request ends with an error."""

    heartbeat: Heartbeat
    json_grace: float
    stall_timeout: float
    age: float = math.inf


@dataclass(frozen=True, slots=True)
class _Place:
    """A choice and its place in the engine, which ``exit`` gives back."""

    index: int
    choice: Choice
    generation: Generation
    exit: AsyncExitStack


class Lifeline(ResponseBody):
    """The body of an answer that is still to be computed. `response` is what a view returns.

    ``attempt`` computes the ``choices`` side by side; those that have the same prompt wait for the first of them to be
    prefilled and share its KV. While it is alive the lifeline stands on the ``board``.
    """

    def __init__(
        self,
        *,
        attempt: Attempt,
        choices: Sequence[Choice],
        answer: Answer,
        times: LifelineTimes,
        record: Record,
        board: Board,
    ) -> None:
        self._attempt = attempt
        self._board = board
        self._choices = choices
        self._answer = answer
        self._times = times
        self._record = record
        record.where = lambda: self.progress
        self._tally = Tally()
        self._first: Generation | None = None
        self._running: list[Generation] = []
        self._outbox: list[bytes] = []
        self._wake = trio.Event()
        self._written_at = 0.0
        self._committed = False
        self._failed = False
        self._stopped = False
        self._cancelled_at: float | None = None
        self._ended = trio.Event()
        self._stalled_at = math.inf
        """When the client will have taken nothing for too long; never, while it has nothing to take."""
        self._alarm = trio.CancelScope()
        """What wakes `_watch`."""
        self._compute_scope = trio.CancelScope()
        self.cause = "the server stops"
        """Why the computation was cancelled, if it was."""
        self.on_stall: Callable[[], None] = lambda: None
        self.response = stream_response(self, content_type=answer.content_type)

    async def __aenter__(self) -> "Lifeline":
        """Join the engine's queue; for a document, wait for its result as long as its status may change.

        A checkpoint; cancelling it leaves nothing behind.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(self._board.showing(self._record, self))
            await stack.enter_async_context(self._attempt)
            self._nursery = await stack.enter_async_context(trio.open_nursery())
            await self._nursery.start(self._compute)
            self._nursery.start_soon(self._watch)
            if not self._answer.streams:
                with trio.move_on_after(self._times.json_grace or math.inf):
                    await self._ended.wait()
                if not self._ended.is_set():
                    self._commit()
            if not self._committed:
                self.response.content_length = sum(map(len, self._outbox))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(  # type: ignore[override]  # Quart types it as None; absorbing our own cancel is the point
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        """Stop what still runs; returns when nothing does."""
        self._nursery.cancel_scope.cancel()
        return await self._stack.__aexit__(exc_type, exc, tb)

    def __aiter__(self) -> "Lifeline":
        """The bytes, as they become due."""
        return self

    async def __anext__(self) -> bytes:
        """Everything that was written since the last time; a checkpoint."""
        self._stalled_at = math.inf
        while not self._outbox and not self._ended.is_set():
            self._wake = trio.Event()
            await self._wake.wait()
        # Until the next call the client has these bytes to take, or the end of the answer.
        self._stalled_at = trio.current_time() + self._times.stall_timeout
        self._wake_watch(self._stalled_at)
        if not self._outbox:
            raise StopAsyncIteration
        data = b"".join(self._outbox)
        self._outbox.clear()
        return data

    async def make_conditional(self, begin: int, end: int | None) -> int:
        """Ranges make no sense here; Quart never asks for them on its own."""
        raise NotImplementedError

    @property
    def progress(self) -> Progress:
        """Where the request is; of several choices, where the one is that began last."""
        generation = self._running[-1] if self._running else self._first
        return generation.progress if generation is not None else Progress()

    @property
    def running(self) -> list[Progress]:
        """Where each of the choices is that are being computed."""
        return [generation.progress for generation in self._running]

    @property
    def key(self) -> str:
        """The name of the API key that it came with."""
        return self._record.key

    @property
    def kind(self) -> str:
        """The protocol's short name."""
        return self._record.kind

    def farewell(self, error: ApiError) -> bytes:
        """The last bytes of an answer that the server has to cut off after its headers. Not a checkpoint."""
        rest = b"".join(self._outbox)
        if self._ended.is_set():
            return rest
        last_word = self._last_word(error)
        self._record.parted(last_word)
        return rest + last_word

    def refuse(self, error: ApiError) -> bytes:
        """The whole of an answer that the server has to cut off before its headers. Not a checkpoint."""
        self._last_word(error)
        refusal = self._answer.refusal(error)
        self._record.parted(refusal)
        return refusal

    def vanish(self, cause: str) -> None:
        """The client is gone and may come back; whoever says so leaves the body. Not a checkpoint."""
        self.cause = cause
        if not self._failed:  # else a retry gets another answer
            self._attempt.vanish()

    def abandon(self) -> None:
        """Nobody hears the end of this answer; what its protocol keeps of it still gets one. Not a checkpoint."""
        if not self._ended.is_set():
            self._last_word(CancelledError())

    def _last_word(self, error: ApiError) -> bytes:
        self._ended.set()
        return self._answer.error(error)

    def stop(self, error: ApiError, cause: str) -> bool:
        """End the answer with ``error`` in its protocol's own form and stop computing; False if it has ended before.

        Not a checkpoint.
        """
        if self._ended.is_set():
            return False
        self.cause = cause
        self._stopped = True
        self._cancelled_at = time.monotonic()
        self._fail(error)
        self._compute_scope.cancel()
        return True

    async def _compute(self, task_status: trio.TaskStatus[None]) -> None:
        """Task 1: the prompt, then the text. Reports itself started when the engine has taken or refused it."""
        try:
            with self._compute_scope:
                await self._compute_choices(task_status)
        except* Exception as group:
            error = first_leaf(group)
            assert isinstance(error, Exception)
            if not isinstance(error, EngineError):
                log_breakdown(error)
            self._fail(api_error(error))
        finally:
            if self._cancelled_at is not None and (self._stopped or not self._ended.is_set()):
                self._record.cancelled(self.cause, time.monotonic() - self._cancelled_at)
        if self._first is None:
            task_status.started()

    async def _compute_choices(self, task_status: trio.TaskStatus[None]) -> None:
        async with AsyncExitStack() as stack:
            places = []
            # All places are taken now, while a full queue can still be told by a status.
            for index, choice in enumerate(self._choices):
                exit = stack if len(self._choices) == 1 else await stack.enter_async_context(AsyncExitStack())
                # The first of them tells the story: where it is, the others soon are.
                hear = _ignore if index else self._heard
                computed = self._record.computed
                generate = self._attempt.generate(index, choice.request, on_progress=hear, on_computed=computed)
                generation = await exit.enter_async_context(generate)
                places.append(_Place(index, choice, generation, exit))
            self._first = places[0].generation
            if self._answer.streams:
                self._commit()
            task_status.started()
            if len(places) == 1:  # a queue of a thousand has no use for a thousand nurseries more
                await self._bring(places[0], None, trio.Event())
            else:
                await self._bring_all(places)
            if not self._ended.is_set():
                self._end(self._answer.finish(self._tally.usage))

    async def _bring_all(self, places: Sequence[_Place]) -> None:
        prefilled: dict[int, trio.Event] = {}
        async with trio.open_nursery() as nursery:
            for place in places:
                prompt = id(place.choice.request.prompt)
                leader = prefilled.get(prompt)
                done = prefilled.setdefault(prompt, trio.Event())
                nursery.start_soon(self._bring, place, leader, done)

    async def _bring(self, place: _Place, leader: trio.Event | None, done: trio.Event) -> None:
        """One choice, from its turn to its end. Others may wait for its place, so that is given back at once."""
        index, choice, generation = place.index, place.choice, place.generation
        try:
            if leader is not None:
                await leader.wait()
            self._running.append(generation)
            await generation.prefill()
            done.set()
            began = trio.current_time()
            async for event in generation:
                if self._ended.is_set():  # events that were there before the answer was stopped
                    return
                if isinstance(event, TextDelta):
                    self._record.sampled(index, event)
                    if (delta := choice.read(event)) is not None:
                        self._record.read(index, delta)
                        self._write(self._answer.delta(index, delta))
                    if not choice.complete:
                        continue
                    end = choice.cut_short(generation.progress, trio.current_time() - began)
                else:
                    end = event
                self._finish(index, choice, end, shared=leader is not None)
                break
            self._running.remove(generation)
            await place.exit.aclose()
        except trio.Cancelled:
            self._cancelled_at = time.monotonic()
            raise

    def _finish(self, index: int, choice: Choice, event: Finished, *, shared: bool) -> None:
        delta, ending = choice.finish(event)
        if delta is not None:
            self._record.read(index, delta)
            self._write(self._answer.delta(index, delta))
        self._tally.add(ending.usage, shared=shared)
        self._record.finished(index, event)
        self._write(self._answer.end(index, ending))

    def _heard(self, progress: Progress) -> None:
        self._record.progressed(progress)
        if self._committed and not self._ended.is_set():
            self._write(self._answer.prefill(progress))

    async def _watch(self) -> None:
        """Task 2: never silent for longer than an interval; and a client that takes no bytes is gone.

        Also when the last bytes are all that it has to take. Both are one task, since a thousand may wait.
        """
        interval, age = self._times.heartbeat.interval, self._times.age
        while True:
            over = math.inf if self._ended.is_set() else self._record.arrived + age
            beat = self._written_at + interval if self._committed and not self._ended.is_set() else math.inf
            self._alarm = trio.CancelScope(deadline=min(over, beat, self._stalled_at))
            with self._alarm:
                await trio.sleep_forever()
            now = trio.current_time()
            if now >= self._stalled_at:
                break
            if now >= over:
                self.stop(TooOldError(age), "it took as long as a request may")
            elif now >= beat and now >= self._written_at + interval and not self._ended.is_set():
                self._beat()
        self.vanish(f"the client took no bytes for {self._times.stall_timeout:g} s")
        self._nursery.cancel_scope.cancel()
        self.on_stall()

    def _wake_watch(self, at: float) -> None:
        self._alarm.deadline = min(self._alarm.deadline, at)

    def _beat(self) -> None:
        if self._outbox:
            # The client is behind with what it has: another beat would tell it nothing.
            self._written_at = trio.current_time()
        else:
            form = self._times.heartbeat.form
            self._write(self._answer.beat(self.progress, form), beat=form)

    def _commit(self) -> None:
        """From here on the status is 200, and silence is broken."""
        if self._ended.is_set():
            return
        self._committed = True
        self._write(self._answer.start(self.progress))
        self._wake_watch(trio.current_time() + self._times.heartbeat.interval)

    def _fail(self, error: ApiError) -> None:
        """End with an error: as a status where none was sent, else in the protocol's own form."""
        if self._ended.is_set():
            return
        self._failed = True
        if not self._stopped:
            self._record.failed(error)
        # Called in any case, since a protocol may keep more of an answer than its bytes.
        last_word = self._answer.error(error)
        if self._committed:
            self._end(last_word)
            return
        self.response.status_code = error.status
        self.response.content_type = "application/json"
        if error.retry_after is not None:
            self.response.headers["Retry-After"] = str(error.retry_after)
        self._end(self._answer.refusal(error))

    def _end(self, data: bytes) -> None:
        self._ended.set()
        self._write(data)
        self._wake.set()

    def _write(self, data: bytes, *, beat: str = "") -> None:
        if data:
            self._record.wrote(data, beat=beat)
            self._written_at = trio.current_time()
            self._outbox.append(data)
            self._wake.set()


def _ignore(_: Progress) -> None:
    pass
