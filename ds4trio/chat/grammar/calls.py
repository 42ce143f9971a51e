"""Calls as a dialect writes them, from the marker that begins the first to the one that ends the last.

Everything that is no argument is fixed: a model that has to call has nothing else to decide than which tool, with what,
and whether once more.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ds4trio.chat.dialects.rows import Dialect
from ds4trio.chat.grammar.arguments import arguments_for
from ds4trio.chat.grammar.errors import UnenforceableError
from ds4trio.chat.grammar.schemas import ANY_OBJECT, Schema
from ds4trio.chat.grammar.source import Source, choice, quoted, sequence
from ds4trio.chat.grammar.strings import UnmappableError
from ds4trio.chat.messages import Tool

__all__ = ["Callee", "Calls", "Obedience", "arguments", "tool_error"]

Obedience = Literal["strict", "lenient", "free"]
"""How far arguments obey the tool's schema: entirely; as far as a grammar can say it; not at all."""

_PLACEHOLDER = re.compile(r"(\{(?:id|index|name)\})")
_ID = "/[A-Za-z0-9]{9}/"
_INDEX = "/[0-9]{1,3}/"
_MOST_CALLS = 32
"""In one answer: a small model that has to call once may not find the end otherwise."""


@dataclass(frozen=True, slots=True)
class Callee:
    """A tool that may be called. ``param`` says where in the request it stands."""

    tool: Tool
    param: str
    obedience: Obedience

    @property
    def schema(self) -> Schema:
        """What its arguments have to obey: arguments are an object, whatever else the schema says."""
        node = self.tool.parameters
        if node.get("type") != "object":
            node = {**node, "type": "object"}
        return Schema(node, node, lenient=self.obedience != "strict")


def arguments(source: Source, dialect: Dialect, tool: Callee) -> str:
    """The arguments of one call. Raises `UnenforceableError` for those of a strict tool."""
    writer = arguments_for(source, dialect)
    if tool.obedience == "free":
        return writer.free(tool.schema)
    try:
        return writer.obeying(tool.schema)
    except UnmappableError as error:
        if tool.obedience == "strict":
            raise tool_error(tool, str(error)) from None
        return writer.free(tool.schema)


def tool_error(tool: Callee, reason: str) -> UnenforceableError:
    """The schema of a strict tool cannot be enforced."""
    message = f"tool {tool.tool.name!r} is strict, but {reason}: change its schema or leave out strict"
    return UnenforceableError(message, param=tool.param)


class Calls:
    """The calls of one answer, in any dialect but Harmony's. ``several``: there may be more than one."""

    def __init__(self, source: Source, dialect: Dialect, tools: Sequence[Callee], *, several: bool) -> None:
        self._source = source
        self._dialect = dialect
        head, self._rest = self._around_name()
        self._opening = (dialect.section_begin + dialect.call_begin + head).lstrip()
        self.trigger = self._trigger(head)
        """The marker that begins the calls, without the white space around it; empty where they need none."""
        self.first = self._opening[:1] or "{"
        """The first character of calls that need no marker."""
        call = source.rule(choice(map(self._call, tools)))
        self._calls = self._ended(call, dialect.separator + dialect.call_begin + head, several=several)

    def after(self, marker: str) -> str:
        """The calls, of which ``marker``, a prefix of what they begin with, has been written."""
        return sequence(self._expanded(self._opening.removeprefix(marker)), self._calls)

    def _ended(self, call: str, next_begin: str, *, several: bool) -> str:
        """A call whose beginning has been written, the others, and the end of them all."""
        dialect, source = self._dialect, self._source
        end, trailing = dialect.call_end, ""
        if not dialect.section_end:
            # The answer may end here: white space belongs to the next call, or to nothing.
            end = end.rstrip()
            next_begin = dialect.call_end[len(end) :] + next_begin
            trailing = next_begin[: len(next_begin) - len(next_begin.lstrip())]
        one = sequence(call, source.literal(end))
        further = f"({sequence(self._expanded(next_begin), one)}){{0,{_MOST_CALLS - 1}}}" if several else ""
        space = f"({source.literal(trailing)})?" if several and trailing else ""
        return source.rule(sequence(one, further, source.literal(dialect.section_end.rstrip()), space))

    def _around_name(self) -> tuple[str, str]:
        """What stands between a call's begin marker and the name, and what stands behind the name."""
        dialect = self._dialect
        if dialect.codec == "json" and dialect.bare:
            return "", ""
        if dialect.codec == "json":
            return (
                ('{"', '": ') if dialect.name_is_key else (f'{{"{dialect.name_key}": "', f'", "{dialect.args_key}": ')
            )
        if dialect.codec == "pythonic":
            return "", "("
        return dialect.head_parts

    def _trigger(self, head: str) -> str:
        dialect = self._dialect
        section = dialect.section_markers[0]
        if section.isalnum():  # a plain word may well stand in a text
            section = dialect.section_begin.strip()
        tag = _PLACEHOLDER.split(head)[0].strip() if dialect.head else ""
        return next(filter(None, ("" if dialect.bare else section, dialect.call_begin.strip(), tag)), "")

    def _call(self, tool: Callee) -> str:
        dialect, name = self._dialect, tool.tool.name
        if dialect.codec == "json" and dialect.bare:
            # All of it is JSON: where the answer may be other JSON instead, the lexer has to see the same in both.
            schema = ANY_OBJECT if tool.obedience == "free" else tool.schema
            return schema.beside({dialect.name_key: name}, dialect.args_key).json()
        written = arguments(self._source, dialect, tool)
        if dialect.codec == "json":
            last = ['"}"']
            if dialect.id_key and not dialect.name_is_key:
                last = [self._source.literal(f', "{dialect.id_key}": "'), self._source.terminal(_ID), '"\\"}"']
            return sequence(self._source.literal(json.dumps(name)[1:-1] + self._rest), written, *last)
        tail = ")" if dialect.codec == "pythonic" else dialect.tail
        # Special tokens are looked for in all that is fixed, and a name is none.
        return sequence(quoted(name), self._expanded(self._rest, name), written, self._source.literal(tail))

    def _expanded(self, text: str, name: str = "") -> str:
        """A literal with its placeholders filled in."""
        parts = []
        for piece in _PLACEHOLDER.split(text):
            match piece:
                case "{id}":
                    parts.append(self._source.terminal(_ID))
                case "{index}":
                    parts.append(self._source.terminal(_INDEX))
                case "{name}":
                    parts.append(quoted(name))
                case _:
                    parts.append(self._source.literal(piece))
        return " ".join(filter(None, parts))
