"""What the lifeline asks of a protocol: the bytes for each thing that can happen to an answer.

`Answer` is that interface; `beat_text` is the line that says what a waiting client waits for.
"""

from typing import Protocol

from ds4trio.api.errors import ApiError
from ds4trio.engine import Finished, Phase, Progress, TextDelta

__all__ = ["Answer", "beat_text"]


class Answer(Protocol):
    """Turns what happens into bytes. ``b""`` means that there is nothing to send."""

    content_type: str
    streams: bool
    """True: the status goes out at once. False: it may still change until the result is known."""

    def start(self) -> bytes:
        """The first bytes after the headers, never empty: the headers go out with them."""
        ...

    def beat(self, progress: Progress) -> bytes:
        """A sign of life that every client of the protocol ignores, never empty."""
        ...

    def delta(self, event: TextDelta) -> bytes:
        """A piece of the text."""
        ...

    def finish(self, event: Finished) -> bytes:
        """The end of a complete answer."""
        ...

    def error(self, error: ApiError) -> bytes:
        """The end of an answer that failed after its headers."""
        ...

    def refusal(self, error: ApiError) -> bytes:
        """The JSON document of a request that failed before its headers; the status says so too."""
        ...


def beat_text(progress: Progress) -> str:
    """``prefill 4096/81722 (5.0%) 271 t/s eta 286s``, ``queued 2/3``, ``decode 17 tokens``."""
    match progress.phase:
        case Phase.QUEUED:
            return f"queued {progress.queue_position}/{progress.queue_length}"
        case Phase.DECODE:
            return f"decode {progress.output_tokens} tokens"
    share = 100 * progress.prefilled_tokens / max(1, progress.prompt_tokens)
    text = f"prefill {progress.prefilled_tokens}/{progress.prompt_tokens} ({share:.1f}%)"
    if progress.eta is not None:
        text += f" {progress.rate:.0f} t/s eta {progress.eta:.0f}s"
    return text
