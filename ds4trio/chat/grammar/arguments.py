"""A call's arguments in each codec's notation, as expressions that obey the tool's schema.

JSON is llguidance's own business. The other notations are built here from the schema's properties: as they stand in
the schema and in that order, so that one look-ahead tells them apart. Where a notation accepts JSON for a value, what
is too intricate for it is left to JSON.

Each writer has two methods: ``obeying`` a schema, which raises `UnmappableError` for what it cannot enforce, and
``free`` for arguments that only have to be readable.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ds4trio.chat.dialects.rows import CDATA_BEGIN, CDATA_END, GEMMA4_QUOTE, Dialect
from ds4trio.chat.grammar.schemas import ANY_OBJECT, ANYTHING, Schema
from ds4trio.chat.grammar.source import Source, choice, quoted, sequence
from ds4trio.chat.grammar.strings import UnmappableError, bare_string

__all__ = ["Arguments", "arguments_for"]

_OTHER_TYPES = ("integer", "number", "boolean", "null", "object", "array")
_KEY = r"/[A-Za-z_][A-Za-z0-9_.\-]{0,63}/"
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_OBJECT_DEMANDS = frozenset(["type", "properties", "required", "additionalProperties"])
_LIST_DEMANDS = frozenset(["type", "items", "minItems", "maxItems"])


class Arguments(Protocol):
    """Writes arguments in one notation."""

    def obeying(self, schema: Schema) -> str:
        """Arguments that obey ``schema``, which describes an object. Raises `UnmappableError`."""
        ...

    def free(self, schema: Schema) -> str:
        """Any arguments that the reader can read; ``schema`` names those that the tool knows."""
        ...


def arguments_for(source: Source, dialect: Dialect) -> Arguments:
    """The writer for a dialect's codec."""
    match dialect.codec:
        case "tagged":
            return _Tagged(source, dialect)
        case "gemma4":
            return _Gemma4(source)
        case "pythonic":
            return _Pythonic(source)
        case "minimax_m3":
            return _MinimaxM3(source, dialect)
        case _:
            return _Json()


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    schema: Schema
    required: bool


def _members(schema: Schema) -> list[_Member]:
    """An object's properties in order; those that are only required come last. Raises `UnmappableError`."""
    schema = schema.resolved()
    names = list(schema.mapping("properties"))
    unknown = schema.demands - _OBJECT_DEMANDS
    if unknown and not (schema.lenient and names):
        raise UnmappableError(min(unknown), schema.path)
    required = [name for name in schema.listing("required") if isinstance(name, str)]
    members = [_Member(name, schema.child("properties", name), name in required) for name in names]
    if extra := [name for name in required if name not in names]:
        if schema.keywords.get("additionalProperties") is False and not schema.lenient:
            raise UnmappableError("required", schema.path)
        members += [_Member(name, _additional(schema), required=True) for name in extra]
    return members


def _additional(schema: Schema) -> Schema:
    """What values of properties without a name have to obey."""
    if schema.mapping("additionalProperties"):
        return schema.child("additionalProperties")
    return ANYTHING


def _known(schema: Schema) -> list[tuple[str, Schema]]:
    """An object's properties by name; values only have to be of a type that the reader can tell."""
    schema = schema.resolved()
    return [(name, _loosened(schema.child("properties", name))) for name in schema.mapping("properties")]


def _loosened(schema: Schema) -> Schema:
    if not schema.demands:
        return ANYTHING
    kind = schema.resolved().keywords.get("type")
    if schema.allows_string or kind not in _OTHER_TYPES:
        kind = "string" if schema.allows_string else list(_OTHER_TYPES)
    node = {"type": kind}
    return Schema(node, node, lenient=True)


def _is_open(schema: Schema) -> bool:
    """Whether an object may have any properties and nothing else is said of them than what they have to obey."""
    schema = schema.resolved()
    named = schema.mapping("properties") or schema.listing("required")
    closed = schema.keywords.get("additionalProperties") is False
    return not named and not closed and schema.demands <= _OBJECT_DEMANDS


def _in_order(members: Iterable[tuple[str, bool]]) -> str:
    """Expressions in their order; those without a ``True`` may be missing."""
    return sequence(*(expression if required else f"({expression})?" for expression, required in members))


