"""MiniMax M3's calls: every argument is an element, objects and lists are elements within, one special token before
every tag."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ds4trio.chat.dialects.cursor import Markers, Step
from ds4trio.chat.dialects.literals import JSON, transcribed
from ds4trio.chat.dialects.output import json_text
from ds4trio.chat.dialects.reading import Head, Reading
from ds4trio.chat.dialects.schemas import allows_string, kind, member

__all__ = ["MinimaxCalls"]

_LONGEST_TAG = 256
_TAG_END = Markers([">"])
_EMPTY = {"array": "[]", "object": "{}"}


@dataclass(slots=True)
class _Element:
    """An object or a list that is open, and the bracket that ends it."""

    closer: str
    schema: object
    members: int = 0


class MinimaxCalls:
    """Implements `CallReader`."""

    first = ""
    between = ""

    def __init__(self, reading: Reading) -> None:
        dialect = reading.dialect
        self._reading = reading
        self._head = Head(dialect)
        self.opener = self._head.opener
        self._begin, self._end = dialect.key_begin, dialect.value_end
        self._tags = Markers([self._begin, self._end])
        self._ends = Markers([self._end])
        self._item = Markers([f"{self._begin}item>"])

    def read(self, *, begun: bool) -> Step[bool]:
        """Read a call."""
        reading = self._reading
        name = yield from self._head.read(reading.cursor, begun=begun)
        if not name or not reading.start(name):
            return False
        reading.output.end(complete=(yield from self._elements(reading.schemas.get(name, {}))))
        return True

    def _elements(self, root: Mapping[str, Any]) -> Step[bool]:
        """All elements and the tail, False if they are cut off."""
        cursor, say = self._reading.cursor, self._reading.output.arguments
        say("{")
        stack = [_Element("}", root)]
        while stack:
            self._reading.structural = True
            element = stack[-1]
            yield from cursor.space()
            tag = yield from cursor.at(self._tags)
            if not tag or (rest := (yield from cursor.before(_TAG_END, _LONGEST_TAG))) is None:
                return False
            name = rest[0]
            if tag == self._end:
                say(element.closer)
                stack.pop()
                continue
            say(", " if element.members else "")
            element.members += 1
            if element.closer == "}":
                say(f'"{json_text(name)}": ')
            schema = member(element.schema, name, root)
            if allows_string(schema, root):
                if not (yield from self._text(name, is_string=True)):
                    return False
                continue
            yield from cursor.space()
            if (yield from cursor.look(self._ends)) and (bracket := _EMPTY.get(kind(schema, root))):
                yield from cursor.before(_TAG_END, _LONGEST_TAG)
                say(bracket)
            elif (yield from cursor.look(self._tags)) and not (yield from cursor.look(self._ends)):
                is_list = yield from cursor.look(self._item)
                say("[" if is_list else "{")
                stack.append(_Element("]" if is_list else "}", schema))
            elif not (yield from self._text(name, is_string=False)):
                return False
        return True

    def _text(self, name: str, *, is_string: bool) -> Step[bool]:
        """A value without tags in it, and its end tag. False if it is cut off."""
        cursor, say = self._reading.cursor, self._reading.output.arguments
        end = Markers([f"{self._end}{name}>"])
        self._reading.structural = False
        pieces: list[str] = []
        if is_string:
            say('"')
        while True:
            text, found = yield from cursor.until(end)
            if is_string:
                say(json_text(text))
            else:
                pieces.append(text)
            if found:
                break
            if not text:
                return False
        if is_string:
            say('"')
        else:
            value = "".join(pieces)
            say(transcribed(value, JSON) or f'"{json_text(value)}"')
        return True
