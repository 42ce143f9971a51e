"""The tools of a request: those that a client brings, those that Anthropic defined, and the choice among them.

Anthropic's own client tools come without a schema, because its models know them by heart. Models here do not, so they
get a schema. Tools that Anthropic's servers run, and those whose results are pictures, are left out with a warning.
Deferred tools (``defer_loading``) are shown from the start: were one added later, the prompt would change near its
beginning and all that follows would have to be computed again.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Literal

from msgspec import Struct

from ds4trio.api.errors import InvalidRequestError, shown
from ds4trio.chat import Tool, ToolChoice

__all__ = ["ToolChoiceParam", "ToolParam", "read_tool_choice", "read_tools"]


class ToolParam(Struct):
    """A tool as clients send it. ``type`` is absent or ``custom``, or names one of Anthropic's own."""

    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None


class ToolChoiceParam(Struct):
    """Whether to call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


def read_tools(params: Sequence[ToolParam]) -> tuple[tuple[Tool, ...], list[str]]:
    """The tools that a model can be told of, and a warning for each of the others. Raises `InvalidRequestError`."""
    tools: dict[str, Tool] = {}
    warnings = []
    for index, param in enumerate(params):
        path = f"$.tools[{index}]"
        tool = _tool(param, path)
        if tool is None:
            warnings.append(f"this server does not have the tool type {shown(param.type or '')}; it was left out")
        elif tool.name in tools:
            raise InvalidRequestError(
                f"{path}: the name {shown(tool.name)} is taken; tool names must be unique",
                code="duplicate_tool",
                param=f"{path}.name",
            )
        else:
            tools[tool.name] = tool
    return tuple(tools.values()), warnings


def read_tool_choice(param: ToolChoiceParam | None, tools: Collection[Tool]) -> ToolChoice:
    """The choice. Raises `InvalidRequestError` when it forces a call that cannot be made."""
    if param is None or param.type == "auto":
        return ToolChoice()
    if param.type == "none":
        return ToolChoice("none")
    if not tools:
        raise InvalidRequestError(
            f"tool_choice is {param.type!r}, but there is no tool to call", code="no_tools", param="$.tool_choice"
        )
    if param.type == "any":
        return ToolChoice("required")
    if param.name is None or all(tool.name != param.name for tool in tools):
        raise InvalidRequestError(
            f"tool_choice names {shown(param.name or '')}, which is not among the tools",
            code="unknown_tool",
            param="$.tool_choice.name",
        )
    return ToolChoice("required", (param.name,))


def _tool(param: ToolParam, path: str) -> Tool | None:
    if param.type not in (None, "custom"):
        tool = _ANTHROPICS.get(re.sub(r"_\d{8}$", "", param.type))
        return tool and replace(tool, name=param.name or tool.name, strict=bool(param.strict))
    if not param.name:
        raise InvalidRequestError(f"{path} has no name", code="missing_required_parameter", param=f"{path}.name")
    if param.input_schema is None:
        raise InvalidRequestError(
            f"{path} has no input_schema", code="missing_required_parameter", param=f"{path}.input_schema"
        )
    return Tool(param.name, param.description or "", param.input_schema, strict=bool(param.strict))


def _commands(*names: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(names)}


def _string(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


_FILES: dict[str, dict[str, Any]] = {
    "path": _string("The file; for view also a directory."),
    "view_range": {
        "type": "array",
        "items": {"type": "integer"},
        "description": "view: the first and the last line, from 1; -1 is the end.",
    },
    "file_text": _string("create: the whole content."),
    "old_str": _string("str_replace: the text to replace; it must occur exactly once."),
    "new_str": _string("str_replace: what to put in its place."),
}

# Type without its date → the tool.
_ANTHROPICS = {
    "bash": Tool(
        "bash",
        "Run a command in a bash shell that stays open between calls.",
        {
            "type": "object",
            "properties": {
                "command": _string("The command to run."),
                "restart": {"type": "boolean", "description": "True to start a fresh shell instead."},
            },
        },
    ),
    # It has an insert command as well, but clients disagree on whether the text of that is new_str or insert_text.
    "text_editor": Tool(
        "str_replace_based_edit_tool",
        "View, create and edit text files.",
        {
            "type": "object",
            "properties": {"command": _commands("view", "create", "str_replace"), **_FILES},
            "required": ["command", "path"],
        },
    ),
    "memory": Tool(
        "memory",
        "Keep notes in files below /memories; they outlast this conversation. View that directory first.",
        {
            "type": "object",
            "properties": {
                "command": _commands("view", "create", "str_replace", "insert", "delete", "rename"),
                **_FILES,
                "insert_line": {"type": "integer", "description": "insert: the line after which to insert."},
                "insert_text": _string("insert: the text."),
                "old_path": _string("rename: the present path."),
                "new_path": _string("rename: the new path."),
            },
            "required": ["command"],
        },
    ),
}
