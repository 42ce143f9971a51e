"""The log lines of one request, and its cause of death. No word of prompt or answer, unless asked for."""

import logging
import time

from ds4trio.engine import Divergence, Finished, Phase, Progress

__all__ = ["RequestLog", "configure_logging"]

log = logging.getLogger("ds4trio.request")


def configure_logging(level: str) -> None:
    """Write to standard error, a time before each line, unless somebody has configured logging already."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


class RequestLog:
    """Writes a line per prefill chunk, in the shape that ds4-server's users know, and one at the end.

    ``kind`` is the protocol's short name; ``id`` is what ``x-request-id`` says. With ``quotes`` the line of a cache
    miss shows the few tokens where two prompts part, which are words of the prompts.
    """

    def __init__(self, kind: str, id: str, *, quotes: bool = False) -> None:
        self._quotes = quotes
        self.kind = kind
        self.id = id
        self._name = f"{kind} {id}"
        self._started = time.monotonic()
        self._chunk_ended: float | None = None
        self._first_token: float | None = None
        self._seen = 0
        self._loading_since: float | None = None

    def progress(self, progress: Progress) -> None:
        """KV has come from the disk, a chunk of prefill is done, or the first token is there."""
        now = time.monotonic()
        if progress.phase is Phase.LOADING:
            self._loading_since = self._loading_since or now
            return
        if self._loading_since is not None:
            log.info(
                "%s %d of %d prompt tokens cached, brought back in %.3fs",
                self._name,
                progress.prefilled_tokens,
                progress.prompt_tokens,
                now - self._loading_since,
            )
            self._loading_since = None
        if progress.phase is Phase.DECODE:
            self._first_token = self._first_token or now
        if self._chunk_ended is None and progress.divergence is not None:
            self._missed(progress, progress.divergence)
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

    def _missed(self, progress: Progress, divergence: Divergence) -> None:
        quotes = f"; cached {divergence.cached!a}, asked {divergence.asked!a}" if self._quotes else ""
        log.info(
            "%s cache miss: %d of %d prompt tokens reused; from token %d on it differs from what is cached, "
            "%d cached tokens are of no use: %s%s",
            self._name,
            progress.cached_tokens,
            progress.prompt_tokens,
            divergence.position,
            divergence.lost,
            divergence.reason,
            quotes,
        )

    def finished(self, event: Finished) -> None:
        """The answer is complete."""
        usage = event.usage
        drafts = f" accepted={event.accepted}/{event.drafted}" if event.drafted else ""
        first = (self._first_token or time.monotonic()) - self._started
        log.info(
            "%s %s: prompt=%d cached=%d output=%d%s first token %.3fs total %.3fs",
            self._name,
            event.reason,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.output_tokens,
            drafts,
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
