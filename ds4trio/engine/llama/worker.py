"""The loop on the one OS thread that computes.

Every OS thread that enters llama.cpp gets an OpenMP pool of its own, and idle pools spin: decode alternating between
two threads costs 8.6 → 22.8 ms a token (2 cores, SmolLM2-135M). So one thread does it all, for the engine's life:
read the mailbox, compose the next batch, decode, sample, post what happened. It never waits for the event loop (a
hop per step costs 10 to 15 %) and sleeps in the mailbox when there is nothing to do.

Other threads call `submit`, `cancel` and `close`; all else happens on the worker's own thread.
"""

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ds4trio.cache import SlotTable
from ds4trio.engine.base import EngineError, ModelInfo
from ds4trio.engine.llama.abort import AbortFlag
from ds4trio.engine.llama.context import Context, ContextOptions, Outcome, open_context
from ds4trio.engine.llama.continuation import Continuation
from ds4trio.engine.llama.grammar import GrammarCompiler
from ds4trio.engine.llama.model import Model, load_model
from ds4trio.engine.llama.sequence import Released, Sequence, Update
from ds4trio.engine.scheduler import compose

__all__ = ["Loaded", "LoadProgress", "Post", "Worker", "WorkerOptions"]

log = logging.getLogger("ds4trio.engine")

# Tokens of context when none were asked for: enough for an agent, and no surprise for the memory.
MOST_CONTEXT = 32_768


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """The fraction of the model that is loaded."""

    fraction: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model is ready; its tokenizer and its grammars may be used from any thread."""

    info: ModelInfo
    model: Model
    grammars: GrammarCompiler


Post = Callable[[list[Callable[[], None]]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What the worker opens; a context length of 0 takes the model's own, at most `MOST_CONTEXT`."""

    path: str
    name: str
    n_gpu_layers: int
    context: ContextOptions


