"""The llama engine's face on the event loop: it owns the worker's thread and brings results to their nurseries."""

import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from ds4trio.cache import KvUse
from ds4trio.engine.admission import Admission, Duration, Ticket, seconds_left
from ds4trio.engine.base import (
    EngineError,
    Finished,
    GenerationRequest,
    ModelInfo,
    Phase,
    Progress,
    Rest,
    Suspended,
    TextDelta,
    Tokenizer,
)
from ds4trio.engine.batching import Released, Sequence, Update, Writer
from ds4trio.engine.breakdown import breakdown
from ds4trio.engine.llama.adapters import Adapter
from ds4trio.engine.llama.allocator import leave_no_holes
from ds4trio.engine.llama.context import ContextOptions, Logits
from ds4trio.engine.llama.continuation import Continuation
from ds4trio.engine.llama.grammar import Grammar
from ds4trio.engine.llama.kv_disk import DiskOptions
from ds4trio.engine.llama.model import ModelTokenizer, ended
from ds4trio.engine.llama.worker import Loaded, LoadProgress, News, Worker, WorkerOptions
from ds4trio.engine.split import model_name

__all__ = ["LlamaEngine", "LlamaOptions", "open_llama_engine"]

T = TypeVar("T")

log = logging.getLogger("ds4trio.engine")

# Threads that parse, render and tokenize. They are the engine's own, so that long prompts do not take Trio's threads
# from the rest of the server, nor the other way round. More than there are cores, since some of the work holds the GIL
# and some does not; few enough that what they hold in memory is bounded.
PREPARED_AT_ONCE = 8
# Threads that compile grammars. One whose client has left goes on to its end, in the way of other grammars only.
COMPILED_AT_ONCE = 4
# What a suspended answer holds: llama.cpp keeps a candidate for each token of the vocabulary (12 bytes), in a second
# chain too where the guide was greedy; and Python an int in a list for each token of the answer, more or less.
CANDIDATE_BYTES = 24
TOKEN_BYTES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaOptions:
    """How to open a model. ``context_length`` 0 takes the model's own; sizes in tokens, ``max_stall`` in seconds.

    ``state_bytes`` may be taken for checkpoints, and as much for requests that wait for cells. With ``draft``
    what answers repeat is computed ahead where that pays. KV outlives the process where there is a ``disk``.
    """

    path: Path
    threads: int
    context_length: int = 0
    parallel: int = 4
    max_queue: int = 64
    ubatch: int = 512
    max_stall: float = 0.25
    draft: bool = False
    state_bytes: int = 2**31
    n_gpu_layers: int = -1
    flash_attention: str = "auto"
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    adapters: tuple[Adapter, ...] = ()
    disk: DiskOptions | None = None


class LlamaEngine:
    """Implements `Engine`. Made by `open_llama_engine`."""

    def __init__(self, worker: Worker, loaded: Loaded, admission: Admission) -> None:
        self._worker = worker
        self._loaded = loaded
        self._admission = admission
        self._decoding = Duration()
        self._preparing = trio.CapacityLimiter(PREPARED_AT_ONCE)
        self._compiling = trio.CapacityLimiter(COMPILED_AT_ONCE)
        self._live: set[LlamaGeneration] = set()
        self._ended = False
        self._kv = KvUse(loaded.info.context_length, 0, 0)

    @property
    def info(self) -> ModelInfo:
        """What is known of the model."""
        return self._loaded.info

    @property
    def kv(self) -> KvUse:
        """What the worker said last."""
        return self._kv

    @property
    def running(self) -> int:
        """Requests that are being computed."""
        return self._admission.running

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._admission.waiting

    @property
    def step_seconds(self) -> float:
        """As the worker sees it."""
        return self._worker.step_seconds

    def stop_admission(self) -> None:
        """Start nothing new."""
        self._admission.close()

    async def prepare(self, build: Callable[[Tokenizer], T]) -> T:
        """Build in a thread other than the worker's; llama.cpp computes nothing for it."""
        tokenizer = ModelTokenizer(self._loaded.model, trio.from_thread.check_cancelled)
        return await trio.to_thread.run_sync(build, tokenizer, limiter=self._preparing)

    @asynccontextmanager
    async def generate(
        self,
        request: GenerationRequest,
        *,
        on_progress: Callable[[Progress], None] = lambda _: None,
        rest: Rest | None = None,
    ) -> AsyncGenerator["LlamaGeneration", None]:
        """See `Engine.generate`."""
        assert rest is None or isinstance(rest, LlamaRest)
        if self._ended:
            raise ended(failed=not self._worker.closing)
        generation = LlamaGeneration(self, request, on_progress, rest)
        self._live.add(generation)
        try:
            yield generation
        finally:
            await generation._release()
            self._live.discard(generation)

    async def _compile(self, source: str) -> Grammar:
        # A thread that is abandoned ends on its own and leaves what it made.
        compile_grammar = self._loaded.grammars.compile
        return await trio.to_thread.run_sync(compile_grammar, source, abandon_on_cancel=True, limiter=self._compiling)

    def _worker_ended(self) -> None:
        self._ended = True
        for generation in self._live:
            generation._receive(ended(failed=not self._worker.closing))
            generation._receive(Released())


