"""What hears of a request: the one interface between a `Record` and the log, the trace, and whatever comes next."""

from typing import TYPE_CHECKING

from ds4trio.api.answer import Delta
from ds4trio.api.errors import ApiError
from ds4trio.engine import Finished, Progress, TextDelta

if TYPE_CHECKING:
    from ds4trio.server.monitor.record import Record

__all__ = ["Watcher"]


class Watcher:
    """Hears of one request, on the event loop. Nothing here is a checkpoint, and nothing may block.

    Each method does nothing unless it is overridden. Most of what is told holds words of the prompt or the answer.
    """

    def progressed(self, progress: Progress) -> None:
        """It has left the queue, KV has come back, a chunk of prefill is done, or the first token is there."""

    def sampled(self, choice: int, event: TextDelta) -> None:
        """The engine has more of the raw text of a choice."""

    def read(self, choice: int, delta: Delta) -> None:
        """So much of the raw text of a choice has been understood."""

    def wrote(self, data: bytes, *, beat: str) -> None:
        """Bytes are on their way to the client; ``beat`` says in which form, if they are a heartbeat."""

    def finished(self, choice: int, event: Finished) -> None:
        """A choice is complete."""

    def cancelled(self, cause: str, progress: Progress, freed_after: float) -> None:
        """The computation was stopped; ``freed_after`` seconds later nothing worked for it any more."""

    def failed(self, cause: str, error: ApiError) -> None:
        """It ended with an error; ``cause`` is what everybody may read of it."""

    def ended(self, record: "Record") -> None:
        """Nothing more will come, but for a last word to a client that the server had to cut off."""
