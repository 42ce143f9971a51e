"""What a tool's JSON schema says about a value that is written without quotes: may it be a string?"""

from collections.abc import Mapping
from typing import Any

__all__ = ["allows_null", "allows_string", "kind", "member"]


def allows_string(schema: object, root: Mapping[str, Any]) -> bool:
    """Whether ``schema`` says that a value can be a string. One that says nothing does not."""
    for option in _options(schema, root):
        kinds, values = option.get("type"), option.get("enum")
        if kinds == "string" or (isinstance(kinds, list) and "string" in kinds):
            return True
        if kinds is None and isinstance(option.get("const"), str):
            return True
        if kinds is None and isinstance(values, list) and any(isinstance(value, str) for value in values):
            return True
    return False


def allows_null(schema: object, root: Mapping[str, Any]) -> bool:
    """Whether ``schema`` says that a value can be null."""
    for option in _options(schema, root):
        kinds, values = option.get("type"), option.get("enum")
        if kinds == "null" or (isinstance(kinds, list) and "null" in kinds):
            return True
        if option.get("nullable") is True or (isinstance(values, list) and None in values):
            return True
    return False


def kind(schema: object, root: Mapping[str, Any]) -> str:
    """The type that ``schema`` names, empty if it names none or several."""
    names = {str(option["type"]) for option in _options(schema, root) if "type" in option} - {"null"}
    return names.pop() if len(names) == 1 else ""


def member(schema: object, name: str, root: Mapping[str, Any]) -> object:
    """The schema of property ``name`` of an object, or of an item of a list; None if it says nothing."""
    for option in _options(schema, root):
        found = option.get("properties")
        if isinstance(found, Mapping) and name in found:
            return found[name]
        if name == "item" and "items" in option:
            return option["items"]
        if isinstance(option.get("additionalProperties"), Mapping):
            return option["additionalProperties"]
    return None


def _options(schema: object, root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """``schema`` and all that it refers to or lists as an alternative, each once: schemas may go in circles."""
    found: list[Mapping[str, Any]] = []
    todo = [schema]
    seen: set[int] = set()
    while todo:
        option = todo.pop()
        if not isinstance(option, Mapping) or id(option) in seen:
            continue
        seen.add(id(option))
        found.append(option)
        for keyword in ("allOf", "oneOf", "anyOf"):
            if isinstance(alternatives := option.get(keyword), list):
                todo += reversed(alternatives)
        if isinstance(reference := option.get("$ref"), str):
            todo.append(_resolved(reference, root))
    return found


def _resolved(reference: str, root: Mapping[str, Any]) -> object:
    """What a ``#/…`` reference points to, None if that is nothing."""
    node: object = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if not isinstance(node, Mapping):
            return None
        node = node.get(part.replace("~1", "/").replace("~0", "~"))
    return node
