"""From the bytes of sampled tokens to text that is final.

A token may end inside a UTF-8 character and a stop string may begin in one token and end three tokens later, so text
is held back until nothing that follows can change it. Pure: bytes in, text out, no clock, no engine.
"""

import codecs
from collections.abc import Sequence

__all__ = ["StopFilter"]


class StopFilter:
    """Decodes UTF-8 across token borders and ends the text before the first stop string.

    Bytes that are no UTF-8 become U+FFFD. ``stopped`` is the stop string that was found, or None; after that all
    further input is ignored.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(string for string in stop if string)
        self._held = ""
        self.stopped: str | None = None

    def feed(self, data: bytes) -> str:
        """Take the bytes of one token and return what is final of the text, possibly nothing."""
        return self._release(self._decoder.decode(data))

    def finish(self) -> str:
        """The text that was held back, now that nothing follows."""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _release(self, text: str, *, final: bool = False) -> str:
        if self.stopped is not None:
            return ""
        self._held += text
        found = min(
            ((at, string) for string in self._stop if (at := self._held.find(string)) >= 0),
            default=None,
            # Of two that begin together the shorter one is complete first.
            key=lambda hit: (hit[0], len(hit[1])),
        )
        cut = len(self._held) - self._undecided()
        # A stop string that began earlier may still complete; until then neither is decided.
        if found is not None and (found[0] <= cut or final):
            cut, self.stopped = found
            text, self._held = self._held[:cut], ""
            return text
        if final:
            cut = len(self._held)
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def _undecided(self) -> int:
        """Length of the longest suffix that is the beginning of a stop string."""
        longest = 0
        for string in self._stop:
            for size in range(min(len(string) - 1, len(self._held)), longest, -1):
                if self._held.endswith(string[:size]):
                    longest = size
                    break
        return longest
