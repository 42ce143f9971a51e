"""Values as models write them, read once from left to right and written as JSON on the way.

One reader for JSON, Python literals and Gemma 4's notation, since they differ in little: what stands around strings,
whether keys may be bare. It has a stack of its own, so depth costs nothing, and hands on every piece as soon as it is
certain. It forgives what models do wrong and a JSON parser does not: line breaks in strings, escapes that JSON has
not, commas before a closing bracket, ``True`` and ``None``. What it cannot forgive ends the reading.
"""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ds4trio.chat.dialects.cursor import Cursor, Markers, Step
from ds4trio.chat.dialects.output import json_text

__all__ = ["JSON", "PYTHON", "Notation", "literal", "transcribed"]


@dataclass(frozen=True, slots=True)
class Notation:
    """How values are written: what strings stand between, whether keys and words need that, whether ``\\`` escapes."""

    quotes: tuple[str, ...]
    bare: bool = False
    escapes: bool = True


JSON = Notation(('"',))
PYTHON = Notation(('"', "'"))

_CLOSERS = {"{": "}", "[": "]", "(": ")"}
_WORD = re.compile(r"[^\s,:=\"'{}\[\]()<\U00100000-\U0010FFFF]*")
_BARE_KEY = re.compile(r"[^:=\"'{}\[\]()<\U00100000-\U0010FFFF]*")
_LONGEST_WORD = 256
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_PLAIN = {'"': re.compile(r'[^"\\]+'), "'": re.compile(r"[^'\\]+")}
_HEX = {"x": 2, "u": 4, "U": 8}
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_HALVES, _SECOND_HALVES = range(0xD800, 0xE000), range(0xDC00, 0xE000)
_UNICODE = Markers(["\\u"])
_CONTROLS = {"a": "\a", "v": "\v", "0": "\0"}


def literal(
    cursor: Cursor,
    notation: Notation,
    sink: Callable[[str], None],
    *,
    payload: Callable[[bool], None],
    within: str = "",
) -> Step[bool]:
    """Read one value and give it to ``sink`` as JSON; False if it is cut off or goes on in a way that cannot be read.

    ``payload`` is told whether what comes next is a value or the structure around one. ``within`` is the bracket that
    closes an object whose opening bracket has just been read: the arguments of a Python call if it is ``)``.
    """
    reader = _Literal(cursor, notation, sink)
    if within:
        reader.open("{", within)
    while True:
        payload(reader.at_value)
        space = yield from cursor.space()
        sink(" " if space.strip(" \t\r\n") else space)
        char = yield from cursor.peek()
        if not char or not (yield from reader.step(char)):
            return False
        if reader.complete:
            return True


class _Literal:
    """A value that is being read: what is open, and what may come next."""

    __slots__ = ("_comma", "_cursor", "_expected", "_notation", "_open", "_quotes", "_sink")

    def __init__(self, cursor: Cursor, notation: Notation, sink: Callable[[str], None]) -> None:
        self._cursor = cursor
        self._notation = notation
        self._sink = sink
        self._quotes = Markers(notation.quotes)
        self._open: list[tuple[str, bool]] = []  # the closing bracket, and whether it is an object's
        self._expected: Literal["value", "key", "colon", "after"] = "value"
        self._comma = False  # one is due before what comes next

    @property
    def complete(self) -> bool:
        """Whether the outermost value has ended."""
        return not self._open and self._expected == "after"

    @property
    def at_value(self) -> bool:
        """Whether a value comes next, or one in a list might."""
        return self._expected == "value" or not self._keyed

    @property
    def _keyed(self) -> bool:
        return bool(self._open) and self._open[-1][1]

    def open(self, bracket: str, closer: str) -> None:
        """An object or a list begins; ``bracket`` is how JSON writes it."""
        self._open.append((closer, bracket == "{"))
        self._expected = "key" if bracket == "{" else "value"
        self._sink(bracket)

    def step(self, char: str) -> Step[bool]:
        """Read one key, scalar or punctuation mark, which begins with ``char``; False if it cannot be read."""
        if self._open and char == self._open[-1][0] and (self._expected in ("after", "key") or not self._keyed):
            yield from self._cursor.take(1)
            self._sink("}" if self._open.pop()[1] else "]")
            self._expected, self._comma = "after", False
            return True
        if self._expected in ("after", "colon"):
            if char not in ("," if self._expected == "after" else ":="):
                return False
            yield from self._cursor.take(1)
            if self._expected == "colon":
                self._sink(":")
            # A comma waits: models write one before a closing bracket, too.
            self._comma = self._expected == "after"
            self._expected = "key" if self._comma and self._keyed else "value"
            return True
        if self._comma:
            self._sink(",")
            self._comma = False
        if self._expected == "value" and char in _CLOSERS:
            yield from self._cursor.take(1)
            self.open("{" if char == "{" else "[", _CLOSERS[char])
            return True
        if not (yield from self._scalar()):
            return False
        self._expected = "colon" if self._expected == "key" else "after"
        return True

    def _scalar(self) -> Step[bool]:
        """A string, number or word."""
        if quote := (yield from self._cursor.at(self._quotes)):
            self._sink('"')
            if not (yield from _string(self._cursor, quote, self._notation, self._sink)):
                return False
            self._sink('"')
            return True
        is_key = self._expected == "key"
        is_keyword = is_key and self._open == [(")", True)]
        pattern = _BARE_KEY if is_key and self._notation.bare else _WORD
        word = (yield from self._cursor.run(pattern, _LONGEST_WORD)).rstrip()
        cut_off = self._open and not (yield from self._cursor.peek())
        if word and not cut_off and not is_key and (text := _number_or_name(word)):
            self._sink(text)
        elif word and not cut_off and (self._notation.bare or is_keyword):
            self._sink(f'"{json_text(word)}"')
        else:
            self._sink(word)
            return False
        return True


