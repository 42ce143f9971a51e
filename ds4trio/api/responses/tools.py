"""Tools: from what a client offers to what the model is told, and the way back.

The model knows functions in one flat name space. Everything else that a client may offer is folded into that: a
namespace becomes a prefix of its tools' names, a custom tool (free text) a function with the one argument ``input``,
the local shell a function of its own. `Origin` remembers what a function was, so that a call of it goes out in the
form that the client asked for. Tools that OpenAI's servers would run themselves are left out with a warning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ds4trio.api.body import invalid
from ds4trio.api.errors import InvalidRequestError, shown
from ds4trio.chat import Tool, ToolChoice

__all__ = ["LOCAL_SHELL", "Choice", "Origin", "ToolSpec", "Toolbox", "flat_name", "read_choice", "read_tools"]

Word = Literal["auto", "none", "required"]

LOCAL_SHELL = "local_shell"
FREE_TEXT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
SHELL_COMMAND = {
    "type": "object",
    "properties": {
        "command": {"type": "array", "items": {"type": "string"}, "description": "the program and its arguments"},
        "working_directory": {"type": "string"},
        "timeout_ms": {"type": "integer"},
    },
    "required": ["command"],
    "additionalProperties": False,
}


class ToolSpec(Struct):
    """A tool as clients send it; which members count depends on ``type``."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: dict[str, Any] | None = None
    tools: list["ToolSpec"] | None = None


class ChoiceSpec(Struct):
    """A ``tool_choice`` that is more than a word, and the entries of ``allowed_tools``."""

    type: str
    name: str | None = None
    namespace: str | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: list["ChoiceSpec"] = []


Choice = Word | ChoiceSpec


@dataclass(frozen=True, slots=True)
class Origin:
    """What the client called a function, and in which form its calls go back."""

    kind: Literal["function", "custom", "local_shell"]
    name: str
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools that the model gets, where each comes from by its flat name, and what was left out."""

    tools: tuple[Tool, ...]
    origins: Mapping[str, Origin]
    warnings: tuple[str, ...]


def flat_name(name: str, namespace: str | None) -> str:
    """The name that the model knows a tool by."""
    return f"{namespace}__{name}" if namespace else name


def read_tools(specs: Sequence[ToolSpec]) -> Toolbox:
    """Flatten and check. Raises `InvalidRequestError` with the path of the tool."""
    tools: list[Tool] = []
    origins: dict[str, Origin] = {}
    warnings: list[str] = []
    for path, spec, namespace in _flattened(specs):
        read = _tool(path, spec, namespace)
        if read is None:
            warnings.append(f"{path}: tools of type {shown(spec.type)} are not available here")
            continue
        tool, origin = read
        if tool.name in origins:
            raise InvalidRequestError(
                f"{path}: there is another tool named {shown(tool.name)}", code="duplicate_tool", param=path
            )
        tools.append(tool)
        origins[tool.name] = origin
    return Toolbox(tuple(tools), origins, tuple(warnings))


def _flattened(specs: Sequence[ToolSpec]) -> list[tuple[str, ToolSpec, str | None]]:
    flat: list[tuple[str, ToolSpec, str | None]] = []
    for index, spec in enumerate(specs):
        path = f"$.tools[{index}]"
        if spec.type == "namespace":
            name = _name(path, spec)
            flat += [(f"{path}.tools[{i}]", inner, name) for i, inner in enumerate(spec.tools or ())]
        else:
            flat.append((path, spec, None))
    return flat


def _tool(path: str, spec: ToolSpec, namespace: str | None) -> tuple[Tool, Origin] | None:
    description = spec.description or ""
    match spec.type:
        case "function":
            name = _name(path, spec)
            # OpenAI tries strict validation where `strict` is missing. Agents that leave it out send schemas with
            # optional members and open objects, and a local model pays for every constraint: only true means true.
            tool = Tool(flat_name(name, namespace), description, spec.parameters or _no_parameters(), bool(spec.strict))
            return tool, Origin("function", name, namespace)
        case "custom":
            name = _name(path, spec)
            description += _grammar_note(spec.format)
            tool = Tool(flat_name(name, namespace), description, FREE_TEXT)
            return tool, Origin("custom", name, namespace)
        case "local_shell":
            tool = Tool(LOCAL_SHELL, "Runs a command on the user's machine.", SHELL_COMMAND)
            return tool, Origin("local_shell", LOCAL_SHELL)
    return None


def _no_parameters() -> dict[str, Any]:
    return {"type": "object", "properties": {}}


def _name(path: str, spec: ToolSpec) -> str:
    if not spec.name:
        raise InvalidRequestError(f"{path} has no name", code="missing_required_parameter", param=f"{path}.name")
    return spec.name


def _grammar_note(form: Mapping[str, Any] | None) -> str:
    """A grammar is told and not enforced: JSON around the free text escapes it, so it is no grammar of the output."""
    if form is None or form.get("type") != "grammar":
        return ""
    return f"\n\nThe input has to match this {form.get('syntax')} grammar:\n{form.get('definition')}"


def read_choice(value: object, toolbox: Toolbox) -> ToolChoice:
    """What ``tool_choice`` means for the flattened tools. Raises `InvalidRequestError`."""
    if value is None:
        return ToolChoice()
    try:
        choice: Choice = msgspec.convert(value, Choice)
    except msgspec.ValidationError as error:
        raise invalid(error, at="tool_choice") from None
    if choice == "required" and not toolbox.tools:
        raise _bad_choice("tool_choice 'required' needs tools, and none of those sent is available here")
    if isinstance(choice, str):
        return ToolChoice(choice)
    if choice.type == "allowed_tools":
        return _allowed(choice, toolbox)
    return ToolChoice("required", _named(choice, toolbox))


def _allowed(choice: ChoiceSpec, toolbox: Toolbox) -> ToolChoice:
    names: list[str] = []
    for entry in choice.tools:
        if entry.name is not None or entry.type == LOCAL_SHELL:
            names += _named(entry, toolbox)
    if names:
        return ToolChoice(choice.mode, tuple(dict.fromkeys(names)))
    if choice.mode == "required":
        raise _bad_choice("tool_choice requires a call, and none of the allowed tools is available here")
    return ToolChoice("none")


def _named(choice: ChoiceSpec, toolbox: Toolbox) -> tuple[str, ...]:
    kind = choice.type
    name = LOCAL_SHELL if kind == LOCAL_SHELL else choice.name
    if kind == "namespace":
        names = tuple(flat for flat, origin in toolbox.origins.items() if origin.namespace == name)
    else:
        names = tuple(
            flat
            for flat, origin in toolbox.origins.items()
            if origin.kind == kind and (flat == name or (origin.name == name and origin.namespace == choice.namespace))
        )
    if not names:
        raise _bad_choice(f"tool_choice forces {shown(kind)} {shown(name or '')}, which is not among the tools")
    return names


def _bad_choice(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, code="invalid_value", param="tool_choice")
