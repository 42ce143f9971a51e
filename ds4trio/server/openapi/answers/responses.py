"""Answers of OpenAI's Responses."""

from typing import Any, Literal

from msgspec import UNSET, UnsetType

from ds4trio.server.openapi.answers.base import Answer
from ds4trio.server.openapi.answers.completions import ReasoningTokens, SampledToken

__all__ = ["DeletedResponse", "InputItems", "InputTokens", "Response"]


class OutputText(Answer):
    """A part of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[SampledToken]


class ReasoningPart(Answer):
    """A part of reasoning or of its summary."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class OutputItem(Answer, tag_field="type"):
    """An item that the model has put out."""

    id: str
    status: Literal["in_progress", "completed", "incomplete"]


class MessageItem(OutputItem, tag="message"):
    """Text."""

    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningItem(OutputItem, tag="reasoning"):
    """Reasoning, as text or as its own summary."""

    summary: list[ReasoningPart]
    encrypted_content: str | None
    content: list[ReasoningPart] | UnsetType = UNSET


class FunctionCallItem(OutputItem, tag="function_call"):
    """A call of a function; the arguments are JSON text."""

    call_id: str
    name: str
    arguments: str
    namespace: str | UnsetType = UNSET


class CustomCallItem(OutputItem, tag="custom_tool_call"):
    """A call of a custom tool."""

    call_id: str
    name: str
    input: str
    namespace: str | UnsetType = UNSET


class LocalShellCallItem(OutputItem, tag="local_shell_call"):
    """A command for the client's shell."""

    call_id: str
    action: dict[str, Any]


class ResponseFault(Answer):
    """Why there is no answer."""

    code: str
    message: str


class IncompleteDetails(Answer):
    """Why the answer is cut off."""

    reason: Literal["max_output_tokens"]


class InputTokensDetails(Answer):
    """Tokens of the input that needed no prefill, and those that did."""

    cached_tokens: int
    cache_write_tokens: int


class ResponseUsage(Answer):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class Response(Answer):
    """A response with what its request asked for."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: ResponseFault | None
    incomplete_details: IncompleteDetails | None
    model: str
    background: bool
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[Any]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["disabled"]
    user: str | None
    output: list[MessageItem | ReasoningItem | FunctionCallItem | CustomCallItem | LocalShellCallItem]
    usage: ResponseUsage | None


class InputItems(Answer):
    """A page of the items of a request."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool


class DeletedResponse(Answer):
    """It is forgotten."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputTokens(Answer):
    """How many tokens a request for a response has."""

    object: Literal["response.input_tokens"]
    input_tokens: int