def _separated(source: Source, members: Iterable[tuple[str, bool]], separator: str) -> str:
    """As `_in_order`, with a separator between those that are there; empty if there can be none."""
    first, rest = "", ""
    for expression, required in reversed(list(members)):
        begun = sequence(expression, rest) if rest else expression
        if required or not first:
            first = source.rule(begun if required else f"({begun})?")
        else:
            first = source.rule(f"{begun} | {first}")
        following = sequence(separator, expression)
        rest = source.rule(sequence(following if required else f"({following})?", rest))
    return first


def _is_word(name: str) -> bool:
    return _WORD.fullmatch(name) is not None


class _Json:
    """Arguments as one JSON object."""

    def obeying(self, schema: Schema) -> str:
        return schema.json()

    def free(self, schema: Schema) -> str:
        del schema
        return ANY_OBJECT.json()


class _Tagged:
    """Each argument between tags of its own, strings as they are."""

    def __init__(self, source: Source, dialect: Dialect) -> None:
        self._source = source
        self._dialect = dialect

    def obeying(self, schema: Schema) -> str:
        if _is_open(schema):
            return f"({self._argument(None, _additional(schema.resolved()))})*"
        return _in_order((self._argument(member.name, member.schema), member.required) for member in _members(schema))

    def free(self, schema: Schema) -> str:
        known = [self._argument(name, value) for name, value in _known(schema)]
        return f"({choice(known or [self._argument(None, ANYTHING)])})*"

    def _argument(self, name: str | None, schema: Schema) -> str:
        """One argument; None stands for any name."""
        source, dialect = self._source, self._dialect
        if name is None:
            key, begin = sequence(source.literal(dialect.key_begin), source.terminal(_KEY)), ""
        else:
            key, begin = "", dialect.key_begin + (html.escape(name) if dialect.entities else name)
        begin += dialect.key_end + dialect.value_begin
        return source.rule(
            choice(
                sequence(key, source.literal(begin.replace("{hint}", hint)), value)
                for hint, value in self._values(schema)
            )
        )

    def _values(self, schema: Schema) -> Iterator[tuple[str, str]]:
        """The ways to write a value, end marker included, each with its hint."""
        hints = self._dialect.hints
        if schema.allows_string or not schema.demands:
            yield hints[0] if hints else "", self._bare(schema)
            # Without a hint the reader would take everything else for a string, too.
            others = [option for option in schema.resolved().alternatives() if not option.allows_string]
        else:
            others = [schema]
        if not hints and schema not in others:
            return
        for other in others:
            kind = other.resolved().keywords.get("type")
            hint = (hints[1] or _HINTS.get(str(kind), "object")) if hints else ""
            yield hint, sequence(other.json(), self._source.literal(self._dialect.value_end))

    def _bare(self, schema: Schema) -> str:
        source, dialect = self._source, self._dialect
        end = dialect.value_end
        without = list(self._closings())
        if dialect.cdata:
            without.append(CDATA_BEGIN)
        plain = bare_string(source, schema, end, null=dialect.hints is None, without=without)
        if not dialect.cdata:
            return plain
        return choice([plain, sequence(quoted(CDATA_BEGIN), bare_string(source, schema, CDATA_END + end))])

    def _closings(self) -> Iterator[str]:
        """Where a call ends without doubt: there the reader forgives that a value's end marker is missing."""
        dialect = self._dialect
        tail, call_end = dialect.tail.strip(), dialect.call_end.strip()
        followers = [dialect.call_begin, dialect.head_parts[0], dialect.section_end, call_end if tail else ""]
        if closer := tail or call_end:
            yield from (f"{closer} {follower.strip()}" for follower in followers if follower.strip())


_HINTS = {"integer": "number", "number": "number", "boolean": "boolean", "array": "array", "null": "null"}


