"""OpenAI Chat Completions: ``POST /v1/chat/completions``.

Shapes follow the API reference of 2026 and the types of the ``openai`` SDK. What this server cannot do is refused
with the path of the offending part; unknown members are accepted and ignored, since clients send ever new ones.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ds4trio.api import sse
from ds4trio.api.answer import beat_text
from ds4trio.api.errors import ApiError, InvalidRequestError
from ds4trio.chat import Message
from ds4trio.chat.messages import Role
from ds4trio.engine import Finished, Progress, Sampling, TextDelta, Usage

__all__ = ["ChatDocument", "ChatStream", "ChatTask", "error_body", "error_document", "parse"]

MOST_STOPS = 16
TOKEN_ID = re.compile(r"[0-9]{1,9}")


class ContentPart(Struct):
    """A part of a message; only ``text`` parts can be answered."""

    type: str
    text: str | UnsetType = UNSET


class ChatMessage(Struct):
    """A message as clients send it."""

    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: str | None = None


class StreamOptions(Struct):
    """Options of a streamed answer."""

    include_usage: bool = False


class ChatRequest(Struct):
    """The members that this server reads."""

    messages: list[ChatMessage]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=MOST_STOPS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    repeat_last_n: Annotated[int, Meta(ge=0, le=65536)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: int | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None


@dataclass(frozen=True, slots=True)
class ChatTask:
    """A valid request: what to render, how to sample, how to answer. ``max_tokens`` None means up to the context."""

    model: str | None
    messages: tuple[Message, ...]
    overrides: Mapping[str, Any]
    max_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool

    def sampling(self, defaults: Sampling) -> Sampling:
        """The model's defaults with what the client asked for."""
        return replace(defaults, **self.overrides)


_decoder = msgspec.json.Decoder(ChatRequest)
_SAMPLED = {field.name for field in fields(Sampling)} - {"logit_bias"}


def parse(body: bytes) -> ChatTask:
    """Check a request body. Not a checkpoint. Raises `InvalidRequestError`, never anything else."""
    request = _decode(body)
    _refuse_what_is_not_there(request)
    messages = tuple(_message(index, message) for index, message in enumerate(request.messages))
    overrides: dict[str, Any] = {name: value for name in _SAMPLED if (value := getattr(request, name)) is not None}
    if request.logit_bias:
        overrides["logit_bias"] = _logit_bias(request.logit_bias)
    limits = [limit for limit in (request.max_completion_tokens, request.max_tokens) if limit is not None]
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return ChatTask(
        model=request.model,
        messages=messages,
        overrides=overrides,
        max_tokens=min(limits, default=None),
        stop=tuple(string for string in stop if string),
        stream=bool(request.stream),
        include_usage=request.stream_options is not None and request.stream_options.include_usage,
    )


