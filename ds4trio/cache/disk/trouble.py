"""What the log says of a disk that fails: once that it does, once that it works again, and nothing in between."""

import logging
from collections.abc import Callable

__all__ = ["RETRY_SECONDS", "Trouble"]

log = logging.getLogger("ds4trio.cache.disk")

RETRY_SECONDS = 30.0


class Trouble:
    """One thing that may fail for a while; ``what`` says it in the log, as in "writing KV to disk"."""

    def __init__(self, what: str, clock: Callable[[], float]) -> None:
        self._what = what
        self._clock = clock
        self._retry_at: float | None = None

    @property
    def pausing(self) -> bool:
        """It failed a short while ago: not worth a try yet."""
        return self._retry_at is not None and self._clock() < self._retry_at

    def note(self, error: OSError) -> None:
        """It failed."""
        if self._retry_at is None:
            log.warning(
                "%s fails, going on without it and trying again every %g s: %s", self._what, RETRY_SECONDS, error
            )
        self._retry_at = self._clock() + RETRY_SECONDS

    def over(self) -> None:
        """It worked."""
        if self._retry_at is not None:
            self._retry_at = None
            log.warning("%s works again", self._what)