class _Gemma4:
    """Bare keys, strings between ``<|"|>``. The reader takes JSON for any value as well."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._quote = source.literal(GEMMA4_QUOTE)

    def obeying(self, schema: Schema) -> str:
        return self._value(schema)

    def free(self, schema: Schema) -> str:
        del schema
        source = self._source
        value = source.define(
            "gemma_value",
            choice(
                [
                    self._string(ANYTHING),
                    Schema({"type": ["number", "boolean", "null"]}, {}).json(),
                    "gemma_object",
                    '"[" (gemma_value ("," gemma_value)*)? "]"',
                ]
            ),
        )
        pair = f'{source.terminal(_KEY)} ":" {value}'
        return source.define("gemma_object", f'"{{" ({pair} ("," {pair})*)? "}}"')

    def _object(self, schema: Schema) -> str:
        if _is_open(schema):
            return schema.json()
        pairs = [
            (sequence(self._source.literal(f"{self._key(member.name)}:"), self._value(member.schema)), member.required)
            for member in _members(schema)
        ]
        return self._source.rule(sequence('"{"', _separated(self._source, pairs, '","'), '"}"'))

    def _key(self, name: str) -> str:
        return name if _is_word(name) else json.dumps(name)

    def _value(self, schema: Schema) -> str:
        try:
            return self._native(schema)
        except UnmappableError:
            return schema.json()

    def _native(self, schema: Schema) -> str:
        words = schema.keywords
        kind = words.get("type")
        if kind == "string" or (schema.allows_string and "enum" in words):
            others = [value for value in schema.listing("enum") if not isinstance(value, str)]
            options = [schema.narrowed(enum=others).json()] if others and kind != "string" else []
            return choice([self._string(schema), *options])
        if kind == "object":
            return self._object(schema)
        if _is_plain_list(schema):
            return _list(self._value(schema.child("items")), schema, '","', '"["', '"]"')
        if alternatives := schema.alternatives():
            return choice(map(self._value, alternatives))
        return schema.json()

    def _string(self, schema: Schema) -> str:
        return sequence(self._quote, bare_string(self._source, schema, GEMMA4_QUOTE))


def _is_plain_list(schema: Schema) -> bool:
    words = schema.keywords
    bounds = (words.get("minItems", 0), words.get("maxItems", 0))
    plain = words.get("type") == "array" and schema.demands <= _LIST_DEMANDS and bool(schema.mapping("items"))
    return plain and all(isinstance(bound, int) and bound >= 0 for bound in bounds)


def _list(item: str, schema: Schema, separator: str, begin: str, end: str) -> str:
    least, most = schema.keywords.get("minItems", 0), schema.keywords.get("maxItems")
    if most == 0:
        return sequence(begin, end)
    further = f"({sequence(separator, item)}){{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
    items = sequence(item, further)
    return sequence(begin, items if least else f"({items})?", end)


class _Pythonic:
    """``key=value``; values are JSON, which the reader takes, except for Python's own words where they stand alone."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def obeying(self, schema: Schema) -> str:
        if _is_open(schema):
            return self._free(_additional(schema.resolved()))
        arguments = []
        for member in _members(schema):
            if not _is_word(member.name):
                raise UnmappableError(member.name, member.schema.path)
            value = self._value(member.schema)
            arguments.append((sequence(self._source.literal(f"{member.name}="), value), member.required))
        return _separated(self._source, arguments, '", "')

    def free(self, schema: Schema) -> str:
        return self._free(ANYTHING)

    def _free(self, schema: Schema) -> str:
        argument = sequence(self._source.terminal(_KEY), '"="', self._value(schema))
        return f'({argument} (", " {argument})*)?'

    def _value(self, schema: Schema) -> str:
        resolved = schema.resolved()
        if resolved.demands == {"type"} and resolved.keywords["type"] == "boolean":
            return '("True" | "False")'
        if not resolved.demands:
            return f'("True" | "False" | "None" | {schema.json()})'
        return schema.json()


class _MinimaxM3:
    """Each argument an element of its own name; objects and lists are elements within."""

    def __init__(self, source: Source, dialect: Dialect) -> None:
        self._source = source
        self._dialect = dialect

    def obeying(self, schema: Schema) -> str:
        if _is_open(schema):
            raise UnmappableError("properties", schema.path)
        return _in_order((self._element(member.name, member.schema), member.required) for member in _members(schema))

    def free(self, schema: Schema) -> str:
        known = [self._element(name, value) for name, value in _known(schema)]
        return f"({choice(known)})*" if known else ""

    def _element(self, name: str, schema: Schema) -> str:
        dialect = self._dialect
        begin = self._source.literal(f"{dialect.key_begin}{name}{dialect.key_end}")
        return self._source.rule(sequence(begin, self._value(schema, f"{dialect.value_end}{name}>")))

    def _value(self, schema: Schema, end: str) -> str:
        """A value and its end tag."""
        if schema.allows_string or not schema.demands:
            return bare_string(self._source, schema, end)
        close = self._source.literal(end)
        if schema.demands <= _OBJECT_DEMANDS and schema.mapping("properties"):
            members = _members(schema)
            if members[0].name != "item":
                elements = ((self._element(member.name, member.schema), member.required) for member in members)
                return sequence(_in_order(elements), close)
        if _is_plain_list(schema):
            return sequence(_list(self._element("item", schema.child("items")), schema, "", "", ""), close)
        return sequence(schema.json(), close)