def transcribed(text: str, notation: Notation) -> str | None:
    """A whole value as JSON, None if ``text`` is not exactly one."""
    cursor = Cursor()
    cursor.push(text)
    cursor.closed = True
    pieces: list[str] = []
    reader = literal(cursor, notation, pieces.append, payload=_ignore)
    try:
        next(reader)
    except StopIteration as stop:
        if not stop.value or text[len(text) - cursor.waiting :].strip():
            return None
    return "".join(pieces).strip()


def _ignore(_: bool) -> None:
    pass


def _number_or_name(word: str) -> str:
    """A number, truth value or null as JSON, empty if ``word`` is none of them."""
    if word in _WORDS:
        return _WORDS[word]
    if len(word) > _LONGEST_WORD:  # Python's own parser refuses very long integers
        return ""
    if _NUMBER.fullmatch(word):
        return word
    if word[0] in "+-.0123456789":
        try:
            number = float(word)
        except ValueError:
            return ""
        return json.dumps(number) if number - number == 0 else ""  # neither infinite nor NaN
    return ""


def _string(cursor: Cursor, quote: str, notation: Notation, sink: Callable[[str], None]) -> Step[bool]:
    """The inside of a string and the quote after it."""
    if quote not in _PLAIN or not notation.escapes:
        end = Markers((quote,))
        while True:
            text, found = yield from cursor.until(end)
            sink(json_text(text))
            if found or not text:
                return bool(found)
    plain = _PLAIN[quote]
    while True:
        if text := cursor.available(plain):
            sink(json_text(text))
        char = yield from cursor.peek()
        if char == quote:
            yield from cursor.take(1)
            return True
        if not char:
            return False
        if char == "\\" and not (yield from _escape(cursor, sink)):
            return False


def _escape(cursor: Cursor, sink: Callable[[str], None]) -> Step[bool]:
    escape = yield from cursor.take(2)
    if len(escape) < 2:
        return False
    kind = escape[1]
    if kind in '"\\/bfnrt':
        sink(escape)
    elif kind in _HEX:
        yield from _numbered(cursor, escape, sink)
    elif kind in _CONTROLS:
        sink(json_text(_CONTROLS[kind]))
    else:
        sink(json_text("'" if kind == "'" else escape))
    return True


def _numbered(cursor: Cursor, escape: str, sink: Callable[[str], None]) -> Step[None]:
    """The rest of an escape that gives a character's number; it is text if it does not.

    Two halves of a surrogate pair stay, one alone is no character and becomes U+FFFD.
    """
    written, code = yield from _number(cursor, escape)
    while code in _HALVES:
        if code in _SECOND_HALVES or not (yield from cursor.at(_UNICODE)):
            sink("\N{REPLACEMENT CHARACTER}")
            return
        first = code
        written, code = yield from _number(cursor, "\\u")
        if code in _SECOND_HALVES:
            sink(f"\\u{first:04x}{written}")
            return
        sink("\N{REPLACEMENT CHARACTER}")
    if code > sys.maxunicode:
        sink(json_text(written))
    else:
        sink(written if len(written) == 6 else json_text(chr(code)))


def _number(cursor: Cursor, escape: str) -> Step[tuple[str, int]]:
    """The escape with its digits, as it was written, and the number; one that is too large if digits are missing."""
    digits = ""
    while len(digits) < _HEX[escape[1]] and (yield from cursor.peek()) in _HEX_DIGITS:
        digits += yield from cursor.take(1)
    return escape + digits, int(digits, 16) if len(digits) == _HEX[escape[1]] else sys.maxunicode + 1
