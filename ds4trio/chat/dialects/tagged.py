"""Calls whose arguments stand between tags of their own: Qwen3-Coder, GLM, MiniMax M2, DeepSeek V3.2 and others.

A value is text until its end tag. It becomes a string where the tool's schema or the tag allows one, and is said as it
comes; any other value is said whole, as the JSON or Python literal that it is, else as a string. An end tag counts only
if what follows it does in a call: the code that models write may well hold one.
"""

import html
from collections.abc import Callable, Mapping
from typing import Any

from ds4trio.chat.dialects.cursor import Markers, Step
from ds4trio.chat.dialects.literals import PYTHON, transcribed
from ds4trio.chat.dialects.output import json_text
from ds4trio.chat.dialects.reading import Head, Reading
from ds4trio.chat.dialects.rows import CDATA_BEGIN, CDATA_END
from ds4trio.chat.dialects.schemas import allows_null, allows_string, member

__all__ = ["TaggedCalls"]

_LONGEST_KEY = 256
_NEWLINE = Markers(["\n"])


class TaggedCalls:
    """A head with the name, then every argument between tags of its own."""

    first = ""
    between = ""

    def __init__(self, reading: Reading) -> None:
        dialect = reading.dialect
        self._reading = reading
        self._head = Head(dialect)
        self.opener = self._head.opener
        self._key_begin = dialect.key_begin.strip()
        key_end, _, hint_end = dialect.key_end.partition("{hint}")
        self._key_end = Markers([key_end.strip()])
        self._hint_end = Markers([hint_end.strip()])
        self._string_hint = dialect.hints[0] if dialect.hints else None
        self._value_begin = Markers([dialect.value_begin.strip()])
        self._value_begin_spaced = bool(dialect.value_begin.strip())
        self._padded = (dialect.key_end + dialect.value_begin).endswith("\n") and dialect.value_end.startswith("\n")
        self._tail = dialect.tail.strip()
        value_end, call_end = dialect.value_end.strip(), dialect.call_end.strip()
        section_end = dialect.section_markers[1]
        closers = [self._tail, call_end, section_end]
        pad = "\n" if self._padded else ""
        self._call_closer = self._tail or call_end
        value_ends = [end for end in (value_end, self._call_closer) if end]
        self._value_end = Markers([*value_ends, *(pad + end for end in value_ends)])
        self._null = Markers([f"null{pad}{value_end}"])
        self._cdata = Markers([CDATA_BEGIN] if dialect.cdata else [])
        self._cdata_end = Markers([CDATA_END + value_end])
        self._key_or_tail = Markers([self._key_begin, self._tail])
        self._closers = Markers(closers)
        # What has to follow what ends a value, so that a value may hold such a marker.
        self._tags = Markers([self._key_begin, *closers])
        self._after_value = {value_end: self._tags}
        after_call = [dialect.call_begin.strip(), self.opener, section_end, call_end if self._tail else ""]
        self._after_value[self._call_closer] = Markers(after_call)

    def read(self, *, begun: bool) -> Step[bool]:
        """Read a call."""
        reading, cursor, output = self._reading, self._reading.cursor, self._reading.output
        name = yield from self._head.read(cursor, begun=begun)
        if not name:
            return False
        if not self._head.closer:  # a head that ends with the name is one only if a tag follows
            yield from cursor.space()
            if not (yield from cursor.look(self._tags)):
                return False
        if not reading.start(name):
            return False
        output.arguments("{")
        complete = self._head.empty or (yield from self._arguments(reading.schemas.get(name, {})))
        if complete:
            output.arguments("}")
        output.end(complete=complete)
        return True

    def _arguments(self, schema: Mapping[str, Any]) -> Step[bool]:
        """All arguments and the tail, False if they are cut off."""
        reading, cursor = self._reading, self._reading.cursor
        seen: set[str] = set()
        while True:
            reading.structural = True
            yield from cursor.space()
            found = yield from cursor.at(self._key_or_tail)
            if found != self._key_begin or not found:
                # Without an end marker, text behind the last value ends the call, the end of all text cuts it off.
                return bool(found) or (yield from cursor.look(self._closers)) or bool((yield from cursor.peek()))
            if (end_of_key := (yield from cursor.before(self._key_end, _LONGEST_KEY))) is None:
                yield from cursor.take(cursor.waiting if cursor.closed else 0)
                return not cursor.closed
            key = reading.output.plain(end_of_key[0].strip())
            if self._reading.dialect.entities:
                key = html.unescape(key)
            schema_of_key = member(schema, key, schema)
            is_string = allows_string(schema_of_key, schema)
            if self._string_hint is not None:
                hint = yield from cursor.before(self._hint_end, _LONGEST_KEY)
                is_string = is_string if hint is None else hint[0] == self._string_hint
            sink: Callable[[str], None] = _drop  # a JSON object has no place for a second value of the same key
            if key not in seen:
                sink = reading.output.arguments
                sink(f'{", " if seen else ""}"{json_text(key)}": ')
                seen.add(key)
            reading.structural = False
            nullable = is_string and self._string_hint is None and allows_null(schema_of_key, schema)
            if not (yield from self._value(sink, is_string=is_string, nullable=nullable)):
                return False

    def _value(self, sink: Callable[[str], None], *, is_string: bool, nullable: bool) -> Step[bool]:
        """A value and its end marker; strings are said as they come. False if it is cut off."""
        cursor = self._reading.cursor
        end = yield from self._value_start()
        if nullable and (yield from cursor.at(self._null)):
            sink("null")
            return True
        pieces: list[str] = []
        if is_string:
            sink('"')
        ended = False
        while not ended:
            text, found = yield from cursor.until(end)
            ended = bool(found) and (yield from self._ends_value(found))
            if found and not ended:
                text += found
            if not text and not ended:
                return False
            if is_string:
                sink(json_text(text))
            else:
                pieces.append(text)
        if is_string:
            sink('"')
        else:
            value = "".join(pieces)
            sink(transcribed(value, PYTHON) or f'"{json_text(value)}"')
        return True

    def _value_start(self) -> Step[Markers]:
        """What stands before a value; what may end it."""
        cursor = self._reading.cursor
        if self._value_begin_spaced:
            yield from cursor.space()
        yield from cursor.at(self._value_begin)
        if (yield from cursor.at(self._cdata)):
            return self._cdata_end
        if self._padded:
            yield from cursor.at(_NEWLINE)
        return self._value_end

    def _ends_value(self, found: str) -> Step[bool]:
        """Whether the marker that was just read ends the value, as what follows it tells: code may well hold one."""
        cursor = self._reading.cursor
        marker = found.removeprefix(CDATA_END).strip()
        self._reading.structural = True
        cursor.mark(back=len(found))
        yield from cursor.space()
        ends = (yield from cursor.look(self._after_value[marker])) or not (yield from cursor.peek())
        cursor.rewind()
        self._reading.structural = ends
        if not ends or marker != self._call_closer:  # what ends the call, too, is left to it
            yield from cursor.take(len(found))
        return ends


def _drop(_: str) -> None:
    """Say nothing."""
