"""Answers of Anthropic's Messages."""

from typing import Any, Literal

from ds4trio.server.openapi.answers.base import Answer

__all__ = ["Message", "MessageTokens"]


class TextBlock(Answer, tag_field="type", tag="text"):
    """Text."""

    text: str


class ThinkingBlock(Answer, tag_field="type", tag="thinking"):
    """Reasoning, and what makes it come back as it was."""

    thinking: str
    signature: str


class ToolUseBlock(Answer, tag_field="type", tag="tool_use"):
    """A call."""

    id: str
    name: str
    input: dict[str, Any]


class ThinkingTokens(Answer):
    """Tokens of the answer that were thinking."""

    thinking_tokens: int


class MessageUsage(Answer):
    """Tokens of a message; the first three add up to the prompt."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokens


class Message(Answer):
    """An answer of Messages."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsage


class MessageTokens(Answer):
    """How many tokens a request for a message has."""

    input_tokens: int
