"""JSON schemas on their way into a grammar: where they stand, what they demand, what is wrong with them.

llguidance compiles a schema (``%json {…}``) and refuses what it does not know; it says which keyword, but not where.
So a schema that was refused is taken apart until the smallest refused part is found.
"""

import enum
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from ds4trio.chat.dialects.schemas import allows_string

__all__ = ["ANYTHING", "ANY_OBJECT", "Schema", "Style", "refusal"]

_DEMANDS = frozenset(
    [
        *("$ref", "$dynamicRef", "$recursiveRef", "type", "const", "enum", "allOf", "anyOf", "oneOf", "not", "if"),
        *("minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("multipleOf", "items", "prefixItems", "additionalItems", "unevaluatedItems", "contains", "minContains"),
        *("maxContains", "minItems", "maxItems", "uniqueItems", "properties", "patternProperties", "propertyNames"),
        *("additionalProperties", "unevaluatedProperties", "required", "minProperties", "maxProperties"),
        *("dependencies", "dependentRequired", "dependentSchemas"),
    ]
)
"""Keywords that restrict values; all others only describe them."""

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "additionalItems")
_VALUES = ("const", "enum", "default", "examples")
"""Keywords that hold schemas by name, in order, alone; and those that hold values, which only look like schemas."""

_DROPPED = frozenset(["$comment", "$id", "default", "description", "examples", "id", "title"])
"""Keywords that demand nothing and are often long."""

_DEPTH = 16
"""References in a row; circles are longer than that."""


class Style(enum.Enum):
    """White space in JSON: always so little that a model cannot get lost in it.

    ``COMPACT`` allows one space after a colon or a comma, as templates write calls. ``PRETTY`` also allows line breaks
    and indentation.
    """

    COMPACT = enum.auto()
    PRETTY = enum.auto()


