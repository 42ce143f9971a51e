"""The lifeline: a response whose nursery computes beside a heartbeat.

Theory of operation. Quart enters a response body with ``async with`` and iterates it in one task, so the body can be
the request's nursery. Three tasks live in it:

* `_compute` hands the prompt to the engine and waits for the first token, then brings the text;
* `_heartbeat` is a silence timer on the wall clock: whatever is written re-arms it, and when nothing was written for an
  interval it speaks. It does not depend on progress, since one chunk of prefill may take minutes;
* `_watch_client` waits for the moment when a client has taken no bytes for ``stall_timeout``, and closes it all.

The first two write into an outbox that the body's iteration empties, so nobody who computes ever waits for a client.
When the client goes, the connection cancels the task that iterates; the nursery closes, and leaving
``engine.generate`` inside it stops the computation within the running batch.

A stream's status goes out as soon as the engine has taken the request. A document's may still change until its result
is known or ``json_grace`` has passed, so `connection` enters the body before it sends the status.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType

import trio
from quart import Response
from quart.wrappers.response import ResponseBody

from ds4trio.api.answer import Answer
from ds4trio.api.errors import ApiError
from ds4trio.engine import Engine, EngineError, Finished, Generation, GenerationRequest, Progress, TextDelta
from ds4trio.server.errors import api_error
from ds4trio.server.request_log import RequestLog

__all__ = ["Lifeline", "LifelineTimes"]

log = logging.getLogger("ds4trio")


@dataclass(frozen=True, slots=True)
class LifelineTimes:
    """Seconds. 0 turns the heartbeat off, or the early 200 of documents."""

    heartbeat_interval: float
    json_grace: float
    stall_timeout: float


class Lifeline(ResponseBody):
    """The body of an answer that is still to be computed. `response` is what a view returns."""

    def __init__(
        self,
        *,
        engine: Engine,
        request: GenerationRequest,
        answer: Answer,
        times: LifelineTimes,
        record: RequestLog,
    ) -> None:
        self._engine = engine
        self._request = request
        self._answer = answer
        self._times = times
        self._record = record
        self._generation: Generation | None = None
        self._outbox: list[bytes] = []
        self._wake = trio.Event()
        self._written_at = 0.0
        self._committed = False
        self._cancelled_at: float | None = None
        self._ended = trio.Event()
        # Its deadline runs while the client has bytes to take and takes none.
        self._stall_scope = trio.CancelScope()
        self.cause = "the server stops"
        """Why the computation was cancelled, if it was. The connection writes it when the client goes."""
        self.on_stall: Callable[[], None] = lambda: None
        self.response = Response(self, content_type=answer.content_type)
        self.response.timeout = None
        self.response.headers["Cache-Control"] = "no-cache"
        # nginx would collect the stream and defeat every heartbeat.
        self.response.headers["X-Accel-Buffering"] = "no"

    async def __aenter__(self) -> "Lifeline":
        """Join the engine's queue; for a document, wait for its result as long as its status may change.

        A checkpoint; cancelling it leaves nothing behind.
        """
        async with AsyncExitStack() as stack:
            self._nursery = await stack.enter_async_context(trio.open_nursery())
            await self._nursery.start(self._compute)
            if not self._answer.streams:
                with trio.move_on_after(self._times.json_grace or math.inf):
                    await self._ended.wait()
                if not self._ended.is_set():
                    self._commit()
            if not self._committed:
                self.response.content_length = sum(map(len, self._outbox))
            self._nursery.start_soon(self._watch_client)
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
        self._stall_scope.deadline = math.inf
        while not self._outbox and not self._ended.is_set():
            self._wake = trio.Event()
            await self._wake.wait()
        # Until the next call the client has these bytes to take, or the end of the answer.
        self._stall_scope.deadline = trio.current_time() + self._times.stall_timeout
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
        """Where the request is."""
        return self._generation.progress if self._generation is not None else Progress()

    def farewell(self, error: ApiError) -> bytes:
        """The last bytes of an answer that the server has to cut off after its headers. Not a checkpoint."""
        return b"".join(self._outbox) + self._answer.error(error)

    async def _compute(self, task_status: trio.TaskStatus[None]) -> None:
        """Task 1: the prompt, then the text. Reports itself started when the engine has taken or refused it."""
        try:
            async with self._engine.generate(self._request, on_progress=self._record.progress) as generation:
                self._generation = generation
                if self._answer.streams:
                    self._commit()
                task_status.started()
                await self._bring(generation)
        except EngineError as error:
            self._fail(api_error(error))
        except Exception as error:
            log.exception("a request broke down")
            self._fail(api_error(error))
        finally:
            if self._cancelled_at is not None:
                self._record.cancelled(self.cause, self.progress, time.monotonic() - self._cancelled_at)
        if self._generation is None:
            task_status.started()

    async def _bring(self, generation: Generation) -> None:
        try:
            await generation.prefill()
            async for event in generation:
                self._write_event(event)
        except trio.Cancelled:
            self._cancelled_at = time.monotonic()
            raise

    async def _heartbeat(self) -> None:
        """Task 2: never silent for longer than an interval."""
        while True:
            last = self._written_at
            await trio.sleep_until(last + self._times.heartbeat_interval)
            if self._ended.is_set():
                return
            if self._outbox:
                # The client is behind with what it has: another beat would tell it nothing.
                self._written_at = trio.current_time()
            elif self._written_at == last:
                self._write(self._answer.beat(self.progress))

    async def _watch_client(self) -> None:
        """Task 3: a client that takes no bytes is gone, also when the last bytes are all that it has to take."""
        with self._stall_scope:
            await trio.sleep_forever()
        self.cause = f"the client took no bytes for {self._times.stall_timeout:g} s"
        self._nursery.cancel_scope.cancel()
        self.on_stall()

    def _commit(self) -> None:
        """From here on the status is 200, and silence is broken."""
        self._committed = True
        self._write(self._answer.start())
        if self._times.heartbeat_interval > 0:
            self._nursery.start_soon(self._heartbeat)

    def _write_event(self, event: TextDelta | Finished) -> None:
        if isinstance(event, TextDelta):
            self._write(self._answer.delta(event))
            return
        self._record.finished(event.reason, event.usage)
        self._end(self._answer.finish(event))

    def _fail(self, error: ApiError) -> None:
        """End with an error: as a status where none was sent, else in the protocol's own form."""
        self._record.failed(error.message)
        if self._committed:
            self._end(self._answer.error(error))
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

    def _write(self, data: bytes) -> None:
        if data:
            self._written_at = trio.current_time()
            self._outbox.append(data)
            self._wake.set()
