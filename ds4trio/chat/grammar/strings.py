"""Strings that stand in the text as they are, without quotes and escapes, up to an end marker.

JSON schemas restrict strings; here the restrictions become regular expressions over the bare text. What has no
regular expression raises `UnmappableError`.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from llguidance import regex_to_lark

from ds4trio.chat.grammar.schemas import Schema
from ds4trio.chat.grammar.source import ANY_TEXT, Source, choice, sequence

__all__ = ["UnmappableError", "bare_string"]

_FORMATS = {
    "date": r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
    "time": r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+\-]([01][0-9]|2[0-3]):[0-5][0-9])",
    "uuid": r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
    "email": r"[A-Za-z0-9_+\-]+(\.[A-Za-z0-9_+\-]+)*@([A-Za-z0-9]([A-Za-z0-9\-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,}",
    "uri": r"[A-Za-z][A-Za-z0-9+.\-]*:[A-Za-z0-9._~:\/?#@!$&'()*+,;=%\[\]\-]+",
}
_FORMATS["date-time"] = f"{_FORMATS['date']}T{_FORMATS['time']}"

_TEXT_DEMANDS = frozenset(["type", "minLength", "maxLength", "pattern", "format"])
_ANCHOR = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|([$^])", re.DOTALL)


class UnmappableError(Exception):
    """A schema demands what this way to write values cannot enforce: a keyword, and where it stands."""

    def __init__(self, keyword: str, path: str) -> None:
        super().__init__(f'"{keyword}" cannot be enforced in the way this model writes calls at {path or "/"}')


@dataclass(frozen=True, slots=True)
class _Values:
    """Some strings and no others."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Pattern:
    """Strings that match a terminal's body."""

    body: str


def bare_string(source: Source, schema: Schema, end: str, *, null: bool = False, without: Collection[str] = ()) -> str:
    """The text of a string that obeys ``schema``, and then ``end`` as it is.

    ``null``: where the schema allows it, the bare word means just that. ``without`` are further texts at which the
    reader might take the string for ended. Raises `UnmappableError`; for a lenient schema only if it allows nothing.
    """
    kinds = list(_kinds(schema.resolved(), null=null))
    if not kinds:
        raise UnmappableError(min(schema.demands, default=""), schema.path)
    if _Pattern(ANY_TEXT) in kinds:
        core = end.strip()
        # The reader takes the marker without the white space around it, and so the text has to end there, too.
        until = source.until(core, without=without)
        return sequence(until, source.literal(end[end.index(core) + len(core) :]))
    return choice(
        source.rule(choice(source.literal(text + end) for text in kind.texts))
        if isinstance(kind, _Values)
        else source.rule(source.until(end, text=kind.body, without=without))
        for kind in kinds
    )


def _kinds(schema: Schema, *, null: bool) -> Iterator[_Values | _Pattern]:
    """The ways to write a string by ``schema``; options that are no strings are left out, but for null."""
    words = schema.keywords
    if "const" in words or "enum" in words:
        values = [words["const"]] if "const" in words else schema.listing("enum")
        texts = [
            "null" if value is None else value for value in values if isinstance(value, str) or (null and value is None)
        ]
        if texts:
            yield _Values(tuple(texts))
    elif words.get("type") == "null":
        if null:
            yield _Values(("null",))
    elif alternatives := schema.alternatives():
        for option in alternatives:
            if option.allows_string or option.resolved().keywords.get("type") == "null":
                yield from _kinds(option.resolved(), null=null)
    elif schema.demands <= _TEXT_DEMANDS:
        yield _Pattern(_body(schema))
    elif schema.lenient:
        yield _Pattern(ANY_TEXT)
    else:
        raise UnmappableError(min(schema.demands - _TEXT_DEMANDS), schema.path)


def _body(schema: Schema) -> str:
    words = schema.keywords
    parts = []
    least, most = words.get("minLength", 0), words.get("maxLength", "")
    if (least, most) != (0, "") and isinstance(least, int) and isinstance(most, int | str):
        parts.append(f"/(?s:.{{{least},{most}}})/")
    if "pattern" in words:
        parts.append(_searching(str(words["pattern"]), schema))
    if known := _FORMATS.get(str(words.get("format"))):
        parts.append(f"/{known}/")
    elif "format" in words and not schema.lenient:
        raise UnmappableError("format", schema.path)
    return " & ".join(filter(None, parts)) or ANY_TEXT


def _searching(pattern: str, schema: Schema) -> str:
    """A terminal's body for texts in which ``pattern`` is found; anchors may only stand at its edges."""
    anchors = [match.start(1) for match in _ANCHOR.finditer(pattern) if match[1]]
    first = bool(anchors) and pattern.startswith("^")
    last = bool(anchors) and pattern.endswith("$") and len(pattern) - 1 in anchors
    inner = pattern[first : len(pattern) - last]
    if len(anchors) != first + last or "(?=" in inner or "(?!" in inner or "(?<" in inner:
        if schema.lenient:
            return ""
        raise UnmappableError("pattern", schema.path)
    before, after = "" if first else ANY_TEXT, "" if last else ANY_TEXT
    return f"({before} /(?:{regex_to_lark(inner, 'dw')})/ {after})"