_OPTIONS: Mapping[Style, Mapping[str, object]] = {
    Style.COMPACT: {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"},
    Style.PRETTY: {"whitespace_pattern": r" |\n {0,40}|\n\t{0,20}"},
}


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema or a part of one. ``root`` is what its references refer to, ``path`` a JSON pointer to it."""

    node: object
    root: Mapping[str, Any]
    path: str = ""
    lenient: bool = False
    """Ignore what cannot be enforced."""

    def child(self, *keys: str | int) -> "Schema":
        """The part under ``keys``."""
        node: Any = self.node
        for key in keys:
            node = node[_index(key)] if isinstance(node, list) else node[key]
        escaped = (str(key).replace("~", "~0").replace("/", "~1") for key in keys)
        return Schema(node, self.root, "/".join((self.path, *escaped)), self.lenient)

    def narrowed(self, **keywords: object) -> "Schema":
        """The same with further or other keywords."""
        return Schema({**self.keywords, **keywords}, self.root, self.path, self.lenient)

    def beside(self, constants: Mapping[str, str], key: str) -> "Schema":
        """An object of constants, and what a whole schema describes under ``key``."""
        properties = {name: {"const": value} for name, value in constants.items()}
        properties[key] = _bare(self.node, f"#/properties/{key}")
        node = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
        return Schema(node, node, lenient=self.lenient)

    @property
    def keywords(self) -> Mapping[str, Any]:
        """The keywords by name; none where the schema is a truth value."""
        return self.node if isinstance(self.node, Mapping) else {}

    def mapping(self, keyword: str) -> Mapping[str, Any]:
        """What a keyword holds by name, nothing if it does not."""
        held = self.keywords.get(keyword)
        return held if isinstance(held, Mapping) else {}

    def listing(self, keyword: str) -> Sequence[Any]:
        """What a keyword holds in order, nothing if it does not."""
        held = self.keywords.get(keyword)
        return held if isinstance(held, list) else ()

    @property
    def demands(self) -> frozenset[str]:
        """The keywords that restrict values."""
        return _DEMANDS.intersection(self.keywords)

    @property
    def allows_string(self) -> bool:
        """Whether a reader takes a bare value for a string, see `ds4trio.chat.dialects.schemas`."""
        return allows_string(self.node, self.root)

    def resolved(self) -> "Schema":
        """What stands at the end of the references, if they stand alone."""
        schema = self
        for _ in range(_DEPTH):
            if schema.demands != {"$ref"}:
                return schema
            try:
                schema = Schema(self.root, self.root, "", self.lenient).child(*_steps(schema.keywords["$ref"]))
            except (LookupError, TypeError, ValueError):
                return schema
        return schema

    def alternatives(self) -> Sequence["Schema"]:
        """The schemas of which a value has to obey one, if that is all that is demanded; none otherwise.

        They are the options of ``anyOf``, those of ``oneOf`` where they cannot meet, or one for each of several types.
        """
        for keyword in self.demands & {"anyOf", "oneOf"} if len(self.demands) == 1 else ():
            options = [self.child(keyword, index) for index in range(len(self.listing(keyword)))]
            apart = keyword == "anyOf" or self.lenient or all(option.demands == {"const"} for option in options)
            return options if apart else []
        return [self.narrowed(type=kind) for kind in self.listing("type")]

    def json(self, style: Style = Style.COMPACT) -> str:
        """An expression for JSON that obeys the schema."""
        options = {**_OPTIONS[style], "lenient": self.lenient}
        return f"%json {json.dumps({**self._embedded(), 'x-guidance': options})}"

    def fault(self) -> str:
        """Where and why the schema is refused, empty if it is not."""
        reason = refusal(json.dumps({"grammars": [{"lark_grammar": f"start: {self.json()}"}]}))
        if not reason:
            return ""
        inner = (part.fault() for part in self._parts())
        return next(filter(None, inner), f"{reason} at {self.path or '/'}")

    def _embedded(self) -> Mapping[str, Any]:
        """A schema that means the same on its own."""
        if self.node is False:
            return {"allOf": [False]}
        if self.node is self.root or not _refers(self.node):
            return {**_bare(self.keywords, "#")}
        # References count from the top of what they stand in: the old top moves below the new one.
        root = _bare(self.root, "#/$defs/root")
        version = {"$schema": root["$schema"]} if "$schema" in root else {}
        return {**version, **_bare(self.keywords, "#/$defs/root"), "$defs": {"root": root}}

    def _parts(self) -> Iterator["Schema"]:
        for keyword in (*_MAPS, *_LISTS, *_SINGLE):
            held = self.keywords.get(keyword)
            if isinstance(held, Mapping) and keyword in _SINGLE:
                yield self.child(keyword)
            elif isinstance(held, Mapping):
                yield from (self.child(keyword, key) for key in held if isinstance(held[key], Mapping))
            elif isinstance(held, list):
                yield from (
                    self.child(keyword, index) for index in range(len(held)) if isinstance(held[index], Mapping)
                )


_OBJECT: Mapping[str, Any] = {"type": "object"}
ANYTHING = Schema({}, {}, lenient=True)
ANY_OBJECT = Schema(_OBJECT, _OBJECT, lenient=True)


def refusal(grammar: str) -> str:
    """Why llguidance refuses a grammar, in short; empty if it does not."""
    try:
        message = LLMatcher.validate_grammar(grammar)
    except BaseException as error:
        # A panic of Rust's is no Exception and has no class that could be named. llguidance's messages quote a
        # schema's first hundred bytes, and panic where those end within a character.
        if type(error).__name__ != "PanicException":
            raise
        message = "it is malformed"
    if not message or message.startswith("WARNING"):
        return ""
    reason = re.sub(r"\n +\d+ \|.*", "", message, flags=re.DOTALL).strip()
    reason = reason.rpartition("failed to compile JSON schema: ")[2]
    if unknown := re.fullmatch(r"Unimplemented keys: \[(.*)\]", reason):
        return f"{unknown[1]} cannot be enforced"
    return reason.rpartition("error: ")[2] if reason.startswith("regex parse error") else reason


def _steps(reference: object) -> list[str]:
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise ValueError("not a reference into the same schema")
    return [step.replace("~1", "/").replace("~0", "~") for step in reference[1:].split("/")[1:]]


def _index(step: str | int) -> int:
    if not str(step).isdecimal():  # a negative one would count from the end
        raise ValueError("not an index")
    return int(step)


def _refers(node: object) -> bool:
    if isinstance(node, Mapping):
        return isinstance(node.get("$ref"), str) or any(map(_refers, node.values()))
    return isinstance(node, list) and any(map(_refers, node))


def _bare(schema: Any, top: str) -> Any:
    """A copy without what demands nothing. References count from ``top``, where they counted from ``#``.

    Among what is dropped are a schema's own address, from which llguidance would resolve references, and names of
    properties that have to be strings: they are, and code that writes schemas likes to say so.
    """
    if isinstance(schema, list):
        return [_bare(item, top) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept: dict[str, Any] = {}
    for keyword, held in schema.items():
        if keyword in _DROPPED and not (isinstance(held, Mapping) and keyword not in _VALUES):
            continue
        if keyword == "propertyNames" and held in ({}, True, {"type": "string"}):
            continue
        if keyword == "$ref" and isinstance(held, str) and held.startswith("#"):
            kept[keyword] = top + held[1:].rstrip("/")
        elif keyword in _MAPS and isinstance(held, Mapping):
            kept[keyword] = {name: _bare(part, top) for name, part in held.items()}
        else:
            kept[keyword] = held if keyword in _VALUES else _bare(held, top)
    return kept
