"""The endpoints, one entry each, with examples that work. What their bodies and answers are, types say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ds4trio.api.chat_completions.request import ChatRequest
from ds4trio.api.completions import CompletionRequest
from ds4trio.api.messages.request import MessagesRequest
from ds4trio.api.responses.request import ResponsesRequest
from ds4trio.api.tokens import DetokenizeRequest, TokenizeRequest
from ds4trio.server.openapi.answers import completions, messages, own, responses

__all__ = ["Operation", "Stream", "operations"]

Json = Mapping[str, Any]

TOOL_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
QUESTION = "What is the weather in Paris?"
RESPONSE_ID = {"response_id": "the `id` of a response"}


@dataclass(frozen=True, slots=True)
class Stream:
    """Server-sent events: what they are in words, and the type of their data where it is one for all."""

    description: str
    data: type | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An endpoint.

    ``body`` and ``answer`` are the types of its JSON, None where there is none; ``answer_text`` are media types that
    it answers with beside that. Endpoints that compute have a ``stream``. ``unready`` is the type of its 503 where that
    is not an error. ``places`` are what the braces in the path stand for, ``query`` JSON schemas, ``links`` operations
    whose parameters come from the answer.
    """

    method: str
    path: str
    tag: str
    summary: str
    answer: Any = None
    answer_text: Sequence[str] = ()
    stream: Stream | None = None
    unready: Any = None
    body: Any = None
    examples: Mapping[str, Json] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Json] = field(default_factory=dict)
    links: Mapping[str, tuple[str, Json]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its ``operationId``."""
        words = [word.strip("{}") for word in self.path.replace(".", "/").replace("-", "/").split("/") if word]
        return "_".join([self.method, *words])


def operations(model: str) -> tuple[Operation, ...]:
    """All endpoints. The examples ask for ``model``."""
    return (*_openai(model), *_responses(model), *_anthropic(model), *_llama_server(), *_own())


def _openai(model: str) -> tuple[Operation, ...]:
    user = {"role": "user", "content": QUESTION}
    function = {"name": "get_weather", "description": "The weather now.", "parameters": TOOL_SCHEMA}
    called = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    chat = {"model": model, "messages": [user], "max_tokens": 16}
    return (
        Operation(
            method="post",
            path="/v1/chat/completions",
            tag="OpenAI",
            summary="Go on with a conversation",
            body=ChatRequest,
            answer=completions.ChatCompletion,
            stream=Stream(
                "Chunks, with a heartbeat after every silent interval, then `[DONE]`.", completions.ChatChunk
            ),
            examples={
                "question": chat,
                "stream": {**chat, "stream": True, "stream_options": {"include_usage": True}},
                "tools": {
                    **chat,
                    "messages": [
                        {"role": "system", "content": "Be brief."},
                        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
                        {"role": "assistant", "content": None, "tool_calls": [called]},
                        {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
                    ],
                    "tools": [{"type": "function", "function": function}],
                    "tool_choice": "auto",
                    "parallel_tool_calls": False,
                    "reasoning_effort": "low",
                },
                "sampling": {
                    **chat,
                    "n": 2,
                    "temperature": 0.5,
                    "top_p": 0.9,
                    "top_k": 40,
                    "min_p": 0.05,
                    "seed": 1,
                    "stop": ["\n\n"],
                    "logit_bias": {"5": -1},
                    "presence_penalty": 0.1,
                    "logprobs": True,
                    "top_logprobs": 2,
                    "priority": -1,
                },
            },
        ),
        Operation(
            method="post",
            path="/v1/completions",
            tag="OpenAI",
            summary="Go on with a text",
            body=CompletionRequest,
            answer=completions.Completion,
            stream=Stream("Chunks, then `[DONE]`.", completions.CompletionChunk),
            examples={
                "text": {"model": model, "prompt": "Once upon a time", "max_tokens": 8, "echo": True},
                "several": {"model": model, "prompt": ["One, two,", [353, 354]], "max_tokens": 4, "logprobs": 1},
                "stream": {"model": model, "prompt": "Once", "max_tokens": 4, "stream": True, "stop": "."},
            },
        ),
        Operation(
            method="get",
            path="/v1/models",
            tag="OpenAI",
            summary="The names that this server goes by",
            answer=own.Models,
        ),
        Operation(
            method="get",
            path="/v1/models/{name}",
            tag="OpenAI",
            summary="One of them, with the context length",
            answer=own.Model,
            places={"name": "a model's name"},
        ),
        Operation(
            method="post",
            path="/v1/embeddings",
            tag="OpenAI",
            summary="Always refused: the model writes text",
        ),
    )


def _responses(model: str) -> tuple[Operation, ...]:
    tool = {"type": "function", "name": "get_weather", "parameters": TOOL_SCHEMA}
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
        {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": '{"city": "Paris"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "Rain."},
    ]
    text = {"model": model, "input": QUESTION, "max_output_tokens": 16}
    tools = {**text, "input": items, "instructions": "Be brief.", "tools": [tool], "tool_choice": "auto"}
    of_response: Json = {"response_id": "$response.body#/id"}
    return (
        Operation(
            method="post",
            path="/v1/responses",
            tag="OpenAI Responses",
            summary="Make a response",
            body=ResponsesRequest,
            answer=responses.Response,
            stream=Stream(
                "`response.created`, `response.in_progress` (also as the heartbeat), the events of the output's items, "
                "then one of `response.completed`, `response.incomplete` and `response.failed`."
            ),
            examples={
                "text": text,
                "stream": {**text, "stream": True, "store": False},
                "tools": {**tools, "reasoning": {"effort": "low", "summary": "auto"}, "metadata": {"ticket": "7"}},
            },
            links={
                "get": ("get_v1_responses_response_id", of_response),
                "delete": ("delete_v1_responses_response_id", of_response),
                "input_items": ("get_v1_responses_response_id_input_items", of_response),
                "cancel": ("post_v1_responses_response_id_cancel", of_response),
            },
        ),
        Operation(
            method="post",
            path="/v1/responses/input_tokens",
            tag="OpenAI Responses",
            summary="How many tokens a request has",
            body=ResponsesRequest,
            answer=responses.InputTokens,
            examples={"text": text, "tools": tools},
        ),
        Operation(
            method="get",
            path="/v1/responses/{response_id}",
            tag="OpenAI Responses",
            summary="A response that was stored",
            answer=responses.Response,
            places=RESPONSE_ID,
        ),
        Operation(
            method="delete",
            path="/v1/responses/{response_id}",
            tag="OpenAI Responses",
            summary="Forget a response",
            answer=responses.DeletedResponse,
            places=RESPONSE_ID,
        ),
        Operation(
            method="post",
            path="/v1/responses/{response_id}/cancel",
            tag="OpenAI Responses",
            summary="Stop a response that is being made",
            answer=responses.Response,
            places=RESPONSE_ID,
        ),
        Operation(
            method="get",
            path="/v1/responses/{response_id}/input_items",
            tag="OpenAI Responses",
            summary="The items that its request brought",
            answer=responses.InputItems,
            places=RESPONSE_ID,
            query={
                "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
                "order": {"enum": ["asc", "desc"], "default": "desc"},
                "after": {"type": "string", "description": "the id of an item after which to go on"},
            },
        ),
    )


def _anthropic(model: str) -> tuple[Operation, ...]:
    tool = {"name": "get_weather", "description": "The weather now.", "input_schema": TOOL_SCHEMA}
    message = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": QUESTION}]}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": QUESTION, "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "A tool knows.", "signature": ""},
                {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "Rain."}]},
    ]
    tools = {**message, "system": "Be brief.", "messages": turns, "tools": [tool], "tool_choice": {"type": "auto"}}
    return (
        Operation(
            method="post",
            path="/v1/messages",
            tag="Anthropic",
            summary="Go on with a conversation",
            body=MessagesRequest,
            answer=messages.Message,
            stream=Stream(
                "`message_start`, blocks of content, `message_delta`, `message_stop`; `ping` and a `message_delta` "
                "without a stop reason as the heartbeat; `error` where something fails."
            ),
            examples={
                "question": message,
                "stream": {**message, "stream": True, "stop_sequences": ["\n\n"]},
                "tools": {**tools, "thinking": {"type": "enabled", "budget_tokens": 8}},
            },
        ),
        Operation(
            method="post",
            path="/v1/messages/count_tokens",
            tag="Anthropic",
            summary="How many tokens a request has",
            body=MessagesRequest,
            answer=messages.MessageTokens,
            examples={"question": {"model": model, "messages": message["messages"]}, "tools": tools},
        ),
    )


def _llama_server() -> tuple[Operation, ...]:
    return (
        Operation(
            method="post",
            path="/tokenize",
            tag="llama-server",
            summary="The tokens of a text",
            body=TokenizeRequest,
            answer=own.Tokenized,
            examples={"ids": {"content": "Hello!"}, "pieces": {"content": "Hello!", "with_pieces": True}},
        ),
        Operation(
            method="post",
            path="/detokenize",
            tag="llama-server",
            summary="The text of tokens",
            body=DetokenizeRequest,
            answer=own.Detokenized,
            examples={"ids": {"tokens": [353, 354]}},
        ),
        Operation(
            method="post",
            path="/apply-template",
            tag="llama-server",
            summary="What the chat template makes of a conversation",
            body=ChatRequest,
            answer=own.Prompt,
            examples={"question": {"messages": [{"role": "user", "content": QUESTION}]}},
        ),
        Operation(method="get", path="/props", tag="llama-server", summary="Properties", answer=own.Props),
        Operation(method="get", path="/slots", tag="llama-server", summary="Who runs", answer=list[own.Slot]),
    )


def _own() -> tuple[Operation, ...]:
    return (
        Operation(
            method="get",
            path="/",
            tag="server",
            summary="What this server is; for browsers a page that shows all requests",
            answer=own.Root,
            answer_text=("text/html",),
        ),
        Operation(
            method="get",
            path="/health",
            tag="server",
            summary="Whether requests are answered",
            answer=own.Health,
            unready=own.Health,
        ),
        Operation(
            method="get",
            path="/requests",
            tag="server",
            summary="The requests that live, and the last that ended",
            answer=own.Requests,
        ),
        Operation(
            method="get",
            path="/requests/events",
            tag="server",
            summary="The same as events without end, at most twice a second",
            answer_text=("text/event-stream",),
        ),
        Operation(
            method="delete",
            path="/requests/{id}",
            tag="server",
            summary="Cancel a request",
            answer=own.Cancelled,
            places={"id": "the `x-request-id` of a request that lives"},
        ),
        Operation(
            method="get",
            path="/metrics",
            tag="server",
            summary="Figures for Prometheus",
            answer_text=("text/plain",),
        ),
        Operation(method="get", path="/openapi.json", tag="server", summary="This document", answer=dict[str, Any]),
    )