@dataclass(frozen=True, slots=True)
class LlamaRest:
    """Implements `Rest`: the answer's tokens so far, what decides the next one, and the seconds that they took."""

    tokens: list[int]
    writer: Writer[Logits]
    decoded: float
    vocabulary_size: int

    @property
    def size_bytes(self) -> int:
        """The sampler's candidates, mostly."""
        return CANDIDATE_BYTES * self.vocabulary_size + TOKEN_BYTES * len(self.tokens)

    def close(self) -> None:
        """Free the sampler."""
        self.writer.close()


class LlamaGeneration:
    """Implements `Generation`."""

    def __init__(
        self,
        engine: LlamaEngine,
        request: GenerationRequest,
        on_progress: Callable[[Progress], None],
        rest: LlamaRest | None,
    ) -> None:
        self._engine = engine
        self._ticket: Ticket = engine._admission.join(priority=request.priority, remaining=self._remaining)
        self._request = request
        self._on_progress = on_progress
        self._progress = Progress(prompt_tokens=len(request.prompt))
        self._sequence: Sequence[Logits] | None = None
        """What the worker has; None until it is submitted."""
        self._rest = rest
        """What the sequence is going to begin with."""
        self._prefilled = trio.Event()
        self._released = trio.Event()
        self._events: deque[TextDelta | Finished | EngineError] = deque()
        self._arrived = trio.Event()
        self._finished = False
        self._over = False
        """Whether the worker ended it, well or with an error."""
        self._decoding_since: float | None = None

    @property
    def progress(self) -> Progress:
        """The latest snapshot."""
        if position := self._ticket.position:
            return replace(self._progress, queue_position=position, queue_length=self._engine.waiting)
        return self._progress

    async def prefill(self) -> None:
        """Compile the grammar, wait for a turn, hand the prompt to the worker's thread, wait for the first token."""
        grammar: Grammar | None = None
        if self._rest is None and (source := self._request.grammar) is not None:
            grammar = await self._engine._compile(source)  # time in the queue passes meanwhile
        await self._ticket.turn()
        self._progress = replace(self._progress, phase=Phase.PREFILL)
        begin = partial(
            Continuation,
            self._request,
            vocabulary=self._engine._loaded.model.vocabulary,
            grammar=grammar,
            context_length=self._engine._loaded.info.context_length,
        )
        self._sequence = sequence = Sequence(self._request, begin, self._receive)
        if (rest := self._rest) is not None:
            sequence.writer, sequence.decoded = rest.writer, rest.decoded
            sequence.tokens += rest.tokens
            self._rest = None
        self._engine._worker.submit(sequence)
        await self._prefilled.wait()

    def __aiter__(self) -> AsyncIterator[TextDelta | Finished]:
        """What the worker posts, in order."""
        return self

    async def __anext__(self) -> TextDelta | Finished:
        """The next event; a checkpoint where there is none yet."""
        if self._finished:
            raise StopAsyncIteration
        while not self._events:
            self._arrived = trio.Event()
            await self._arrived.wait()
        event = self._events.popleft()
        if isinstance(event, EngineError):
            raise event
        self._finished = isinstance(event, Finished)
        return event

    async def suspend(self) -> Suspended:
        """Stop the worker and take the writer from it."""
        if (sequence := self._sequence) is None:
            rest, self._rest = self._rest, None
            return Suspended(rest=rest)
        sequence.keeps_writer = True
        await self._stop()
        events = tuple(event for event in self._events if not isinstance(event, EngineError))
        self._events.clear()
        if (writer := sequence.writer) is None:
            return Suspended()
        if self._over or not writer.sampled:
            writer.close()
            return Suspended(events)
        decoded = sequence.decoded + (time.perf_counter() - sequence.answered if sequence.answering else 0.0)
        tokens = sequence.tokens[len(self._request.prompt) :]
        return Suspended(events, LlamaRest(tokens, writer, decoded, self._engine.info.vocabulary_size))

    def _receive(self, update: Update) -> None:
        """On the event loop, called for each update that the worker posts."""
        match update:
            case Progress():
                self._progress = update
                if update.phase is Phase.DECODE:
                    self._decoding_since = self._decoding_since or trio.current_time()
                    self._prefilled.set()
                try:
                    self._on_progress(update)
                except Exception as error:
                    self._receive(EngineError(f"what listens to the progress failed: {type(error).__name__}"))
                    raise
            case Released():
                self._released.set()
            case _:
                self._over |= isinstance(update, Finished | EngineError)
                if isinstance(update, Finished):
                    self._engine._decoding.took(update.decode_seconds)
                    self._progress = replace(self._progress, output_tokens=update.usage.output_tokens)
                if isinstance(update, TextDelta):
                    self._progress = replace(self._progress, output_tokens=update.output_tokens)
                self._events.append(update)
                self._arrived.set()
                self._prefilled.set()

    def _remaining(self) -> float | None:
        """Seconds until this request is likely to end; for `Admission`."""
        return seconds_left(
            self._engine._decoding, prefill_left=self._progress.eta, decoding_since=self._decoding_since
        )

    async def _stop(self) -> None:
        """Wait until the worker has let go of it."""
        if self._sequence is not None and not self._released.is_set():
            self._engine._worker.cancel(self._sequence)
            with trio.CancelScope(shield=True):
                await self._released.wait()

    async def _release(self) -> None:
        try:
            await self._stop()
        finally:
            self._ticket.leave()
            if self._rest is not None:
                self._rest.close()


