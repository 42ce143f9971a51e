"""A request as the batcher sees it: data, and what can be said of it. What happens to it is decided by the batcher."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from ds4trio.cache import Checkpoint, Slot, State
from ds4trio.cache.disk import Block
from ds4trio.engine.base import (
    Divergence,
    EngineError,
    Finished,
    FinishReason,
    GenerationRequest,
    Phase,
    Progress,
    TextDelta,
    Usage,
)
from ds4trio.engine.batching.lookup import PromptLookup
from ds4trio.engine.batching.memory import Span
from ds4trio.engine.batching.scheduler import Share

__all__ = ["Extension", "Loading", "Released", "Sequence", "Update", "Writer"]

Row = TypeVar("Row")
Row_contra = TypeVar("Row_contra", contravariant=True)


@dataclass(slots=True)
class Extension:
    """What one row of logits led to: tokens to compute next, text to deliver, and why the answer ends, if it does."""

    tokens: list[int]
    deltas: list[TextDelta]
    reason: FinishReason | None = None


class Writer(Protocol[Row_contra]):
    """Decides each next token of one answer. It only moves forward, so a batch may be computed again."""

    @property
    def sampled(self) -> int:
        """Tokens of the answer so far."""
        ...

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the answer, or None."""
        ...

    def extend(self, row: Row_contra) -> Extension:
        """Continue the answer by at least one token. Raises `EngineError`."""
        ...

    def close(self) -> None:
        """Free what it holds; safe to call twice."""
        ...


@dataclass(frozen=True, slots=True)
class Released:
    """Nothing works for the sequence any more; its KV is cached or freed."""


Update = Progress | TextDelta | Finished | EngineError | Released


