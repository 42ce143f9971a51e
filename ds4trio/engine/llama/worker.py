"""The loop on the one OS thread that computes.

Every OS thread that enters llama.cpp gets an OpenMP pool of its own, and idle pools spin: decode alternating between
two threads costs 8.6 → 22.8 ms a token (2 cores, SmolLM2-135M). So one thread does it all, for the engine's life:
read the mailbox, compose the next batch, decode, sample, post what happened. It never waits for the event loop (a
hop per step costs 10 to 15 %) and sleeps in the mailbox when there is nothing to do.

Other threads call `submit`, `cancel` and `close`; all else happens on the worker's own thread.
"""

import math
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ds4trio.cache import KvUse
from ds4trio.engine.base import EngineError, ModelInfo, TextDelta
from ds4trio.engine.batching import Batcher, Scheduler, Sequence, Update
from ds4trio.engine.llama.abort import AbortFlag
from ds4trio.engine.llama.allocator import give_holes_back
from ds4trio.engine.llama.context import Context, ContextOptions, Logits, open_context
from ds4trio.engine.llama.grammar import GrammarCompiler
from ds4trio.engine.llama.kv_disk import DiskOptions, ModelDisk, fingerprint
from ds4trio.engine.llama.model import Model, load_model

__all__ = ["Loaded", "LoadProgress", "News", "Post", "Worker", "WorkerOptions", "fitted"]

# Conversations that stay in the KV beside those that are computed. A sequence costs nothing but the cells that it
# has, except where each has a window or a recurrent state of its own, which may be hundreds of megabytes.
KEPT = 12
KEPT_WITH_STATE = 2
# Tokens of context when none were asked for: enough for an agent, and no surprise for the memory.
MOST_CONTEXT = 32_768
# Seconds for which text may wait for more of it: what is done for it takes its time from llama.cpp (2 cores, SmolLM2:
# 6 % of a decode at 110 tokens a second), and nobody reads faster than this.
TOGETHER = 0.05
# Seconds between two looks at what the KV holds.
LOOK_EVERY = 0.25
# Seconds between two times that free memory is given back to the system.
GIVE_BACK_EVERY = 30.0


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
    disk: ModelDisk | None
    """Its thread is the engine's to start."""