class Worker:
    """Computes sequences until it is closed. ``post`` takes a step's results to the event loop, from any thread."""

    def __init__(self, options: WorkerOptions, *, post: Post) -> None:
        self._options = options
        self._post = post
        self._mailbox: queue.SimpleQueue[Sequence | None] = queue.SimpleQueue()
        self._abort = AbortFlag()
        self._closing = False
        self._sequences: list[Sequence] = []
        self._outbox: list[Callable[[], None]] = []
        self._chunk_turn = True

    # --- any thread -------------------------------------------------------------------------------------------------

    def submit(self, sequence: Sequence) -> None:
        """Hand over a sequence; its listener hears `Released` in the end, on the event loop. Does not block."""
        self._mailbox.put(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Stop working for ``sequence``, inside the running batch if it is in it. Does not block."""
        self._abort.cancel(sequence)
        self._mailbox.put(None)

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def close(self) -> None:
        """Make `run` return soon: a running batch or load is aborted. Does not block."""
        self._closing = True
        self._abort.close()
        self._mailbox.put(None)

    # --- the worker's thread ------------------------------------------------------------------------------------------

    def run(self, on_load: Callable[[LoadProgress | Loaded], None]) -> None:
        """Load the model and compute until `close`. Blocks. Raises `EngineError` if the model cannot be loaded."""
        try:
            self._load_and_serve(on_load)
        except EngineError:
            if not self._closing:  # a load that was given up is no failure
                raise

    def _load_and_serve(self, on_load: Callable[[LoadProgress | Loaded], None]) -> None:

        def loading(fraction: float) -> bool:
            self._post([lambda: on_load(LoadProgress(fraction))])
            return not self._closing

        options = self._options
        with load_model(options.path, n_gpu_layers=options.n_gpu_layers, on_progress=loading) as model:
            sizes = options.context
            if not sizes.context_length:
                length = min(model.trained_context_length, MOST_CONTEXT)
                sizes = replace(sizes, context_length=length)
            with open_context(model, sizes, self._abort) as context:
                loaded = Loaded(_describe(model, context, options.name), model, GrammarCompiler(model))
                self._post([lambda: on_load(loaded)])
                self._serve(model, context, sizes)

    def _serve(self, model: Model, context: Context, sizes: ContextOptions) -> None:
        self._model, self._context = model, context
        self._memory = model.memory
        self._slots = SlotTable(sizes.sequences, whole_only=self._memory.whole_only, window=self._memory.window)
        try:
            while self._read_mail():
                self._step()
                self._flush()
        finally:
            for sequence in self._sequences:
                self._release(sequence)
            self._sequences.clear()
            self._flush()

    def _read_mail(self) -> bool:
        """Take what has come; sleep while there is nothing to compute. False when it is time to end."""
        wait = not self._sequences
        while not self._closing:
            try:
                mail = self._mailbox.get(block=wait)
            except queue.Empty:
                break
            if mail is not None:
                self._sequences.append(mail)
                wait = False
        for sequence in [sequence for sequence in self._sequences if sequence.cancelled]:
            self._end(sequence)
        return not self._closing

    def _step(self) -> None:
        """One batch: compose, decode, and act on what came of it."""
        for sequence in self._sequences:
            if sequence.slot is None and not sequence.preempted:
                self._place(sequence)
        # A batch may take seconds: what is known before it starts is told before it starts.
        self._flush()
        placed = [sequence for sequence in self._sequences if sequence.slot is not None]
        take = compose(
            [sequence.left for sequence in placed],
            ubatch=self._context.ubatch,
            mixed=not self._memory.whole_only,
            chunk_turn=self._chunk_turn,
        )
        self._chunk_turn = not self._chunk_turn
        owners = [sequence for sequence, count in zip(placed, take, strict=True) if count]
        spans = [sequence.span(count) for sequence, count in zip(placed, take, strict=True) if count]
        if not spans:
            return

        # An abort spoils every sequence of a batch where the memory cannot roll back, so there it may only hit a
        # batch that is one sequence's own.
        may_abort = not self._memory.whole_only or len(owners) == 1
        with self._abort.batch(owners, may_abort=may_abort) as valid:
            if not valid:
                return
            outcome, rows = self._context.decode(spans)
        match outcome:
            case Outcome.DONE:
                for sequence, span, row in zip(owners, spans, rows, strict=True):
                    self._advance(sequence, len(span.tokens), row)
            case Outcome.ABORTED:
                self._roll_back(owners)
            case Outcome.NO_CELLS:
                self._make_room()
            case Outcome.FAILED:
                for sequence in owners:
                    self._fail(sequence, EngineError("llama.cpp could not compute a batch"))

    def _place(self, sequence: Sequence) -> None:
        """Give a sequence its slot, with as much of its prompt as any slot still has."""
        if self._memory.window:
            # Cells that left the window of one sequence, idle or not, are free to be overwritten by any other.
            for slot in self._slots.slots:
                slot.first_position = self._context.first_position(slot.id)
        placement = self._slots.place(sequence.tokens)
        if placement is None:
            return
        slot, keep = placement.slot, placement.keep
        if placement.source is not None:
            self._context.copy_prefix(placement.source.id, slot.id, keep)
        elif keep == 0:
            self._context.clear(slot.id)
        elif not self._memory.whole_only:
            self._context.truncate(slot.id, keep)
        if self._context.cells_of(slot.id) != keep:
            log.warning(
                "sequence %d holds %d positions, not %d: not reused",
                slot.id,
                self._context.cells_of(slot.id),
                keep,
            )
            self._context.clear(slot.id)
            keep, slot.tokens = 0, []
        sequence.place(slot, keep)
        if sequence.continuation is None:
            sequence.continuation = Continuation(
                sequence.request,
                vocabulary=self._model.vocabulary,
                grammar=sequence.grammar,
                context_length=self._context.length,
            )
        self._tell(sequence, sequence.progress)

    def _advance(self, sequence: Sequence, count: int, row: int) -> None:
        """Book a computed span and continue the answer where it reached the end of what is known."""
        assert sequence.slot is not None
        sequence.computed += count
        if count > 1:
            sequence.slot.tokens = sequence.tokens[: sequence.computed]
        if row >= 0:
            self._continue(sequence, row)
        elif not sequence.sampled:  # else it is a text that the guide forced, and not the prompt's
            self._tell(sequence, sequence.progress)

    def _continue(self, sequence: Sequence, row: int) -> None:
        assert sequence.continuation is not None
        first = not sequence.sampled
        try:
            extension = sequence.continuation.extend(self._context, row)
        except EngineError as error:
            log.info("a request failed: %s", error, exc_info=error.__cause__)
            self._tell(sequence, error)
            self._end(sequence)
            return
        if first:
            sequence.answered = time.perf_counter()
            self._tell(sequence, sequence.progress)
        sequence.tokens += extension.tokens
        for delta in extension.deltas:
            self._tell(sequence, delta)
        if extension.reason is not None:
            self._tell(sequence, sequence.finished(extension.reason))
            self._end(sequence)

    def _roll_back(self, owners: list[Sequence]) -> None:
        """After an abort: the batch never happened, except where the memory cannot roll back."""
        for sequence in owners:
            assert sequence.slot is not None
            if self._memory.whole_only:
                self._context.clear(sequence.slot.id)
                sequence.computed = 0
                sequence.slot.tokens = []
            else:
                self._context.truncate(sequence.slot.id, sequence.computed)

    def _make_room(self) -> None:
        """The KV has no cells for the batch: an idle prefix goes first, then the youngest sequence waits."""
        if (victim := self._slots.give_up()) is not None:
            self._context.clear(victim.id)
            return
        placed = [sequence for sequence in self._sequences if sequence.slot is not None]
        youngest = placed[-1]
        if len(placed) == 1:
            self._fail(youngest, EngineError("the KV cache has no room for this request; try a larger --ctx"))
            return
        assert youngest.slot is not None
        log.info("KV is full: the youngest of %d requests waits and is computed again later", len(placed))
        self._context.clear(youngest.slot.id)
        self._slots.release(youngest.slot, [])
        youngest.slot, youngest.computed, youngest.preempted = None, 0, True

    def _fail(self, sequence: Sequence, error: EngineError) -> None:
        """End a sequence of which nobody knows what is in its KV."""
        if sequence.slot is not None:
            self._context.clear(sequence.slot.id)
            sequence.computed = 0
        self._tell(sequence, error)
        self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        self._sequences.remove(sequence)
        self._release(sequence)
        for other in self._sequences:
            other.preempted = False

    def _release(self, sequence: Sequence) -> None:
        """Leave the KV as a prefix for others and tell the request's nursery that nothing works for it."""
        if sequence.continuation is not None:
            sequence.continuation.close()
        if (slot := sequence.slot) is not None:
            self._slots.release(slot, sequence.tokens[: sequence.computed])
            sequence.slot = None
        self._tell(sequence, Released())

    def _tell(self, sequence: Sequence, update: Update) -> None:
        self._outbox.append(lambda: sequence.listener(update))

    def _flush(self) -> None:
        if self._outbox:
            self._post(self._outbox)
            self._outbox = []


def _describe(model: Model, context: Context, name: str) -> ModelInfo:
    return ModelInfo(
        name=name,
        description=model.description,
        context_length=context.length,
        trained_context_length=model.trained_context_length,
        chat_template=model.chat_template,
        bos_token=model.vocabulary.bos_token,
        eos_token=model.vocabulary.eos_token,
        sampling=model.sampling,
        parameters=model.parameters,
        size_bytes=model.size_bytes,
        vocabulary_size=model.vocabulary.size,
        special_tokens=model.vocabulary.special,
        control_tokens=model.vocabulary.control,
        shares_prefixes=not model.memory.whole_only,
    )
