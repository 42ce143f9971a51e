"""A request body → what to generate.

Shapes follow OpenAI's reference and the types of its SDK of 2026. Unknown members are accepted and ignored, since
clients send ever new ones; what would change the answer and cannot be done here is refused with its ``param``. The
members that are repeated or kept exactly as the client wrote them are left as raw slices at first. So is the input,
which may be megabytes: each item is decoded by itself, since other threads cannot run in the middle of a decoding.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct, field

from ds4trio.api.body import SamplingMembers, decode, verbatim
from ds4trio.api.errors import InvalidRequestError, shown
from ds4trio.api.responses.answer import Keeping, Reply, ResponsesDocument, ResponsesStream
from ds4trio.api.responses.items import InputItem, read_items
from ds4trio.api.responses.output_items import Presentation
from ds4trio.api.responses.store import ResponseStore
from ds4trio.api.responses.tools import Choice, ToolSpec, read_choice, read_tools
from ds4trio.api.task import Task
from ds4trio.chat import Conversation, Message, OutputFormat, thinking_of

__all__ = ["RAW_MEMBERS", "ResponsesRequest", "read"]

LOGPROBS = "message.output_text.logprobs"
PACKED_REASONING = "reasoning.encrypted_content"


class TextFormat(Struct):
    """``text.format``."""

    type: Literal["text", "json_object", "json_schema"]
    schema: dict[str, Any] | bool | None = None


class TextOptions(Struct):
    """``text``; the verbosity is left to the model."""

    format: TextFormat | None = None


class ReasoningOptions(Struct):
    """``reasoning``; ``generate_summary`` is the old name of ``summary``."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponsesRequest(SamplingMembers):
    """The members that this server reads; raw ones are empty where the client left them out."""

    input: Raw = field(default_factory=Raw)
    instructions: str | None = None
    previous_response_id: str | None = None
    model: str | None = None
    stream: bool | None = None
    store: bool | None = None
    include: list[str] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_tool_calls: int | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Raw = field(default_factory=Raw)
    tool_choice: Raw = field(default_factory=Raw)
    parallel_tool_calls: bool | None = None
    text: Raw = field(default_factory=Raw)
    reasoning: Raw = field(default_factory=Raw)
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None


NULL = Raw(b"null")

_requests = msgspec.json.Decoder(ResponsesRequest)
_inputs = msgspec.json.Decoder(str | list[Raw] | None)
_items = msgspec.json.Decoder(InputItem)
_tools = msgspec.json.Decoder(list[ToolSpec] | None)
_choices = msgspec.json.Decoder(Any)
_texts = msgspec.json.Decoder(TextOptions | None)
_reasonings = msgspec.json.Decoder(ReasoningOptions | None)

RAW_MEMBERS: Mapping[str, Any] = {
    "input": str | list[InputItem] | None,
    "tools": _tools.type,
    "tool_choice": Choice | None,
    "text": _texts.type,
    "reasoning": _reasonings.type,
}
"""The types of what is in the raw members of `ResponsesRequest`."""


