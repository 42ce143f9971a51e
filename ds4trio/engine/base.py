"""The face of every engine: values that go in, events that come out, and the protocol between them.

Only types live here: no thread, no clock, no llama.cpp.
"""

import enum
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from ds4trio.cache import KvUse

__all__ = [
    "Divergence",
    "Engine",
    "EngineError",
    "EngineStoppedError",
    "FinishReason",
    "Finished",
    "Generation",
    "GenerationRequest",
    "GrammarError",
    "Guide",
    "ModelInfo",
    "Phase",
    "Progress",
    "QueueFullError",
    "Rest",
    "Sampling",
    "Suspended",
    "TextDelta",
    "Tokenizer",
    "TokenLogprob",
    "UnusableModelError",
    "Usage",
]


T = TypeVar("T")


class EngineError(Exception):
    """The engine could not go on with a request; the message is fit for a client and holds no prompt text."""


class UnusableModelError(EngineError):
    """The model, or what belongs to it, cannot be loaded, however often one tries."""


class QueueFullError(EngineError):
    """As many requests run and wait as may. ``retry_after`` is the number of seconds after which to try again."""

    def __init__(self, running: int, waiting: int, retry_after: int) -> None:
        full = f"{waiting} requests are waiting already" if waiting else f"all {running} places are taken"
        super().__init__(f"{full}, try again in {retry_after} s")
        self.retry_after = retry_after


class GrammarError(EngineError):
    """The request's grammar cannot be used, or no token can follow within it. The message may quote the grammar."""


class EngineStoppedError(EngineError):
    """The server is shutting down: nothing new is started."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down, try again in a moment")


class Phase(enum.Enum):
    """Where a request is."""

    QUEUED = "queued"
    LOADING = "loading"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a prompt parts from what is cached, and so has to be computed from there on.

    ``position`` counts tokens from 0; ``lost`` cached tokens follow it that this prompt cannot use. ``reason`` is a
    guess in words that hold nothing of the prompt; ``cached`` and ``asked`` quote a few tokens around the place.
    """

    position: int
    lost: int
    reason: str
    cached: str
    asked: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of a request, as fresh as the last step that touched it.

    ``queue_position`` counts from 1 (next to be started) up to ``queue_length``; both are 0 outside the queue.
    ``cached_tokens`` of the ``prompt_tokens`` needed no prefill, ``loaded_tokens`` of these came from the disk;
    ``prefilled_tokens`` counts from the start of the prompt and includes them. ``rate`` is the average of this prefill
    in tokens per second, 0 while unknown.
    ``divergence`` says why no more of the prompt was cached, where that is worth saying.
    """

    phase: Phase = Phase.QUEUED
    queue_position: int = 0
    queue_length: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    loaded_tokens: int = 0
    prefilled_tokens: int = 0
    output_tokens: int = 0
    rate: float = 0.0
    divergence: Divergence | None = None

    @property
    def eta(self) -> float | None:
        """Seconds of prefill that are left at the measured rate, None while no rate is known."""
        if self.rate <= 0:
            return None
        return (self.prompt_tokens - self.prefilled_tokens) / self.rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn; names and meanings are llama.cpp's. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)


class Guide(Protocol):
    """Watches one generation token by token and says how the next token is drawn.

    Called on the thread that computes, so it must be quick and must not touch anything that others use.
    """

    def observe(self, text: str, *, special: bool) -> None:
        """Take the text of what was just sampled; ``special`` as in `TextDelta`. Text may be empty."""
        ...

    @property
    def greedy(self) -> bool:
        """Whether the next token is the likeliest one, whatever the request's temperature says."""
        ...

    @property
    def forced(self) -> str:
        """Text that the answer has to go on with now, special tokens spelled out; empty for none.

        It is tokenized, appended as if it had been sampled, and observed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt, ready to be computed.

    ``prompt`` are token ids, at least one. At most ``max_tokens`` are sampled; fewer when the context ends first.
    Text ends before the first of the ``stop`` strings. ``markers`` are special tokens that the reader wants to know
    as such, id → text; other control tokens leave no text. ``grammar`` is what llguidance's ``grammar_from`` returns:
    every sampled token obeys it. ``guide`` watches, see `Guide`; each request needs one of its own. ``top_logprobs``
    asks for the logprob of each token and of so many alternatives, None for none at all. With ``ignore_eos`` the
    model cannot end the answer itself. The queue is in order of ``priority``, lower first, then of arrival; 0 is
    normal. ``turns`` are the places in the prompt, ascending and not 0, where a turn of the user or the answer's own
    begins: where the next prompt of the same conversation is likely to part from this one.
    """

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    markers: Mapping[int, str] = field(default_factory=dict)
    grammar: str | None = None
    guide: Guide | None = None
    top_logprobs: int | None = None
    ignore_eos: bool = False
    priority: int = 0
    turns: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one generation. ``cached_tokens`` is the part of ``prompt_tokens`` that needed no prefill."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A sampled token, its natural log probability before sampling settings, and the likeliest alternatives.

    ``data`` are the bytes that the token stands for. ``top`` is sorted, likeliest first.
    """

    token: int
    data: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that is final: no stop string can begin in it and no character is cut.

    ``output_tokens`` were sampled so far. ``special`` text is exactly one special token of the request's ``markers``,
    so it cannot be confused with a text that spells it. ``logprobs`` are those of the tokens since the last delta;
    with them the text may be empty. ``tokens`` are the ids since the last delta: those of all deltas together are all
    of the answer's, also those without a text, but for the one with which the model ended it; where a stop string did,
    the last ones may be missing.
    """

    text: str
    output_tokens: int
    special: bool = False
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: tuple[int, ...] = ()

    def joined(self, later: "TextDelta") -> "TextDelta | None":
        """This one and the next in one; None where that would hide what belongs to which: markers and logprobs."""
        if self.special or later.special or self.logprobs or later.logprobs:
            return None
        return TextDelta(self.text + later.text, later.output_tokens, tokens=self.tokens + later.tokens)


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event. ``stop_sequence`` is the stop string that ended the text, if one did.

    ``prefill_seconds`` and ``decode_seconds`` are what the two phases took, queueing not counted. ``accepted`` of the
    answer's tokens were computed before they were sampled, out of ``drafted`` that were guessed.
    """

    reason: FinishReason
    usage: Usage
    stop_sequence: str | None = None
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    drafted: int = 0
    accepted: int = 0


class Rest(Protocol):
    """How one answer goes on behind its latest token; made by an engine, and of use to that one only.

    Nothing computes for it. It is used once: `Engine.generate` takes it, or `close` frees it.
    """

    @property
    def size_bytes(self) -> int:
        """About how much memory it holds."""
        ...

    def close(self) -> None:
        """Free what it holds. Not a checkpoint."""
        ...


@dataclass(frozen=True, slots=True)
class Suspended:
    """What is left of a generation: the events that nobody took, and what would follow them, None for nothing."""

    events: tuple[TextDelta | Finished, ...] = ()
    rest: Rest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What the rest of the server may know about the loaded model.

    ``context_length`` is the number of tokens that prompt and answer may have together, ``trained_context_length``
    what the model was made for. ``chat_template`` is Jinja source, or None where the file has none.
    ``special_tokens`` maps the text of every control and user-defined token to its id; ``control_tokens`` are the texts
    of the former. ``fingerprint`` is another one for another file, in hex; empty where nothing is kept on disk.
    ``adapters`` are the files of LoRA adapters and their scales.
    """

    name: str
    description: str
    context_length: int
    trained_context_length: int
    chat_template: str | None
    bos_token: str = ""
    eos_token: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    parameters: int = 0
    size_bytes: int = 0
    vocabulary_size: int = 0
    special_tokens: Mapping[str, int] = field(default_factory=dict)
    control_tokens: frozenset[str] = frozenset()
    fingerprint: str = ""
    adapters: tuple[tuple[str, float], ...] = ()


