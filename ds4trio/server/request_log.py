"""The log lines of one request, and its cause of death. Never a word of the prompt or of the answer."""

import logging
import time

from ds4trio.engine import Phase, Progress, Usage

__all__ = ["RequestLog", "configure_logging"]

log = logging.getLogger("ds4trio.request")


def configure_logging(level: str) -> None:
    """Write to standard error, a time before each line, unless somebody has configured logging already."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


class RequestLog:
    """Writes a line per prefill chunk, in the shape that ds4-server's users know, and one at the end.

    ``kind`` is the protocol's short name; ``id`` is what ``x-request-id`` says.
    """

    def __init__(self, kind: str, id: str) -> None:
        self.kind = kind
        self.id = id
        self._name = f"{kind} {id}"
        self._started = time.monotonic()
        self._chunk_ended: float | None = None
        self._first_token: float | None = None
        self._seen = 0

    def progress(self, progress: Progress) -> None:
        """A chunk of prefill is done, or the first token is there."""
        now = time.monotonic()
        if progress.phase is Phase.DECODE:
            self._first_token = self._first_token or now
        if self._chunk_ended is not None and progress.prefilled_tokens > self._seen:
            tokens, seconds = progress.prefilled_tokens - self._seen, now - self._chunk_ended
            log.info(
                "%s ctx=%d..%d:%d prefill chunk %d/%d (%.1f%%) chunk=%.2f t/s avg=%.2f t/s %.3fs",
                self._name,
                progress.cached_tokens,
                progress.prompt_tokens,
                progress.prompt_tokens,
                progress.prefilled_tokens,
                progress.prompt_tokens,
                100 * progress.prefilled_tokens / progress.prompt_tokens,
                tokens / seconds if seconds > 0 else 0.0,
                progress.rate,
                now - self._started,
            )
        self._chunk_ended, self._seen = now, progress.prefilled_tokens

    def finished(self, reason: str, usage: Usage) -> None:
        """The answer is complete."""
        first = (self._first_token or time.monotonic()) - self._started
        log.info(
            "%s %s: prompt=%d cached=%d output=%d first token %.3fs total %.3fs",
            self._name,
            reason,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.output_tokens,
            first,
            time.monotonic() - self._started,
        )

    def cancelled(self, cause: str, progress: Progress, freed_after: float) -> None:
        """The computation was stopped; ``freed_after`` seconds later nothing worked for it any more."""
        log.info(
            "%s cancelled in %s (prefill %d/%d, output %d): %s, freed in %.1f ms",
            self._name,
            progress.phase.value,
            progress.prefilled_tokens,
            progress.prompt_tokens,
            progress.output_tokens,
            cause,
            1000 * freed_after,
        )

    def failed(self, message: str) -> None:
        """The request ended with an error."""
        log.warning("%s failed after %.3fs: %s", self._name, time.monotonic() - self._started, message)
