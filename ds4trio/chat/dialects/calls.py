"""One reader for each way to write a call as one value; `tagged` and `minimax_m3` have those with tags.

A reader stands behind the marker that began the call and reads up to where its end marker should be. It says nothing
before it is certain that this is a call: if it is none, it returns False and what it has read is text.
"""

import json
from typing import Protocol

from ds4trio.chat.dialects.cursor import Markers, Step
from ds4trio.chat.dialects.literals import JSON, PYTHON, Notation, literal, transcribed
from ds4trio.chat.dialects.reading import NAME, Head, Reading
from ds4trio.chat.dialects.rows import GEMMA4_QUOTE

__all__ = ["CallReader", "JsonCalls", "NamedCalls", "PythonCalls", "gemma4"]

_LONGEST_KEY = 256
_COMMA, _COLON, _QUOTE, _CLOSING_BRACE = Markers([","]), Markers([":"]), Markers(['"']), Markers(["}"])


class CallReader(Protocol):
    """Reads calls of one kind."""

    @property
    def opener(self) -> str:
        """What begins a call even without its begin marker, empty for nothing."""
        ...

    @property
    def first(self) -> str:
        """Characters that a call begins with where no marker is needed."""
        ...

    @property
    def between(self) -> str:
        """Punctuation that may stand after a call and is no text."""
        ...

    def read(self, *, begun: bool) -> Step[bool]:
        """Read a call, False if there is none. ``begun``: `opener` has been read."""
        ...


class JsonCalls:
    """``{"name": …, "arguments": {…}}``"""

    opener = ""
    first = "{["
    between = "],;}"

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._brace = Markers(["{"])
        dialect = reading.dialect
        self._name_keys = {dialect.name_key, "name"}
        self._arguments_keys = {dialect.args_key, "arguments", "parameters"}  # models mix them up
        self._name = self._early = ""
        self._started = self._complete = self._closed = False

    def read(self, *, begun: bool) -> Step[bool]:
        """Read a call; the arguments may stand before the name, other keys are skipped."""
        del begun
        reading, cursor = self._reading, self._reading.cursor
        self._name = self._early = ""
        self._started = self._complete = self._closed = False
        yield from cursor.space()
        if not (yield from cursor.at(self._brace)):
            return False
        while (key := (yield from self._key())) and (yield from self._member(key)):
            pass
        if not self._started:
            if not self._closed or not reading.start(self._name):
                return False
            reading.output.arguments(_object(self._early))
            self._complete = True
        reading.output.end(complete=self._complete)
        return True

    def _key(self) -> Step[str]:
        """The next key and its colon; empty at the end of the object, or of what can be read."""
        cursor = self._reading.cursor
        while True:
            yield from cursor.space()
            if not (yield from cursor.at(_COMMA)):
                break
        if (yield from cursor.at(_CLOSING_BRACE)):
            self._closed = True
            return ""
        key = yield from self._text()
        yield from cursor.space()
        return key if (yield from cursor.at(_COLON)) else ""

    def _member(self, key: str) -> Step[bool]:
        """The value of ``key``; False if this is no call or nothing more of it can be read."""
        reading = self._reading
        yield from reading.cursor.space()
        is_name = reading.dialect.name_is_key and not self._name
        if is_name:
            self._name = key
        elif key in self._name_keys and not self._started:
            self._name = yield from self._text()
            return NAME.fullmatch(self._name) is not None
        if (is_name or key in self._arguments_keys) and not self._started:
            if self._name and (yield from reading.cursor.look(self._brace)):
                self._started = reading.start(self._name)
                self._complete = self._started and (yield from reading.value(JSON))
                return self._complete
            self._early = yield from self._skip()
            return bool(self._early)
        return bool((yield from self._skip()))

    def _text(self) -> Step[str]:
        """A short string, empty if there is none."""
        if not (yield from self._reading.cursor.look(_QUOTE)):
            return ""
        value = yield from self._skip()
        return json.loads(value) if 0 < len(value) <= _LONGEST_KEY else ""

    def _skip(self) -> Step[str]:
        """A value that is not said, empty if it cannot be read."""
        pieces: list[str] = []
        complete = yield from literal(self._reading.cursor, JSON, pieces.append, payload=self._reading.payload)
        self._reading.structural = True
        return "".join(pieces) if complete else ""


def _object(value: str) -> str:
    """Arguments that came before their name, or as text, as one JSON object; empty for none."""
    if value.startswith('"'):
        value = json.loads(value)
        return (transcribed(value, JSON) or "") if value.lstrip().startswith("{") else ""
    return value if value.startswith("{") else ""


class NamedCalls:
    """A head with the name, then the arguments as one value."""

    first = ""
    between = ""

    def __init__(self, reading: Reading, notation: Notation) -> None:
        dialect = reading.dialect
        self._reading = reading
        self._notation = notation
        self._head = Head(dialect)
        self.opener = self._head.opener
        self._tail = Markers([dialect.tail.strip()])
        self._ends = Markers([dialect.tail.strip(), dialect.call_end.strip(), dialect.section_markers[1]])

    def read(self, *, begun: bool) -> Step[bool]:
        """Read a call."""
        reading, cursor = self._reading, self._reading.cursor
        name = yield from self._head.read(cursor, begun=begun)
        if not name:
            return False
        yield from cursor.space()
        if (yield from cursor.peek()) == "{":
            if not reading.start(name):
                return False
            complete = yield from reading.value(self._notation)
        else:
            if not (yield from cursor.look(self._ends)) or not reading.start(name):
                return False
            complete = True
        reading.output.end(complete=complete)
        yield from cursor.space()
        yield from cursor.at(self._tail)
        return True


def gemma4(quote: str = GEMMA4_QUOTE) -> Notation:
    """Gemma 4's notation; ``quote`` is what stands for its mark around strings."""
    return Notation((quote, '"'), bare=True)


class PythonCalls:
    """``name(key=value, …)``"""

    opener = ""
    first = "["
    between = "],"

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._open = Markers(["("])

    def read(self, *, begun: bool) -> Step[bool]:
        """Read a call."""
        del begun
        reading, cursor = self._reading, self._reading.cursor
        yield from cursor.space()
        name = yield from cursor.run(NAME, _LONGEST_KEY)
        if not name or not (yield from cursor.at(self._open)) or not reading.start(name):
            return False
        complete = yield from reading.value(PYTHON, within=")")
        reading.output.end(complete=complete)
        return True
