"""Tools and calls as values for templates, and as text for models whose templates have no place for them.

The schema of a tool is the client's and a stranger's; arguments are what a model has sampled: neither is sure to be
what it should be, and nothing here raises for it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from ds4trio.chat.messages import Tool, ToolCall

__all__ = ["arguments_of", "declaration", "hermes", "pythonic", "tools_text"]

_HERMES_EXAMPLE = '<tool_call>\n{"name": "function_name", "arguments": {"argument_name": "value"}}\n</tool_call>'


def declaration(tool: Tool, *, simple: bool = False) -> dict[str, Any]:
    """The tool as OpenAI's ``function`` object; ``simple`` schemas give each parameter a description and one type."""
    parameters: Mapping[str, Any] = {"type": "object", "properties": {}, **tool.parameters}
    properties = parameters["properties"]
    if simple and isinstance(properties, Mapping):
        parameters = {**parameters, "properties": {name: _simple(schema) for name, schema in properties.items()}}
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def _simple(schema: object) -> dict[str, Any]:
    """The schema with a description and one type: the first that it allows and that is not null, else a string."""
    given = schema if isinstance(schema, Mapping) else {}
    choices = [given, *_listed(given.get("anyOf")), *_listed(given.get("oneOf"))]
    kinds = (choice.get("type") for choice in choices if isinstance(choice, Mapping))
    names = chain.from_iterable([kind] if isinstance(kind, str) else _listed(kind) for kind in kinds)
    name = next((name for name in names if isinstance(name, str) and name != "null"), "string")
    described = {"description": "", **given, "type": name}
    return {"additionalProperties": {}, **described} if name == "object" else described


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def tools_text(tools: Sequence[Tool], example: str) -> str:
    """What to tell a model about its tools, and how to call them: like ``example``, or like Hermes if that is empty."""
    listed = "\n".join(json.dumps(declaration(tool), ensure_ascii=False) for tool in tools)
    return (
        f"You can call these functions:\n<tools>\n{listed}\n</tools>\n\n"
        f"To call a function, write exactly this form and then stop:\n{example or _HERMES_EXAMPLE}\n"
        "You then get the result in <tool_response></tool_response>. "
        "If no function is needed, answer in plain text."
    )


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """The object that the JSON text stands for; of text that is no object, one that holds it."""
    if not call.arguments.strip():
        return {}
    try:
        value = json.loads(call.arguments)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": call.arguments}


def hermes(calls: Iterable[ToolCall]) -> str:
    """Calls in the form that most models without one of their own have seen in training."""
    values = ({"name": call.name, "arguments": arguments_of(call)} for call in calls)
    return "\n".join(f"<tool_call>\n{json.dumps(value, ensure_ascii=False)}\n</tool_call>" for value in values)


def pythonic(calls: Iterable[ToolCall]) -> str:
    """Calls as LFM2 writes them."""
    written = []
    for call in calls:
        arguments = (f"{name}={_literal(value)}" for name, value in arguments_of(call).items())
        written.append(f"{call.name}({', '.join(arguments)})")
    return f"<|tool_call_start|>[{', '.join(written)}]<|tool_call_end|>"


def _literal(value: object) -> str:
    """As Python writes it, but strings as JSON does."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
