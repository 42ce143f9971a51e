"""Bodies that are nearly right: those of the server's own description, with a few parts changed."""

import json
import string
from copy import deepcopy
from random import Random
from typing import Any

__all__ = ["CANARY", "body_of", "odd_text", "odd_value"]

CANARY = "zebracanary"
"""A word of the prompts that must not be in the log."""
WORDS = (
    "user",
    "system",
    "assistant",
    "tool",
    "auto",
    "none",
    "required",
    "text",
    "function",
    "json_schema",
    "json_object",
)
TEXTS = (
    "",
    " ",
    "\0",
    "\ud800",
    "\udfff\ud800",
    "\uffff\u202e\u0301",
    "é" * 100,
    "😀" * 50,
    "<|im_end|>",
    "{{ 7 * 7 }}{% for x in y %}",
    "../../etc/passwd",
    "a\r\nx-header: y",
    "null",
    "-1",
    "%s%n%d",
)
NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**400, 0.1, -0.0, 1e308, 5e-324)
# Written by `json.dumps`, as many a client does, though JSON has none of them.
NO_NUMBERS = (float("nan"), float("inf"), float("-inf"))
SCHEMAS: tuple[Any, ...] = (
    {"type": "object", "properties": {"a": {"$ref": "#"}}},
    {"$ref": "#/$defs/none"},
    {"type": ["string", 7]},
    {"pattern": "(((", "type": "string"},
    {"pattern": "(a+)+$", "type": "string", "minLength": 10**9},
    {"enum": []},
    {"anyOf": []},
    {"type": "array", "minItems": 10**9},
    {"type": "integer", "minimum": 5, "maximum": 1},
    {"not": {}},
    True,
    False,
)
GRAMMARS = ('root ::= "a"', "root ::= root", "root ::= ", "root ::= [", 'root ::= ("a"){1,100000}', "start: /(/", "\0")
DEEP = "\x01deep"
"""Stands for a value that is nested deeper than Python's own encoder would go."""
MARK = json.dumps(DEEP)
OPENINGS = (("[", "]"), ('{"items":', "}"), ('{"properties":{"a":', "}}"), ('[{"type":"tool_result","content":', "}]"))
LONG = 20_000
MOST_BYTES = 2_000_000
"""Twice what the server takes."""


def odd_text(random: Random) -> str:
    """A text that somebody may trip over."""
    match random.randrange(4):
        case 0:
            return random.choice(WORDS)
        case 1:
            return "".join(random.choices(string.printable, k=random.randint(0, 20)))
        case 2 if random.random() < 0.05:
            return random.choice(["a", "\u00e9 ", "\\", '"', "<|im_start|>"]) * random.choice([1000, LONG])
        case _:
            return random.choice(TEXTS)


def odd_value(random: Random, depth: int = 0) -> Any:
    """Any JSON value, and some that JSON has not."""
    match random.randrange(12 if depth < 3 else 8):
        case 0:
            return None
        case 1:
            return random.choice([True, False])
        case 2 | 3:
            return random.choice(NUMBERS)
        case 4:
            return random.choice(NO_NUMBERS) if random.random() < 0.3 else random.randint(-10, 300)
        case 5:
            return deepcopy(random.choice(SCHEMAS))
        case 6:
            return random.choice(GRAMMARS)
        case 7:
            return odd_text(random)
        case 8:
            return [odd_value(random, depth + 1) for _ in range(random.randint(0, 3))]
        case 9:
            return {odd_text(random)[:50]: odd_value(random, depth + 1) for _ in range(random.randint(0, 3))}
        case 10:
            return DEEP
        case _:
            return [odd_value(random, depth + 1)] * (2 if depth else random.choice([2, 17, 1000]))


def body_of(random: Random, good: Any, members: list[str]) -> bytes:
    """``good`` with up to four changes, as bytes that may be damaged too. ``members`` are names that may be added."""
    body = deepcopy(good)
    for _ in range(random.choice([0, 1, 1, 1, 2, 2, 3, 4])):
        body = _changed(random, body, members)
    text = _encoded(random, body)[:MOST_BYTES]
    return _damaged(random, text) if random.random() < 0.15 else text


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key below ``value``."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo and len(found) < 2000:
        container = todo.pop()
        if isinstance(container, dict | list):
            for key in container if isinstance(container, dict) else range(len(container)):
                found.append((container, key))
                todo.append(container[key])
    return found


def _changed(random: Random, body: Any, members: list[str]) -> Any:
    places = _places(body)
    if not places or random.random() < 0.02:
        return odd_value(random)
    if isinstance(body, dict) and random.random() < 0.25:
        body[random.choice(members)] = odd_value(random)
        return body
    container, key = random.choice(places)
    value = container[key]
    match random.randrange(7):
        case 0 | 1:
            container[key] = odd_value(random)
        case 2:
            del container[key]
        case 3:
            container[key] = _retyped(random, value)
        case 4:
            container[key] = [value] if random.random() < 0.5 else {str(key): value}
        case 5:
            other, place = random.choice(places)
            container[key] = deepcopy(other[place])
        case _ if isinstance(container, list):
            container[key:key] = [value] * random.choice([1, 2, 40])
        case _:
            container[odd_text(random)[:50]] = container.pop(key)
    return body


def _retyped(random: Random, value: Any) -> Any:
    """The same in another type."""
    match value:
        case bool():
            return random.choice([str(value).lower(), int(value), [value]])
        case int() | float() if abs(value) < 2**40:
            return random.choice([str(value), float(value), -value, value * 10**12, value + 0.5, bool(value)])
        case str():
            return random.choice(
                [list(value[:20]), {"text": value}, len(value), value.encode(errors="replace").hex(), value * 3]
            )
        case list():
            return random.choice([dict(enumerate(value)), json.dumps(value), len(value), value[::-1]])
        case dict():
            return random.choice([list(value.items()), json.dumps(value), list(value.values()), len(value)])
        case _:
            return odd_value(random)


def _encoded(random: Random, body: Any) -> bytes:
    text = json.dumps(body, ensure_ascii=random.random() < 0.5)
    if many := text.count(MARK):
        (opening, closing), depth = random.choice(OPENINGS), random.choice([5, 50, 200, 1000, 5000]) // many + 1
        text = text.replace(MARK, opening * depth + "0" + closing * depth)
    if random.random() < 0.05 and text.startswith("{") and len(text) > 2:
        text = f"{text[:-1]},{text[1:]}"  # every member twice
    return text.encode(errors="surrogatepass")


def _damaged(random: Random, text: bytes) -> bytes:
    place = random.randrange(len(text) + 1)
    match random.randrange(9):
        case 0:
            return text[:place]
        case 1:
            return text[:place] + random.randbytes(random.randint(1, 4)) + text[place:]
        case 2:
            return text[:place] + random.randbytes(1) + text[place + 1 :]
        case 3:
            return b"\xef\xbb\xbf" + text
        case 4:
            return text + random.choice([b"\0", b"}", text, b" \n", b",", b"// no"])
        case 5:
            return text.decode(errors="replace").encode("utf-16")
        case 6:
            return b"[" * random.choice([500, 1000, 100_000])
        case 7:
            return text.replace(b":", random.choice([b"=", b"::", b":\x0b"]), 1)
        case _:
            return random.choice([b"", b"null", b"[]", b"{}", b"0", b'""', b"nul", b"\xff\xff"])
