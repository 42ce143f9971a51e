"""Text that is final: nothing that follows can change it.

A stop string may begin in one token and end three tokens later, so text is held back until it is certain that no stop
string begins in it. Pure: text in, text out, no clock, no engine, no bytes.
"""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Piece", "StopFilter"]


class Piece(NamedTuple):
    """Text that is final. ``special`` as in `TextDelta`: then it is exactly one marker."""

    text: str
    special: bool = False


class StopFilter:
    """Ends the text before the first stop string.

    A marker is a unit: a stop string may contain it whole, and never begins or ends inside it. ``stopped`` is the stop
    string that was found, or None; after that all further input is ignored.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(string for string in stop if string)
        self._held = ""
        self._markers: list[tuple[int, int]] = []
        """Where in the held text markers begin and end."""
        self.stopped: str | None = None

    def feed(self, text: str, *, special: bool = False) -> list[Piece]:
        """Take the text of one token and return what is final, possibly nothing."""
        if not text or self.stopped is not None:
            return []
        if not self._stop:
            return [Piece(text, special)]
        if special:
            self._markers.append((len(self._held), len(self._held) + len(text)))
        self._held += text
        return self._release(final=False)

    def finish(self) -> list[Piece]:
        """The text that was held back, now that nothing follows."""
        return self._release(final=True) if self._held else []

    def _release(self, *, final: bool) -> list[Piece]:
        found = min(
            ((at, string) for string in self._stop if (at := self._find(string)) >= 0),
            default=None,
            # Of two that begin together the shorter one is complete first.
            key=lambda hit: (hit[0], len(hit[1])),
        )
        cut = len(self._held) if final else self._decided()
        # A stop string that began earlier may still complete; until then neither is decided.
        if found is not None and found[0] <= cut:
            cut, self.stopped = found
        pieces = self._split(cut)
        self._held = "" if self.stopped is not None else self._held[cut:]
        self._markers = [(start - cut, end - cut) for start, end in self._markers if start >= cut]
        return pieces

    def _find(self, string: str) -> int:
        """Where a stop string begins, or -1."""
        at = self._held.find(string)
        while at >= 0 and (self._inside_marker(at) or self._inside_marker(at + len(string))):
            at = self._held.find(string, at + 1)
        return at

    def _decided(self) -> int:
        """Where the longest suffix starts that is the beginning of a stop string."""
        end = len(self._held)
        first = end
        for string in self._stop:
            for at in range(max(0, end - len(string) + 1), first):
                if string.startswith(self._held[at:]) and not self._inside_marker(at):
                    first = at
                    break
        return first

    def _inside_marker(self, at: int) -> bool:
        return any(start < at < end for start, end in self._markers)

    def _split(self, cut: int) -> list[Piece]:
        """The held text up to ``cut``, markers apart from the text around them."""
        pieces, done = [], 0
        for start, end in self._markers:
            if start >= cut:
                break
            pieces += [Piece(self._held[done:start]), Piece(self._held[start:end], special=True)]
            done = end
        pieces.append(Piece(self._held[done:cut]))
        return [piece for piece in pieces if piece.text]