class Tokenizer(Protocol):
    """The model's tokenizer, inside `Engine.prepare` only. Its methods block and are no checkpoints."""

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of ``text``.

        ``add_special`` adds the beginning-of-sequence token where the model wants one and the text has none;
        ``parse_special`` counts special tokens that are written in the text as such.
        """
        ...

    def check(self) -> None:
        """Raise if nobody waits for what is being prepared any more; for long work between its other methods."""
        ...

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token, special tokens spelled out. Raises `ValueError` for an id that does not exist."""
        ...


class Generation(Protocol):
    """One request inside an engine, alive for the length of the ``async with`` block that made it."""

    @property
    def progress(self) -> Progress:
        """The latest snapshot. Not a checkpoint."""
        ...

    async def prefill(self) -> None:
        """Wait for a turn, then for the prompt to be computed, up to the first token.

        A checkpoint. Cancelling it stops the computation inside the running batch; what was computed stays cached.
        Raises `EngineError`.
        """
        ...

    def __aiter__(self) -> AsyncIterator[TextDelta | Finished]:
        """The text as it is decoded, then one `Finished`. Each step is a checkpoint. Raises `EngineError`."""
        ...

    async def suspend(self) -> Suspended:
        """Stop computing, as leaving the block does, and give what it takes to go on another time.

        Waits, shielded, until the worker confirms. There is no rest before the first token, since what was computed
        stays cached in any case, and none after the end or an error.
        """
        ...


class Engine(Protocol):
    """A loaded model that can serve requests."""

    @property
    def info(self) -> ModelInfo:
        """What is known of the model. Not a checkpoint."""
        ...

    async def prepare(self, build: Callable[[Tokenizer], T]) -> T:
        """Call ``build`` off the event loop: parsing, rendering and tokenizing of long prompts belong there.

        A checkpoint. Cancelling it waits for the thread, which gives up at its next piece of text. Raises what
        ``build`` raises.
        """
        ...

    def generate(
        self,
        request: GenerationRequest,
        *,
        on_progress: Callable[[Progress], None] = ...,
        rest: Rest | None = None,
    ) -> AbstractAsyncContextManager[Generation]:
        """A place in the queue, given back when the block is left.

        Entering does not wait for a turn; it raises `QueueFullError` or `EngineStoppedError`. ``on_progress`` is
        called on the event loop after every chunk of prefill. With the ``rest`` of an earlier generation of the same
        request the text goes on behind that one's latest token; once entered the block owns the rest. Leaving the
        block waits, shielded, until the worker confirms that nothing runs for this request: tens of milliseconds.
        """
        ...

    def stop_admission(self) -> None:
        """Start nothing new: requests in the queue and later ones get `EngineStoppedError`. Not a checkpoint."""
        ...

    @property
    def kv(self) -> KvUse:
        """What the KV held a moment ago. Not a checkpoint."""
        ...

    @property
    def running(self) -> int:
        """Requests that are being computed. Not a checkpoint."""
        ...

    @property
    def waiting(self) -> int:
        """Requests in the queue. Not a checkpoint."""
        ...

    @property
    def step_seconds(self) -> float | None:
        """Since when the step that is being computed has not come back; 0.0 between steps. Not a checkpoint.

        None where nothing can get stuck, since no thread computes.
        """
        ...
