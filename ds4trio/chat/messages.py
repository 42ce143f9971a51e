"""A conversation as every protocol is parsed into it: values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Conversation", "Message", "OutputFormat", "Role", "Thinking", "Tool", "ToolCall", "ToolChoice"]

Role = Literal["system", "developer", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made. ``arguments`` is JSON text, as its client sends it back."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    ``reasoning`` and ``tool_calls`` belong to assistants; ``tool_call_id`` says which call a tool's message answers.
    """

    role: Role
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. ``parameters`` is a JSON schema; ``strict`` calls have to obey it."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model may, must or must not call; ``names`` leaves it only some of the tools, empty means all."""

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What the visible answer has to look like.

    ``json`` is any JSON object; ``schema`` needs ``schema``; ``gbnf`` and ``lark`` need ``grammar`` in that syntax.
    """

    kind: Literal["text", "json", "schema", "gbnf", "lark"] = "text"
    schema: Mapping[str, Any] | bool = True
    grammar: str = ""


@dataclass(frozen=True, slots=True)
class Thinking:
    """How much the model may reason before it answers; None leaves it to the model.

    ``effort`` is the word that the client used (``low``, ``high``, …). ``budget`` is the number of tokens after which
    the end of the reasoning is forced.
    """

    enabled: bool | None = None
    effort: str | None = None
    budget: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """All that a prompt is made of. ``variables`` go to the template as they are and win over everything else."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    output: OutputFormat = OutputFormat()
    thinking: Thinking = Thinking()
    variables: Mapping[str, object] = field(default_factory=dict)
