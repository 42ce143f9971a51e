"""What a schema says about a value without quotes."""

from typing import Any

import pytest

from ds4trio.chat.dialects.schemas import allows_null, allows_string, kind, member

ROOT: dict[str, Any] = {
    "properties": {"tree": {"$ref": "#/$defs/tree"}, "a/b": {"type": "string"}},
    "$defs": {
        "tree": {"anyOf": [{"$ref": "#/$defs/tree"}, {"$ref": "#"}, {"$ref": "#/$defs/leaf"}]},
        "leaf": {"enum": [1, "one", None]},
    },
}


@pytest.mark.parametrize(
    ("schema", "string", "null"),
    [
        ({"type": "string"}, True, False),
        ({"type": ["string", "null"]}, True, True),
        ({"type": "integer", "enum": [1]}, False, False),
        ({"oneOf": [{"type": "null"}, {"const": "x"}]}, True, True),
        ({"$ref": "#/$defs/tree"}, True, True),
        ({"$ref": "#/nowhere/0"}, False, False),
        ({"properties": {}}, False, False),
        ({"type": 3, "anyOf": "x", "enum": None}, False, False),
        (True, False, False),
        (None, False, False),
    ],
)
def test_strings_and_null(schema: object, string: bool, null: bool) -> None:
    assert (allows_string(schema, ROOT), allows_null(schema, ROOT)) == (string, null)


def test_members() -> None:
    assert member(ROOT, "a/b", ROOT) == {"type": "string"}
    assert member({"items": {"type": "integer"}}, "item", ROOT) == {"type": "integer"}
    assert member({"additionalProperties": {"type": "number"}}, "any", ROOT) == {"type": "number"}
    assert member(ROOT, "none", ROOT) is None


def test_kinds() -> None:
    assert kind({"anyOf": [{"type": "array"}, {"type": "null"}]}, ROOT) == "array"
    assert kind({"anyOf": [{"type": "array"}, {"type": "object"}]}, ROOT) == ""


def test_alternatives_within_one_another_cost_nothing() -> None:
    wide: dict[str, Any] = {}
    wide["anyOf"] = [{"anyOf": [wide, wide]} for _ in range(50)]
    assert not allows_string(wide, wide)