def read(body: bytes, store: ResponseStore) -> Task:
    """Check a request body. Raises `InvalidRequestError`, never anything else.

    ``store`` is asked for what the request refers to, and gets the response unless the request says ``store: false``.
    """
    request = decode(_requests, body)
    _refuse_what_is_not_there(request)
    toolbox = read_tools(decode(_tools, request.tools or NULL, at="$.tools") or ())
    reasoning = decode(_reasonings, request.reasoning or NULL, at="$.reasoning") or ReasoningOptions()
    previous = _previous(request.previous_response_id, store)
    given = decode(_inputs, request.input or NULL, at="$.input")
    messages, warnings = _messages(given, store)
    instructions = (Message("system", request.instructions),) if request.instructions else ()
    conversation = Conversation(
        messages=(*instructions, *previous, *messages),
        tools=toolbox.tools,
        tool_choice=read_choice(decode(_choices, request.tool_choice or NULL, at="$.tool_choice"), toolbox),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        output=_output_format(decode(_texts, request.text or NULL, at="$.text")),
        thinking=thinking_of(reasoning.effort),
        variables=request.chat_template_kwargs or {},
    )
    if not conversation.messages:
        raise InvalidRequestError("there is no input", code="missing_required_parameter", param="input")
    include = request.include or ()
    reply = Reply(
        echo=_echo(request),
        presentation=Presentation(
            summaries=(reasoning.summary or reasoning.generate_summary) is not None,
            packed=PACKED_REASONING in include,
            origins=toolbox.origins,
        ),
        keeping=None if request.store is False else Keeping(store, _kept(request.input, given), (*previous, *messages)),
    )
    return Task(
        kind="responses",
        prompt_member="input",
        model=request.model,
        prompt=conversation,
        answer=partial(ResponsesStream if request.stream else ResponsesDocument, reply),
        overrides=request.overrides(),
        max_tokens=request.max_output_tokens,
        top_logprobs=(request.top_logprobs or 0) if LOGPROBS in include else None,
        ignore_eos=bool(request.ignore_eos),
        priority=request.priority,
        warnings=toolbox.warnings + warnings,
    )


def _refuse_what_is_not_there(request: ResponsesRequest) -> None:
    """Better a clear 400 than an answer that ignores what was asked."""
    if request.background:
        raise _unsupported("background", "responses are not computed in the background; leave background out")
    if request.conversation is not None:
        raise _unsupported("conversation", "there are no conversation objects; send previous_response_id or the items")
    if request.prompt is not None:
        raise _unsupported("prompt", "there are no stored prompts; send the text as instructions")


def _unsupported(param: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(message, code="unsupported_parameter", param=param)


def _previous(response_id: str | None, store: ResponseStore) -> tuple[Message, ...]:
    if response_id is None:
        return ()
    stored = store.get(response_id)
    if stored is not None and stored.messages is not None:
        return stored.messages
    fault = "is not kept here" if stored is None else "was not completed"
    raise InvalidRequestError(
        f"the response {shown(response_id)} {fault}; send the whole conversation as input",
        code="previous_response_not_found",
        param="previous_response_id",
    )


def _messages(given: str | list[Raw] | None, store: ResponseStore) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    if isinstance(given, str):
        return (Message("user", given),), ()
    items = (decode(_items, item, at=f"$.input[{index}]") for index, item in enumerate(given or ()))
    return read_items(items, find=store.document_of)


def _kept(input: Raw, given: str | list[Raw] | None) -> tuple[bytes, ...]:
    """The items as the client wrote them, a text as the user's message that it stands for."""
    if isinstance(given, str):
        return (b'{"role":"user","content":%s}' % verbatim(input),)
    return tuple(verbatim(item) for item in given or ())


def _output_format(text: TextOptions | None) -> OutputFormat:
    if text is None or text.format is None:
        return OutputFormat()
    match text.format.type:
        case "text":
            return OutputFormat()
        case "json_object":
            return OutputFormat("json")
        case "json_schema":
            if text.format.schema is None:
                raise InvalidRequestError(
                    "text.format has no schema", code="missing_required_parameter", param="text.format.schema"
                )
            return OutputFormat("schema", text.format.schema)


def _echo(request: ResponsesRequest) -> dict[str, Any]:
    """The members that OpenAI repeats. ``truncation`` and ``service_tier`` say what is done, not what was asked."""
    return {
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": _repeated(request.reasoning) or {"effort": None, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.store is not False,
        "temperature": request.temperature,
        "text": _repeated(request.text) or {"format": {"type": "text"}},
        "tool_choice": _repeated(request.tool_choice) or "auto",
        "tools": _repeated(request.tools) or [],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": request.top_p,
        "truncation": "disabled",
        "user": request.user,
    }


def _repeated(part: Raw) -> Raw | None:
    """What the client wrote, None if that is nothing."""
    return None if bytes(part) in (b"", b"null") else Raw(verbatim(part))
