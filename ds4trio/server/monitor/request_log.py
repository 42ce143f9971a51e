"""The log lines of one request, and its cause of death. No word of prompt or answer, unless asked for.

A line's words are made of its fields, which the record carries as its ``args``: a log in JSON has them as they are.
"""

import logging
import time
from collections.abc import Mapping

from ds4trio.api.errors import ApiError
from ds4trio.engine import Divergence, Finished, Phase, Progress
from ds4trio.server.monitor.record import Record
from ds4trio.server.monitor.watcher import Watcher

__all__ = ["RequestLog"]

log = logging.getLogger("ds4trio.request")

Field = str | int | float | None


class RequestLog(Watcher):
    """Writes a line per prefill chunk, in the shape that ds4-server's users know, and one at the end.

    ``kind`` is the protocol's short name; ``id`` is what ``x-request-id`` says. With ``quotes`` the line of a cache
    miss shows the few tokens where two prompts part, which are words of the prompts.
    """

    def __init__(self, kind: str, id: str, *, quotes: bool = False) -> None:
        self._quotes = quotes
        self.kind = kind
        self.id = id
        self._started = time.monotonic()
        self._chunk_ended: float | None = None
        self._first_token: float | None = None
        self._seen = 0
        self._loading_since: float | None = None

    def _say(self, event: str, words: str, fields: Mapping[str, Field], *, level: int = logging.INFO) -> None:
        said = {"event": event, "protocol": self.kind, "request": self.id, **fields}
        log.log(level, f"%(protocol)s %(request)s {words}", said)

    def progressed(self, progress: Progress) -> None:
        """KV has come from the disk, a chunk of prefill is done, or the first token is there."""
        now = time.monotonic()
        if progress.phase is Phase.LOADING:
            self._loading_since = self._loading_since or now
            return
        if self._loading_since is not None:
            self._say(
                "loaded",
                "%(prefilled_tokens)d of %(prompt_tokens)d prompt tokens cached, brought back in %(seconds).3fs",
                {
                    "prefilled_tokens": progress.prefilled_tokens,
                    "prompt_tokens": progress.prompt_tokens,
                    "seconds": now - self._loading_since,
                },
            )
            self._loading_since = None
        if progress.phase is Phase.DECODE:
            self._first_token = self._first_token or now
        if self._chunk_ended is None and progress.divergence is not None:
            self._missed(progress, progress.divergence)
        if self._chunk_ended is not None and progress.prefilled_tokens > self._seen:
            tokens, seconds = progress.prefilled_tokens - self._seen, now - self._chunk_ended
            self._say(
                "prefill",
                "ctx=%(cached_tokens)d..%(prompt_tokens)d:%(prompt_tokens)d prefill chunk "
                "%(prefilled_tokens)d/%(prompt_tokens)d (%(percent).1f%%) "
                "chunk=%(chunk_rate).2f t/s avg=%(rate).2f t/s %(seconds).3fs",
                {
                    "cached_tokens": progress.cached_tokens,
                    "prompt_tokens": progress.prompt_tokens,
                    "prefilled_tokens": progress.prefilled_tokens,
                    "percent": 100 * progress.prefilled_tokens / progress.prompt_tokens,
                    "chunk_rate": tokens / seconds if seconds > 0 else 0.0,
                    "rate": progress.rate,
                    "seconds": now - self._started,
                },
            )
        self._chunk_ended, self._seen = now, progress.prefilled_tokens

    def _missed(self, progress: Progress, divergence: Divergence) -> None:
        quotes = {"cached": divergence.cached, "asked": divergence.asked} if self._quotes else {}
        self._say(
            "miss",
            "cache miss: %(cached_tokens)d of %(prompt_tokens)d prompt tokens reused; from token %(position)d on it "
            "differs from what is cached, %(lost_tokens)d cached tokens are of no use: %(reason)s"
            + ("; cached %(cached)a, asked %(asked)a" if quotes else ""),
            {
                "cached_tokens": progress.cached_tokens,
                "prompt_tokens": progress.prompt_tokens,
                "position": divergence.position,
                "lost_tokens": divergence.lost,
                "reason": divergence.reason,
                **quotes,
            },
        )

    def finished(self, choice: int, event: Finished) -> None:
        """The answer is complete."""
        now, usage = time.monotonic(), event.usage
        self._say(
            "finished",
            "%(reason)s: prompt=%(prompt_tokens)d cached=%(cached_tokens)d output=%(output_tokens)d"
            + (" accepted=%(accepted)d/%(drafted)d" if event.drafted else "")
            + " first token %(first_token).3fs total %(seconds).3fs",
            {
                "choice": choice,
                "reason": event.reason,
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "output_tokens": usage.output_tokens,
                "accepted": event.accepted,
                "drafted": event.drafted,
                "first_token": (self._first_token or now) - self._started,
                "seconds": now - self._started,
            },
        )

    def cancelled(self, cause: str, progress: Progress, freed_after: float) -> None:
        """The computation was stopped; ``freed_after`` seconds later nothing worked for it any more."""
        self._say(
            "cancelled",
            "cancelled in %(phase)s (prefill %(prefilled_tokens)d/%(prompt_tokens)d, output %(output_tokens)d): "
            "%(cause)s, freed in %(freed_ms).1f ms",
            {
                "phase": progress.phase.value,
                "prefilled_tokens": progress.prefilled_tokens,
                "prompt_tokens": progress.prompt_tokens,
                "output_tokens": progress.output_tokens,
                "cause": cause,
                "freed_ms": 1000 * freed_after,
            },
        )

    def failed(self, cause: str, error: ApiError) -> None:
        """The request ended with an error."""
        self._say(
            "failed",
            "failed after %(seconds).3fs: %(cause)s",
            {
                "status": error.status,
                "cause": cause,
                "seconds": time.monotonic() - self._started,
            },
            level=logging.WARNING,
        )

    def ended(self, record: Record) -> None:
        """All of it in one line."""
        progress = record.progress
        self._say(
            "ended",
            "%(outcome)s"
            + (" (%(cause)s)" if record.cause else "")
            + ": computed=%(computed_tokens)d cached=%(cached_tokens)d output=%(output_tokens)d"
            + (" ttft=%(first_token).2fs" if record.first_token is not None else "")
            + " silence=%(longest_silence).2fs"
            + (" %(decode_rate).1f t/s" if record.decode_rate else "")
            + " total=%(seconds).2fs",
            {
                "outcome": record.outcome or "cancelled",
                "cause": record.cause or None,
                "client": record.client,
                "prompt_tokens": progress.prompt_tokens,
                "computed_tokens": max(0, progress.prefilled_tokens - progress.cached_tokens),
                "cached_tokens": progress.cached_tokens,
                "loaded_tokens": progress.loaded_tokens,
                "output_tokens": progress.output_tokens,
                "first_byte": record.first_byte,
                "first_token": record.first_token,
                "longest_silence": record.longest_silence,
                "decode_rate": record.decode_rate,
                "heartbeats": record.heartbeats,
                "seconds": record.ended,
            },
            level=logging.WARNING if record.outcome == "failed" else logging.INFO,
        )