@asynccontextmanager
async def open_llama_engine(
    options: LlamaOptions, *, on_load: Callable[[float], None] = lambda _: None
) -> AsyncGenerator[LlamaEngine, None]:
    """Load a model and compute for the length of the block.

    Entering waits until the model is loaded and is a checkpoint; ``on_load`` gets the loaded fraction meanwhile.
    Leaving, also by cancellation, aborts the running batch and waits for the thread's end. Raises `EngineError`,
    in an exception group, when the model cannot be loaded.
    """
    leave_no_holes()
    token = trio.lowlevel.current_trio_token()
    admission = Admission(parallel=options.parallel, max_queue=options.max_queue)
    ready = trio.Event()
    loaded: list[Loaded] = []
    engine: LlamaEngine | None = None

    def run_all(calls: list[Callable[[], None]]) -> None:
        # What is raised here would end Trio's loop, and every client with it.
        for call in calls:
            try:
                call()
            except Exception as error:
                log.error("what listens to the engine failed: %s", breakdown(error))

    def hear(news: News) -> None:
        match news:
            case LoadProgress():
                on_load(news.fraction)
            case Loaded():
                loaded.append(news)
                ready.set()
            case KvUse() if engine is not None:
                engine._kv = news

    worker = Worker(_worker_options(options), post=lambda calls: token.run_sync_soon(run_all, calls))

    async with trio.open_nursery() as nursery:

        async def compute() -> None:
            try:
                # A limiter of its own: the thread is held for the engine's life and is nobody else's.
                await trio.to_thread.run_sync(worker.run, hear, limiter=trio.CapacityLimiter(1))
            finally:
                if engine is not None:
                    engine._worker_ended()

        nursery.start_soon(compute)
        try:
            await ready.wait()
            if (disk := loaded[0].disk) is not None:
                nursery.start_soon(partial(trio.to_thread.run_sync, disk.run, limiter=trio.CapacityLimiter(1)))
            engine = LlamaEngine(worker, loaded[0], admission)
            yield engine
        finally:
            worker.close()


def _worker_options(options: LlamaOptions) -> WorkerOptions:
    return WorkerOptions(
        path=str(options.path),
        name=model_name(options.path),
        n_gpu_layers=options.n_gpu_layers,
        max_stall=options.max_stall,
        draft=options.draft,
        state_bytes=options.state_bytes,
        disk=options.disk,
        context=ContextOptions(
            context_length=options.context_length,
            sequences=options.parallel,
            ubatch=options.ubatch,
            threads=options.threads,
            flash_attention=options.flash_attention,
            kv_type_k=options.kv_type_k,
            kv_type_v=options.kv_type_v,
            adapters=options.adapters,
        ),
    )
