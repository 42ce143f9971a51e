"""Reading text that is not all there yet.

The readers of this package are generators written as if the whole text were at hand: where it is not, they yield and
go on when there is more. `Cursor` is their text and their place in it; its methods are the only ones that yield.
Nothing is looked at twice: what a method has to wait for is at most as long as the longest marker, everything else is
handed on at once. This file knows nothing of dialects or events.
"""

import re
from collections.abc import Collection, Generator
from typing import TypeVar

__all__ = ["Cursor", "Markers", "Step"]

_T = TypeVar("_T")
Step = Generator[None, None, _T]
"""A reader: yields when it needs more text, returns what it found."""

_SPACE = re.compile(r"\s*")


class Markers:
    """A set of literals to look for, the longest first. Empty ones are left out."""

    __slots__ = ("_firsts", "_longest", "_prefixes", "_regex")

    def __init__(self, literals: Collection[str]) -> None:
        found = sorted({literal for literal in literals if literal}, key=len, reverse=True)
        # A pattern that matches nowhere keeps the empty set an ordinary one.
        self._regex = re.compile("|".join(map(re.escape, found)) or r"(?!)")
        self._prefixes = frozenset(literal[:end] for literal in found for end in range(1, len(literal)))
        self._firsts = frozenset(literal[0] for literal in found)
        self._longest = len(found[0]) if found else 0

    def search(self, text: str, start: int) -> tuple[int, int, bool]:
        """First marker at or after ``start``: where it begins and ends, and whether that is certain.

        Without one the two places are equal: up to there no marker begins. Uncertain is what more text can change.
        """
        match = self._regex.search(text, start)
        limit = match.start() + 1 if match else len(text)
        for index in range(max(start, len(text) - self._longest + 1), limit):
            if text[index] in self._firsts and text[index:] in self._prefixes:
                if match is not None and match.start() == index:
                    return index, match.end(), False
                return index, index, False
        return (match.start(), match.end(), True) if match else (len(text), len(text), True)

    def match(self, text: str, start: int) -> tuple[int, bool]:
        """Where the marker at ``start`` ends, or ``start`` without one, and whether that is certain."""
        match = self._regex.match(text, start)
        rest = len(text) - start
        certain = rest >= self._longest or (rest > 0 and text[start:] not in self._prefixes)
        return (match.end() if match else start), certain or self._longest == 0


class Cursor:
    """The text that has come and is not yet read.

    ``closed`` once no more will come. ``partial`` is the length of what may be the beginning of a marker.
    """

    __slots__ = ("_mark", "_marked", "_pos", "_text", "closed", "partial")

    def __init__(self) -> None:
        self._text = ""
        self._pos = 0
        self._mark = -1
        self._marked: list[str] = []  # what was read since the mark, but for what is left of it in the text
        self.closed = False
        self.partial = 0

    def push(self, text: str) -> None:
        """Append text; what was read, and is not marked, is forgotten."""
        if self._mark >= 0:
            self._marked.append(self._text[self._mark : self._pos])
            self._mark = 0
        self._text = self._text[self._pos :] + text
        self._pos = 0

    @property
    def waiting(self) -> int:
        """Characters that have come and are not yet read."""
        return len(self._text) - self._pos

    def mark(self, back: int = 0) -> None:
        """Remember everything that is read from here on, and the last ``back`` characters."""
        self.forget()
        self._mark = self._pos - back

    def marked(self) -> str:
        """What was read since the mark, which is gone then."""
        text = "".join((*self._marked, self._text[self._mark : self._pos]))
        self.forget()
        return text

    def forget(self) -> None:
        """Forget the mark."""
        self._mark = -1
        self._marked.clear()

    def rewind(self) -> None:
        """Go back to the mark."""
        self._text = "".join((*self._marked, self._text[self._mark :]))
        self._pos = 0
        self.forget()

    def unread(self, count: int) -> None:
        """Go back to before the last ``count`` characters, which have just been read."""
        self._pos -= count

    def more(self) -> Step[bool]:
        """Wait for more text; False if there will be none."""
        if self.closed:
            return False
        yield
        return True

    def peek(self) -> Step[str]:
        """The next character, unread; empty at the end."""
        while self._pos == len(self._text):
            if not (yield from self.more()):
                return ""
        return self._text[self._pos]

    def take(self, count: int) -> Step[str]:
        """The next ``count`` characters, fewer at the end."""
        while len(self._text) - self._pos < count:
            if not (yield from self.more()):
                break
        text = self._text[self._pos : self._pos + count]
        self._pos += len(text)
        return text

    def space(self) -> Step[str]:
        """White space up to the next character that is none."""
        return (yield from self.run(_SPACE))

    def run(self, pattern: re.Pattern[str], limit: int = 1 << 30) -> Step[str]:
        """The longest match of ``pattern``, a repeated set of characters, up to ``limit`` characters or a few more."""
        pieces = []
        length = 0
        while True:
            match = pattern.match(self._text, self._pos)
            piece = match.group() if match else ""
            self._pos += len(piece)
            pieces.append(piece)
            length += len(piece)
            if self._pos < len(self._text) or length > limit or not (yield from self.more()):
                return "".join(pieces) if len(pieces) > 1 else piece

    def available(self, pattern: re.Pattern[str]) -> str:
        """What has come of a match of ``pattern``, without waiting."""
        match = pattern.match(self._text, self._pos)
        if match is None:
            return ""
        self._pos = match.end()
        return match.group()

    def at(self, markers: Markers) -> Step[str]:
        """The marker that stands here, read; empty and unread if there is none."""
        while True:
            end, certain = markers.match(self._text, self._pos)
            if certain or not (yield from self.more()):
                text, self._pos = self._text[self._pos : end], end
                return text

    def look(self, markers: Markers) -> Step[bool]:
        """Whether a marker stands here; nothing is read."""
        while True:
            end, certain = markers.match(self._text, self._pos)
            if certain or not (yield from self.more()):
                return end > self._pos

    def until(self, markers: Markers) -> Step[tuple[str, str]]:
        """Text before the next marker, and the marker, both read.

        The text comes as soon as it is certain, then without a marker; both are empty at the end only.
        """
        while True:
            start, end, certain = markers.search(self._text, self._pos)
            certain = certain or self.closed
            if self.closed and start == end:
                start = end = len(self._text)
            if start > self._pos or (start < end and certain):
                text = self._text[self._pos : start]
                found = self._text[start:end] if certain else ""
                self._pos = start + len(found)
                return text, found
            self.partial = len(self._text) - self._pos
            if not (yield from self.more()):
                return "", ""
            self.partial = 0

    def before(self, markers: Markers, limit: int) -> Step[tuple[str, str] | None]:
        """As `until`, for a marker within ``limit`` characters; None and nothing read if there is none."""
        while True:
            start, end, certain = markers.search(self._text, self._pos)
            if start < end and certain and start - self._pos <= limit:
                text, self._pos = self._text[self._pos : start], end
                return text, self._text[start:end]
            if start - self._pos > limit or not (yield from self.more()):
                return None
