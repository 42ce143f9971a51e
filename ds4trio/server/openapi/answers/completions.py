"""Answers of OpenAI's Chat Completions and Completions."""

from typing import Literal

from msgspec import UNSET, UnsetType

from ds4trio.server.openapi.answers.base import Answer

__all__ = ["ChatChunk", "ChatCompletion", "Completion", "CompletionChunk", "ReasoningTokens", "SampledToken"]


class CachedTokens(Answer):
    """Tokens of the prompt that needed no prefill."""

    cached_tokens: int


class ReasoningTokens(Answer):
    """Tokens of the answer that were reasoning."""

    reasoning_tokens: int


class Usage(Answer):
    """Tokens of a whole answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class Timings(Answer):
    """What the first choice took, in llama-server's names. `draft_n` tokens were guessed."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float
    draft_n: int | UnsetType = UNSET
    draft_n_accepted: int | UnsetType = UNSET


class TopLogprob(Answer):
    """A token that might have come."""

    token: str
    logprob: float
    bytes: list[int]


class SampledToken(Answer):
    """A token that came, and the likeliest ones."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """The tokens of a chat answer."""

    content: list[SampledToken]
    refusal: None


class CalledFunctionName(Answer):
    """A function and the arguments that the model wrote, JSON text."""

    name: str
    arguments: str


class ToolCallObject(Answer):
    """A call."""

    id: str
    type: Literal["function"]
    function: CalledFunctionName


class ChatAnswer(Answer):
    """What the model said."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallObject] | UnsetType = UNSET


class ChatChoice(Answer):
    """One of the answers."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Answer):
    """An answer of Chat Completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings


class FunctionFragment(Answer):
    """The name, which comes first, or a piece of the arguments."""

    arguments: str
    name: str | UnsetType = UNSET


class CallFragment(Answer):
    """A piece of a call; `id` and `type` come with the first one."""

    index: int
    function: FunctionFragment
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatDelta(Answer):
    """A piece of an answer; empty in a heartbeat and in the last chunk."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallFragment] | UnsetType = UNSET


class ChatChunkChoice(Answer):
    """A piece of one of the answers."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class PromptProgress(Answer):
    """How far the prompt is, for `return_progress`."""

    total: int
    cache: int
    processed: int
    time_ms: int


class ChatChunk(Answer):
    """The data of an event of a chat stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    timings: Timings | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET


class TextLogprobs(Answer):
    """The tokens of a text in parallel lists."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(Answer):
    """One of the texts."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Answer):
    """An answer of Completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    timings: Timings


class CompletionChunkChoice(Answer):
    """A piece of one of the texts."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionChunk(Answer):
    """The data of an event of a stream of Completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    timings: Timings | UnsetType = UNSET
