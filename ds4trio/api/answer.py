"""What the lifeline asks of a protocol: the bytes for each thing that can happen to an answer.

`Answer` is that interface. `StreamAnswer` and `DocumentAnswer` hold what all streams and all single documents share,
`CollectedAnswer` what most documents do, so a protocol adds only its own shapes. ``b""`` means that there is nothing
to send.

Order of calls: `Answer.start` once; then, for each choice, any number of `Answer.delta` and one `Answer.end`; then
`Answer.finish`. `Answer.beat` and `Answer.prefill` come in between, at any time after the start. `Answer.error` may
take the place of everything that is still to come, also before the start. Nothing follows `finish` or `error`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from ds4trio.api import sse
from ds4trio.api.errors import ApiError
from ds4trio.api.transcript import Transcript
from ds4trio.chat import OutputEvent
from ds4trio.engine import Phase, Progress, TokenLogprob

__all__ = [
    "Answer",
    "AnswerUsage",
    "CollectedAnswer",
    "Delta",
    "DocumentAnswer",
    "Ending",
    "Frame",
    "HeartbeatForm",
    "StreamAnswer",
    "beat_text",
]

HeartbeatForm = Literal["both", "event", "comment"]


@dataclass(frozen=True, slots=True)
class Frame:
    """What is known of an answer before it begins.

    ``id`` is hexadecimal, without a protocol's prefix; ``created`` is in seconds since 1970. ``prompts`` are the texts
    of raw prompts.
    """

    id: str
    created: float
    model: str
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerUsage:
    """Tokens of a whole answer, all choices together; ``reasoning_tokens`` are part of ``output_tokens``."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """What became certain of a choice: its events, and the logprobs of the tokens since the last delta, if asked for.

    Either may be empty. ``output_tokens`` were sampled so far.
    """

    events: tuple[OutputEvent, ...]
    output_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a choice is complete. ``stop_sequence`` is the client's own stop string that ended it, if one did.

    Seconds are those that its prefill and its decode took; ``accepted`` and ``drafted`` as in `Finished`.
    """

    reason: Literal["stop", "length"]
    usage: AnswerUsage
    stop_sequence: str | None = None
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    drafted: int = 0
    accepted: int = 0


class Answer(ABC):
    """Turns what happens into bytes. One object an answer."""

    content_type: str
    streams: bool
    """True: the status goes out at once. False: it may still change until the result is known."""

    @abstractmethod
    def start(self, progress: Progress) -> bytes:
        """The first bytes after the headers, never empty: the headers go out with them."""

    @abstractmethod
    def beat(self, progress: Progress, form: HeartbeatForm) -> bytes:
        """A sign of life that every client of the protocol ignores, never empty."""

    def prefill(self, progress: Progress) -> bytes:
        """A chunk of the prompt is done; for clients that asked to hear so."""
        return b""

    @abstractmethod
    def delta(self, choice: int, delta: Delta) -> bytes:
        """A piece of one choice."""

    @abstractmethod
    def end(self, choice: int, ending: Ending) -> bytes:
        """A choice is complete."""

    @abstractmethod
    def finish(self, usage: AnswerUsage) -> bytes:
        """The end of a complete answer."""

    @abstractmethod
    def error(self, error: ApiError) -> bytes:
        """The end of an answer that failed after its headers."""

    @abstractmethod
    def refusal(self, error: ApiError) -> bytes:
        """The JSON document of a request that failed before its headers; the status says so too."""


class StreamAnswer(Answer):
    """Server-sent events. A beat is one write: the comment for byte timers and people, the event for parsers."""

    content_type = "text/event-stream"
    streams = True

    def beat(self, progress: Progress, form: HeartbeatForm) -> bytes:
        """The comment with phase and progress, the protocol's event, or both."""
        comment = sse.comment(beat_text(progress)) if form != "event" else b""
        return comment + (self.beat_event(progress) if form != "comment" else b"")

    @abstractmethod
    def beat_event(self, progress: Progress) -> bytes:
        """An event that the protocol's clients take for a sign of life and otherwise ignore, never empty."""


class DocumentAnswer(Answer):
    """One JSON document; all of it is said in `finish`."""

    content_type = "application/json"
    streams = False

    def start(self, progress: Progress) -> bytes:
        """One space, once the early 200 is out."""
        return b" "

    def beat(self, progress: Progress, form: HeartbeatForm) -> bytes:
        """One space: leading white space is valid JSON (RFC 8259, section 2)."""
        return b" "

    def error(self, error: ApiError) -> bytes:
        """After the early 200 the error object is all that can still be said."""
        return self.refusal(error)


class CollectedAnswer(DocumentAnswer):
    """A document that the protocol builds in `finish` from ``choices`` and ``endings``."""

    def __init__(self) -> None:
        self.choices: dict[int, Transcript] = {}
        self.endings: dict[int, Ending] = {}

    def delta(self, choice: int, delta: Delta) -> bytes:
        """Collected for the end."""
        self.choices.setdefault(choice, Transcript()).add(delta.events, delta.logprobs)
        return b""

    def end(self, choice: int, ending: Ending) -> bytes:
        """Collected for the end."""
        self.choices.setdefault(choice, Transcript())
        self.endings[choice] = ending
        return b""


def beat_text(progress: Progress) -> str:
    """``prefill 4096/81722 (5.0%) 271 t/s eta 286s``, ``queued 2/3``, ``decode 17 tokens``.

    ``loading 4096/81722 (5.0%)``: KV that comes back, from the disk or from memory beside the context.
    """
    match progress.phase:
        case Phase.QUEUED:
            return f"queued {progress.queue_position}/{progress.queue_length}"
        case Phase.DECODE:
            return f"decode {progress.output_tokens} tokens"
    share = 100 * progress.prefilled_tokens / max(1, progress.prompt_tokens)
    doing = "loading" if progress.phase is Phase.LOADING else "prefill"
    text = f"{doing} {progress.prefilled_tokens}/{progress.prompt_tokens} ({share:.1f}%)"
    if progress.phase is Phase.PREFILL and progress.eta is not None:
        text += f" {progress.rate:.0f} t/s eta {progress.eta:.0f}s"
    return text
