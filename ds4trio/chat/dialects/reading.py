"""What all readers of one answer share: their text, what they say, the tools, and the marks of the dialect."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ds4trio.chat.dialects.cursor import Cursor, Markers, Step
from ds4trio.chat.dialects.literals import Notation, literal
from ds4trio.chat.dialects.output import Output
from ds4trio.chat.dialects.rows import PLACEHOLDER, Dialect
from ds4trio.chat.messages import Tool

__all__ = ["NAME", "Head", "Reading"]

NAME = re.compile(r"[\w.\-/:]*")
_LONGEST_NAME = 256
_BRACE = Markers(["{"])
_LONGEST_HEAD = 128
"""Characters that a call's head may have besides the name; more of them are no head."""


class Reading:
    """One answer being read. ``structural``: what comes next is structure, not text or a value."""

    def __init__(self, cursor: Cursor, output: Output, dialect: Dialect, tools: Sequence[Tool]) -> None:
        self.cursor = cursor
        self.output = output
        self.dialect = dialect
        self.schemas: Mapping[str, Mapping[str, Any]] = {tool.name: tool.parameters for tool in tools}
        self.structural = False
        self.known_only = False
        """Only calls of known tools count; others are text."""
        self.ends = Markers([dialect.call_end.strip(), dialect.section_markers[1]])

    def payload(self, is_value: bool) -> None:
        """What comes next is a value, or the structure around one."""
        self.structural = not is_value

    def start(self, name: str) -> bool:
        """A call of ``name`` begins, unless that is no name or only known tools count and it is none."""
        if name not in self.schemas and name.startswith("functions."):
            name = name.removeprefix("functions.")
        if not name or (self.known_only and name not in self.schemas):
            return False
        self.cursor.forget()
        self.output.start(name)
        self.output.channel = "content"
        return True

    def value(self, notation: Notation, *, within: str = "") -> Step[bool]:
        """The arguments as one object, False if they are none or are cut off.

        What cannot be read stays as the model wrote it, up to an end marker, which is left unread.
        """
        cursor, output = self.cursor, self.output
        if (within or (yield from cursor.look(_BRACE))) and (
            yield from literal(cursor, notation, output.arguments, payload=self.payload, within=within)
        ):
            self.structural = True
            return True
        self.structural = False
        while (yield from cursor.peek()):
            text, found = yield from cursor.until(self.ends)
            output.arguments(text)
            if found:
                cursor.unread(len(found))
                self.structural = True
                break
        return False


class Head:
    """What stands between a call's begin and its arguments, the name in it. See `Dialect.head`."""

    def __init__(self, dialect: Dialect) -> None:
        before, after = dialect.head_parts
        self.opener = PLACEHOLDER.split(before)[-1].strip()
        self._optional = re.fullmatch(r"[\w.]*", self.opener) is not None
        self._before = Markers([self.opener])
        self._before_skips = PLACEHOLDER.search(before) is not None
        self.closer = PLACEHOLDER.split(after)[-1].strip()
        self._after = Markers([self.closer])
        self._after_skips = PLACEHOLDER.search(after) is not None
        self._indexed = "{index}" in after
        self._self_closing = Markers(["/>"] if self.closer == ">" else ['"/>'] if self.closer == '">' else [])
        self.empty = False
        """The head that was read last closes itself: nothing follows it."""
        if self._optional:
            self.opener = ""

    def read(self, cursor: Cursor, *, begun: bool) -> Step[str]:
        """The name; empty if there is no head here. ``begun``: its `opener` has been read."""
        yield from cursor.space()
        if not begun:
            if self._before_skips:
                if (yield from cursor.before(self._before, _LONGEST_HEAD)) is None:
                    return ""
            elif not (yield from cursor.at(self._before)) and not self._optional:
                return ""
            yield from cursor.space()
        name = yield from cursor.run(NAME, _LONGEST_NAME)
        if len(name) > _LONGEST_NAME:
            return ""
        if self._indexed:
            name = re.sub(r":\d+$", "", name)
        if self._after_skips:
            found = (yield from cursor.before(self._after, _LONGEST_HEAD)) is not None
        elif self.closer:
            yield from cursor.space()
            self.empty = bool((yield from cursor.at(self._self_closing)))
            found = self.empty or bool((yield from cursor.at(self._after)))
        else:
            found = True
        return name if found else ""