News = LoadProgress | Loaded | KvUse
Post = Callable[[list[Callable[[], None]]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What the worker opens; a context length of 0 takes the model's own, at most `MOST_CONTEXT`."""

    path: str
    name: str
    n_gpu_layers: int
    max_stall: float
    draft: bool
    state_bytes: int
    context: ContextOptions
    disk: DiskOptions | None


class Worker:
    """Computes sequences until it is closed. ``post`` takes a step's results to the event loop, from any thread."""

    def __init__(self, options: WorkerOptions, *, post: Post) -> None:
        self._options = options
        self._post = post
        self._mailbox: queue.SimpleQueue[Sequence[Logits] | None] = queue.SimpleQueue()
        self._abort = AbortFlag()
        self._closing = False
        self._outbox: list[Callable[[], None]] = []
        self._texts: dict[Sequence[Logits], TextDelta] = {}
        """What is to come behind all else in the outbox, of each sequence."""
        self._due = math.inf
        """When what is in the outbox has to be on its way, by `time.monotonic`."""
        self._batcher: Batcher[Logits] | None = None
        self._stepping_since: float | None = None
        """Written by the worker's thread, read by any."""

    # --- any thread -------------------------------------------------------------------------------------------------

    def submit(self, sequence: Sequence[Logits]) -> None:
        """Hand over a sequence; its listener hears `Released` in the end, on the event loop. Does not block."""
        self._mailbox.put(sequence)
        self._abort.make_way()

    def cancel(self, sequence: Sequence[Logits]) -> None:
        """Stop working for ``sequence``, inside the running batch if it is in it. Does not block."""
        self._abort.cancel(sequence)
        self._mailbox.put(None)

    @property
    def step_seconds(self) -> float:
        """For how long the thread has been away on a step, 0.0 while it waits for mail."""
        since = self._stepping_since
        return 0.0 if since is None else time.monotonic() - since

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

    def run(self, hear: Callable[[News], None]) -> None:
        """Load the model and compute until `close`; ``hear`` is called on the event loop.

        Blocks. Raises `EngineError` if the model cannot be loaded.
        """
        try:
            self._load_and_serve(hear)
        except EngineError:
            if not self._closing:  # a load that was given up is no failure
                raise

    def _load_and_serve(self, hear: Callable[[News], None]) -> None:
        def loading(fraction: float) -> bool:
            self._post([lambda: hear(LoadProgress(fraction))])
            return not self._closing

        options = self._options
        with load_model(options.path, n_gpu_layers=options.n_gpu_layers, on_progress=loading) as model:
            sizes = fitted(options.context, model)
            with open_context(model, sizes, self._abort) as context:
                disk, identity = self._open_disk(replace(sizes, context_length=context.cells))
                info = _describe(model, context, options, identity)
                loaded = Loaded(info, model, GrammarCompiler(model), disk)
                self._post([lambda: hear(loaded)])
                try:
                    self._serve(model, context, sizes, disk, hear)
                finally:
                    if disk is not None:
                        disk.close()

    def _open_disk(self, settled: ContextOptions) -> tuple[ModelDisk | None, bytes]:
        """The disk, and the fingerprint of what may be kept on it: nothing where nothing is kept."""
        options = self._options
        if options.disk is None:
            return None, b""
        identity = fingerprint(Path(options.path), settled, n_gpu_layers=options.n_gpu_layers)
        disk = ModelDisk(options.disk, model=options.name, fingerprint=identity)
        disk.open()
        return disk, identity

    def _serve(
        self,
        model: Model,
        context: Context,
        sizes: ContextOptions,
        disk: ModelDisk | None,
        hear: Callable[[News], None],
    ) -> None:
        self._batcher = batcher = Batcher(
            context,
            slots=sizes.sequences,
            state_bytes=self._options.state_bytes,
            rest_bytes=self._options.state_bytes,
            scheduler=Scheduler(
                ubatch=context.ubatch,
                max_stall=self._options.max_stall,
                mixed=not context.kind.whole_only,
                stoppable=model.on_cpu,
            ),
            tell=self._tell,
            flush=self._flush,
            text=lambda tokens: b"".join(model.vocabulary.pieces(tokens)).decode(errors="replace"),
            disk=disk,
            least_kept=self._options.disk.least_tokens if self._options.disk else 0,
            wake=lambda: self._mailbox.put(None),
            draft=self._options.draft,
        )
        idle, looked, given_back = True, -math.inf, time.monotonic()
        try:
            while self._read_mail(batcher, disk, wait=idle):
                self._stepping_since = time.monotonic()
                idle = not batcher.step()
                if idle:
                    self._flush(math.inf)
                    idle = not batcher.tidy()
                if idle or time.monotonic() >= looked + LOOK_EVERY:
                    looked, use = time.monotonic(), replace(batcher.use, disk_bytes=disk.size if disk else 0)
                    self._outbox.append(partial(hear, use))
                if idle:
                    self._flush(math.inf)
                if time.monotonic() >= given_back + GIVE_BACK_EVERY:
                    give_holes_back()
                    given_back = time.monotonic()
        finally:
            self._stepping_since = time.monotonic()
            batcher.close()
            self._flush(math.inf)
            self._stepping_since = None

    def _read_mail(self, batcher: Batcher[Logits], disk: ModelDisk | None, *, wait: bool) -> bool:
        """Take what has come; ``wait`` for it if there is nothing to do. False when it is time to end."""
        waited = wait
        if waited:
            self._stepping_since = None
            if disk is not None:
                disk.set_idle(True)
        self._abort.look()
        while wait or not self._mailbox.empty():
            if (mail := self._mailbox.get()) is not None:
                batcher.add(mail)
            wait = False
        if waited and disk is not None:
            disk.set_idle(False)
        batcher.drop_cancelled()
        return not self._closing

    def _tell(self, sequence: Sequence[Logits], update: Update) -> None:
        """Have an update heard. Texts that travel together become one: each costs the loop and its client something."""
        if not isinstance(update, TextDelta):
            self._due = -math.inf
            self._put_text(sequence)
            self._outbox.append(partial(sequence.listener, update))
            return
        if self._due == math.inf:
            self._due = time.monotonic() + TOGETHER
        before = self._texts.get(sequence)
        if before is None or (joined := before.joined(update)) is None:
            self._put_text(sequence)
            joined = update
        self._texts[sequence] = joined

    def _put_text(self, sequence: Sequence[Logits]) -> None:
        if (text := self._texts.pop(sequence, None)) is not None:
            self._outbox.append(partial(sequence.listener, text))

    def _flush(self, seconds: float) -> None:
        """Post what was told, unless it is text that may wait for as long as the next step is expected to take."""
        if (self._outbox or self._texts) and time.monotonic() + seconds >= self._due:
            for sequence in [*self._texts]:
                self._put_text(sequence)
            self._post(self._outbox)
            self._outbox, self._due = [], math.inf


def fitted(sizes: ContextOptions, model: Model) -> ContextOptions:
    """What is opened for a model: its own context where none was asked for, and sequences for those that rest."""
    kept = KEPT if model.memory.checkpoint is None else KEPT_WITH_STATE
    length = sizes.context_length or min(model.trained_context_length, MOST_CONTEXT)
    return replace(sizes, context_length=length, sequences=sizes.sequences + kept)


def _describe(model: Model, context: Context, options: WorkerOptions, identity: bytes) -> ModelInfo:
    return ModelInfo(
        name=options.name,
        description=model.description,
        context_length=context.cells,
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
        fingerprint=identity.hex(),
        adapters=tuple((str(adapter.path), adapter.scale) for adapter in options.context.adapters),
    )
