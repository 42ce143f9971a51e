"""A request as the worker sees it: data, and what can be said of it. What happens to it is decided by the worker."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ds4trio.cache import Slot
from ds4trio.engine.base import (
    EngineError,
    Finished,
    FinishReason,
    GenerationRequest,
    Phase,
    Progress,
    TextDelta,
    Usage,
)
from ds4trio.engine.llama.context import Span
from ds4trio.engine.llama.continuation import Continuation
from ds4trio.engine.llama.grammar import Grammar

__all__ = ["Released", "Sequence", "Update"]


@dataclass(frozen=True, slots=True)
class Released:
    """Nothing works for the sequence any more; its KV is cached or freed."""


Update = Progress | TextDelta | Finished | EngineError | Released


@dataclass(slots=True, eq=False)
class Sequence:
    """One request.

    ``tokens`` are the prompt and what was sampled; the KV of the first ``computed`` of them is in ``slot``. Of these
    ``cached`` were there when the request was first placed, ``kept`` when it last was; those may be fewer or what it
    computed itself, since a full KV takes its slot from the youngest.
    ``cancelled`` is written under the abort flag's lock, everything else by the worker alone. Times are those of
    ``time.perf_counter``: ``begun`` when the request first got a slot, ``placed`` when it last did, ``answered`` when
    it got its first token; 0 before.
    """

    request: GenerationRequest
    grammar: Grammar | None
    listener: Callable[[Update], None]
    cancelled: bool = False
    preempted: bool = False
    tokens: list[int] = field(init=False)
    computed: int = 0
    cached: int = 0
    kept: int = 0
    begun: float = 0.0
    placed: float = 0.0
    answered: float = 0.0
    slot: Slot | None = None
    continuation: Continuation | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def left(self) -> int:
        """Tokens that are known and not computed."""
        return len(self.tokens) - self.computed

    @property
    def sampled(self) -> int:
        """Tokens of the answer."""
        return self.continuation.sampled if self.continuation is not None else 0

    @property
    def progress(self) -> Progress:
        """A snapshot for the event loop."""
        prompt = len(self.request.prompt)
        elapsed = time.perf_counter() - self.placed
        return Progress(
            phase=Phase.DECODE if self.sampled else Phase.PREFILL,
            prompt_tokens=prompt,
            cached_tokens=self.cached,
            prefilled_tokens=min(max(self.computed, self.cached), prompt),
            output_tokens=self.sampled,
            rate=(self.computed - self.kept) / elapsed if self.computed > self.kept and elapsed > 0 else 0.0,
        )

    def place(self, slot: Slot, keep: int) -> None:
        """Note that ``slot`` is this request's and holds the first ``keep`` of its tokens."""
        self.slot = slot
        self.computed = self.kept = keep
        self.placed = time.perf_counter()
        if not self.begun:
            self.begun, self.cached = self.placed, keep

    def span(self, count: int) -> Span:
        """The next ``count`` tokens to compute."""
        assert self.slot is not None
        end = self.computed + count
        return Span(
            sequence_id=self.slot.id,
            position=self.computed,
            tokens=self.tokens[self.computed : end],
            wants_logits=end == len(self.tokens),
        )

    def finished(self, reason: FinishReason) -> Finished:
        """The last event of an answer that ends now."""
        assert self.continuation is not None
        prompt = len(self.request.prompt)
        return Finished(
            reason,
            Usage(prompt, min(self.cached, prompt), self.sampled),
            self.continuation.stopped,
            prefill_seconds=self.answered - self.begun,
            decode_seconds=time.perf_counter() - self.answered,
        )
