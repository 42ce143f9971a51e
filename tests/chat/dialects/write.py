"""Writes calls the way a dialect's template does: the reverse of reading."""

import html
import json
from collections.abc import Mapping

from ds4trio.chat.dialects.rows import CDATA_BEGIN, CDATA_END, GEMMA4_QUOTE, Dialect

__all__ = ["write_call"]


def write_call(dialect: Dialect, name: str, arguments: Mapping[str, object]) -> str:
    """An answer's only call, its section included. Values have to be what JSON knows."""
    body = _body(dialect, name, arguments)
    return dialect.section_begin + dialect.call_begin + body + dialect.call_end + dialect.section_end


def _body(dialect: Dialect, name: str, arguments: Mapping[str, object]) -> str:
    match dialect.codec:
        case "json":
            call: dict[str, object] = {dialect.name_key: name, dialect.args_key: arguments}
            if dialect.id_key:
                call[dialect.id_key] = "000000000"
            return _json({name: arguments} if dialect.name_is_key else call)
        case "named":
            return _head(dialect, name) + _json(arguments) + dialect.tail
        case "gemma4":
            return _head(dialect, name) + _gemma4(arguments) + dialect.tail
        case "pythonic":
            return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        case "harmony":
            return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{_json(arguments)}<|call|>"
        case "minimax_m3":
            return _head(dialect, name) + _elements(dialect, arguments) + dialect.tail
        case "tagged":
            return _head(dialect, name) + "".join(_tagged(dialect, *pair) for pair in arguments.items()) + dialect.tail


def _head(dialect: Dialect, name: str) -> str:
    head = dialect.head.replace("{id}", "000000000").replace("{index}", str(dialect.first_index))
    return head.replace("{name}", name)


def _tagged(dialect: Dialect, key: str, value: object) -> str:
    text = value if isinstance(value, str) else _json(value)
    if dialect.cdata and isinstance(value, str) and not set("<&\n").isdisjoint(value):
        text = CDATA_BEGIN + value + CDATA_END
    key_end = dialect.key_end
    if dialect.entities:
        key = html.escape(key, quote=True)
    if dialect.hints:
        string, other = dialect.hints
        key_end = key_end.replace("{hint}", string if isinstance(value, str) else other or _type(value))
    return f"{dialect.key_begin}{key}{key_end}{dialect.value_begin}{text}{dialect.value_end}"


def _elements(dialect: Dialect, value: object) -> str:
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [("item", item) for item in value]
    else:
        return value if isinstance(value, str) else _json(value)
    return "".join(
        f"{dialect.key_begin}{key}{dialect.key_end}{_elements(dialect, item)}{dialect.value_end}{key}>"
        for key, item in pairs
    )


def _gemma4(value: object) -> str:
    if isinstance(value, str):
        return f"{GEMMA4_QUOTE}{value}{GEMMA4_QUOTE}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_gemma4(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_gemma4, value)) + "]"
    return _json(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _type(value: object) -> str:
    """The name of a value's JSON type."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case list():
            return "array"
        case _:
            return "object"