@dataclass(slots=True, eq=False)
class Loading:
    """Blocks that come back, ``length`` tokens in all: to be read, being read (since when), and come.

    They have ``rested`` in memory, or come from the disk, whose thread then appends to ``payloads``, each with the
    time; None is a block that cannot be had.
    """

    blocks: tuple[Block, ...]
    length: int
    waiting: deque[Block]
    rested: bool
    asked: deque[tuple[Block, float]] = field(default_factory=deque)
    payloads: deque[tuple[State | None, float]] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Sequence(Generic[Row]):
    """One request.

    ``begin`` makes its writer, on the computing thread. ``tokens`` are the prompt and what was sampled; the KV of the
    first ``computed`` of them is in ``slot``. Of these ``cached`` were there when the request was first placed
    (``from_disk`` is what had to be read), ``kept`` when it last was; those may be fewer or what it computed itself,
    since a full KV takes its slot from the youngest; ``saved`` then is its state, and ``older`` are the checkpoints
    before it. ``rolling`` is the state after its latest chunk, and ``borders`` are the positions where checkpoints are
    due, the next one last.
    It waits until its ``leader`` has computed ``wanted`` tokens of a prefix that both have; ``idle`` counts the steps
    in which that one got no further than ``seen``.
    While it is ``loading``, its KV comes from the disk. The disk has the blocks of ``chain``, or a state of its first
    ``kept_until`` tokens, and has been given states of ``written`` tokens in all.
    ``lookup`` finds what the answer repeats: ``guessed`` may come next, and ``likelihoods`` say how likely all up to
    each of these tokens are. Of all that were guessed ``drafted`` were computed, and ``accepted`` became part of the
    answer.
    With ``keeps_writer`` the writer stays open at the end. A sequence that goes on with such a writer begins with the
    tokens that the writer has sampled, and ``decoded`` is how many seconds they took.
    ``cancelled`` is written under the abort flag's lock and ``keeps_writer`` before it, everything else by the batcher
    alone once it has the sequence. Times are those of ``time.perf_counter``: ``begun`` when the request first got a
    slot, ``placed`` when it last did, ``answered`` when it got its first token; 0 before.
    """

    request: GenerationRequest
    begin: Callable[[], Writer[Row]]
    listener: Callable[[Update], None]
    cancelled: bool = False
    keeps_writer: bool = False
    preempted: bool = False
    tokens: list[int] = field(init=False)
    computed: int = 0
    cached: int = 0
    kept: int = 0
    borders: list[int] = field(default_factory=list)
    begun: float = 0.0
    placed: float = 0.0
    answered: float = 0.0
    decoded: float = 0.0
    slot: Slot | None = None
    from_disk: int = 0
    saved: Checkpoint | None = None
    older: list[Checkpoint] = field(default_factory=list)
    rolling: Checkpoint | None = None
    writer: Writer[Row] | None = None
    share: Share = field(default_factory=Share)
    divergence: Divergence | None = None
    leader: "Sequence[Row] | None" = None
    wanted: int = 0
    seen: int = 0
    idle: int = 0
    loading: Loading | None = None
    chain: list[bytes] = field(default_factory=list)
    kept_until: int = 0
    written: int = 0
    lookup: PromptLookup | None = None
    guessed: list[int] = field(default_factory=list)
    likelihoods: list[float] = field(default_factory=list)
    drafted: int = 0
    accepted: int = 0

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def priority(self) -> int:
        """Lower goes first."""
        return self.request.priority

    @property
    def left(self) -> int:
        """Tokens that are known and not computed."""
        return len(self.tokens) - self.computed

    @property
    def reach(self) -> int:
        """How many of these the next step may take at most: it ends where a checkpoint is due."""
        return self.borders[-1] - self.computed if self.borders else self.left

    @property
    def sampled(self) -> int:
        """Tokens of the answer."""
        return self.writer.sampled if self.writer is not None else 0

    @property
    def answering(self) -> bool:
        """Whether it has its first token, or its next one where it goes on with an answer."""
        return self.answered > 0

    @property
    def progress(self) -> Progress:
        """A snapshot for the event loop."""
        prompt = len(self.request.prompt)
        elapsed = time.perf_counter() - self.placed
        return Progress(
            phase=Phase.LOADING if self.loading else Phase.DECODE if self.answering else Phase.PREFILL,
            prompt_tokens=prompt,
            cached_tokens=min(self.cached, prompt),
            loaded_tokens=min(self.from_disk, self.cached, prompt),
            prefilled_tokens=min(max(self.computed, self.cached), prompt),
            output_tokens=self.sampled,
            rate=(self.computed - self.kept) / elapsed if self.computed > self.kept and elapsed > 0 else 0.0,
            divergence=self.divergence,
        )

    def place(self, slot: Slot, keep: int) -> None:
        """Note that ``slot`` is this request's and holds the first ``keep`` of its tokens."""
        self.slot = slot
        self.computed = self.kept = keep
        self.placed = time.perf_counter()
        if not self.begun:
            self.begun, self.cached = self.placed, keep

    def loaded(self) -> None:
        """Note that what came from the disk is all that does."""
        if self.cached == self.kept:
            self.cached = self.computed
        self.kept, self.placed = self.computed, time.perf_counter()
        if self.divergence is not None and self.divergence.position <= self.computed:
            self.divergence = None
        self.borders = [border for border in self.borders if border > self.computed]

    def guess(self) -> None:
        """Guess what comes after the next token."""
        if self.lookup is None:
            self.lookup = PromptLookup(self.tokens)
        self.guessed, self.likelihoods = self.lookup.guess()

    def span(self, count: int) -> Span:
        """The next ``count`` tokens to compute; what is more than `left` is guessed."""
        assert self.slot is not None
        guessed = max(0, count - self.left)
        return Span(
            sequence_id=self.slot.id,
            position=self.computed,
            tokens=[*self.tokens[self.computed : self.computed + count], *self.guessed[:guessed]],
            rows=1 + guessed if count >= self.left else 0,
        )

    def finished(self, reason: FinishReason) -> Finished:
        """The last event of an answer that ends now."""
        assert self.writer is not None
        prompt = len(self.request.prompt)
        return Finished(
            reason,
            Usage(prompt, min(self.cached, prompt), self.sampled),
            self.writer.stopped,
            prefill_seconds=self.answered - self.begun,
            decode_seconds=self.decoded + time.perf_counter() - self.answered,
            drafted=self.drafted,
            accepted=self.accepted,
        )