def _decode(body: bytes) -> ChatRequest:
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).rpartition(" - at `$")
        path = f"${path.rstrip('`')}" if message else ""
        where = f" at {path}" if path else ""
        raise InvalidRequestError(f"{message or error}{where}", code="invalid_type", param=path or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequestError("the body is nested too deeply", code="invalid_json") from None


def _refuse_what_is_not_there(request: ChatRequest) -> None:
    """Better a clear 400 than an answer that ignores what was asked."""
    if not request.messages:
        raise InvalidRequestError("messages must not be empty", code="empty_array", param="messages")
    if request.n is not None and request.n != 1:
        raise InvalidRequestError(f"n must be 1, not {request.n}", code="unsupported_value", param="n")
    if request.tools:
        raise InvalidRequestError("this server cannot call tools yet; send no tools", code="unsupported", param="tools")
    if request.tool_choice not in (None, "none", "auto"):
        raise InvalidRequestError("tool_choice needs tools", code="unsupported", param="tool_choice")
    if request.response_format is not None and request.response_format.get("type") != "text":
        raise InvalidRequestError(
            "only the response_format {'type': 'text'} is supported",
            code="unsupported",
            param="response_format",
        )
    if request.functions or request.function_call not in (None, "none", "auto"):
        raise InvalidRequestError("this server cannot call functions", code="unsupported", param="functions")
    if set(request.modalities or ()) - {"text"}:
        raise InvalidRequestError("this model writes text only", code="unsupported", param="modalities")
    if request.logprobs or request.top_logprobs:
        raise InvalidRequestError("logprobs are not supported yet", code="unsupported", param="logprobs")


def _message(index: int, message: ChatMessage) -> Message:
    extra = {
        name: value
        for name in ("name", "tool_call_id", "tool_calls", "reasoning_content")
        if (value := getattr(message, name)) is not None
    }
    return Message(message.role, _text(f"$.messages[{index}].content", message.content), extra)


def _text(path: str, content: str | list[ContentPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for index, part in enumerate(content):
        if part.type != "text":
            raise InvalidRequestError(
                f"{path}[{index}] is of type {part.type!r}, but this model reads text only; send text parts",
                code="unsupported_content",
                param=f"{path}[{index}].type",
            )
        if part.text is UNSET:
            raise InvalidRequestError(
                f"{path}[{index}] has no text",
                code="missing_required_parameter",
                param=f"{path}[{index}].text",
            )
        texts.append(part.text)
    return "".join(texts)


def _logit_bias(biases: dict[str, float]) -> dict[int, float]:
    for token in biases:
        if not TOKEN_ID.fullmatch(token):
            raise InvalidRequestError(
                f"logit_bias: the keys are token ids in decimal, not {token[:20]!r}",
                code="invalid_value",
                param="logit_bias",
            )
    return {int(token): bias for token, bias in biases.items()}


def error_body(error: ApiError) -> dict[str, Any]:
    """OpenAI's error object."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.code,
            **error.details,
        }
    }


def error_document(error: ApiError) -> bytes:
    """The same as a JSON document."""
    return msgspec.json.encode(error_body(error))


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


class ChatStream:
    """Implements `Answer` with ``chat.completion.chunk`` events, ended by ``[DONE]``.

    ``created`` is in seconds since 1970.
    """

    content_type = "text/event-stream"
    streams = True

    def __init__(self, *, id: str, created: float, model: str, include_usage: bool) -> None:
        self._frame = {
            "id": id,
            "object": "chat.completion.chunk",
            "created": math.floor(created),
            "model": model,
        }
        self._include_usage = include_usage

    def start(self) -> bytes:
        """The chunk that carries the role: the client sees an answer begin before anything is computed."""
        return self._chunk({"role": "assistant", "content": ""})

    def beat(self, progress: Progress) -> bytes:
        """A comment with phase and progress."""
        return sse.comment(beat_text(progress))

    def delta(self, event: TextDelta) -> bytes:
        """A chunk of content."""
        return self._chunk({"content": event.text})

    def finish(self, event: Finished) -> bytes:
        """The finish reason, the usage if it was asked for, and ``[DONE]``."""
        end = self._chunk({}, finish_reason=event.reason)
        if self._include_usage:
            end += sse.data({**self._frame, "choices": [], "usage": _usage(event.usage)})
        return end + b"data: [DONE]\n\n"

    def error(self, error: ApiError) -> bytes:
        """OpenAI's error object as an event (the SDKs raise on it), and ``[DONE]``."""
        return sse.data(error_body(error)) + b"data: [DONE]\n\n"

    def refusal(self, error: ApiError) -> bytes:
        """OpenAI's error object."""
        return error_document(error)

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk: dict[str, Any] = {**self._frame, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return sse.data(chunk)


class ChatDocument:
    """Implements `Answer` with one ``chat.completion`` object."""

    content_type = "application/json"
    streams = False

    def __init__(self, *, id: str, created: float, model: str) -> None:
        self._frame = {"id": id, "object": "chat.completion", "created": math.floor(created), "model": model}
        self._texts: list[str] = []

    def start(self) -> bytes:
        """One space, once the early 200 is out."""
        return b" "

    def beat(self, _: Progress) -> bytes:
        """One space: leading white space is valid JSON (RFC 8259, section 2)."""
        return b" "

    def delta(self, event: TextDelta) -> bytes:
        """Collected for the end."""
        self._texts.append(event.text)
        return b""

    def finish(self, event: Finished) -> bytes:
        """The whole document."""
        message = {"role": "assistant", "content": "".join(self._texts), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": event.reason}
        return msgspec.json.encode({**self._frame, "choices": [choice], "usage": _usage(event.usage)})

    def error(self, error: ApiError) -> bytes:
        """OpenAI's error object; after the early 200 it is all that can still be said."""
        return self.refusal(error)

    def refusal(self, error: ApiError) -> bytes:
        """OpenAI's error object."""
        return error_document(error)
