"""The body of ``POST /v1/messages`` and ``/v1/messages/count_tokens``: typed members, and the `Task` they amount to.

Members that this server does not know are accepted and ignored, since clients send ever new ones. So are those that
only mean something to Anthropic's own servers (``metadata``, ``service_tier``, ``container``, ``context_management``).
"""

from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ds4trio.api.body import SamplingMembers, StopMember, decode, stop_strings
from ds4trio.api.errors import InvalidRequestError
from ds4trio.api.messages.answer import MessagesDocument, MessagesStream
from ds4trio.api.messages.history import Block, MessageParam, asks_to_cache, read_messages, read_system
from ds4trio.api.messages.tools import ToolChoiceParam, ToolParam, read_tool_choice, read_tools
from ds4trio.api.task import Task
from ds4trio.chat import Conversation, OutputFormat, Thinking, thinking_of

__all__ = ["MessagesRequest", "parse"]


class ThinkingParam(Struct):
    """``enabled`` with a budget, ``disabled``, or how the model is to decide on its own."""

    type: str
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None
    display: str | None = None


class FormatParam(Struct):
    """What the text of the answer has to look like."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct):
    """How hard to try, and in which form to answer."""

    effort: str | None = None
    format: FormatParam | None = None


class MessagesRequest(SamplingMembers, kw_only=True):
    """The members that this server reads. ``output_format`` is the older place of ``output_config.format``."""

    model: str
    messages: Annotated[list[MessageParam], Meta(min_length=1)]
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    system: str | list[Block] | None = None
    stream: bool | None = None
    stop_sequences: StopMember = None
    tools: list[ToolParam] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: ThinkingParam | None = None
    output_config: OutputConfig | None = None
    output_format: FormatParam | None = None
    cache_control: dict[str, Any] | None = None
    mcp_servers: list[Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(MessagesRequest)


def parse(body: bytes, *, to_answer: bool) -> Task:
    """Check a body. One that is not to be answered, only counted, needs no ``max_tokens``.

    Raises `InvalidRequestError`, never anything else.
    """
    request = decode(_decoder, body)
    if to_answer and request.max_tokens is None:
        raise InvalidRequestError(
            "max_tokens is missing; Anthropic's API requires it",
            code="missing_required_parameter",
            param="$.max_tokens",
        )
    messages, skipped = read_messages(request.messages)
    tools, unknown = read_tools(request.tools or ())
    choice = request.tool_choice
    conversation = Conversation(
        messages=(*read_system(request.system), *messages),
        tools=tools,
        tool_choice=read_tool_choice(choice, tools),
        parallel_tool_calls=not (choice and choice.disable_parallel_tool_use),
        output=_output(request),
        thinking=_thinking(request),
        variables=request.chat_template_kwargs or {},
    )
    answer = MessagesStream if request.stream else MessagesDocument
    return Task(
        kind="messages",
        model=request.model,
        prompt=conversation,
        answer=partial(
            answer,
            caching=_asks_to_cache(request),
            hide_thinking=request.thinking is not None and request.thinking.display == "omitted",
        ),
        overrides=request.overrides(),
        max_tokens=request.max_tokens,
        stop=stop_strings(request.stop_sequences),
        ignore_eos=bool(request.ignore_eos),
        priority=request.priority,
        warnings=(*unknown, *skipped, *_warnings(request)),
    )


def _thinking(request: MessagesRequest) -> Thinking:
    """Types other than enabled and disabled let the model decide, and so does their absence."""
    effort = request.output_config.effort if request.output_config else None
    match request.thinking:
        case ThinkingParam(type="enabled", budget_tokens=budget):
            return thinking_of(effort, enabled=True, budget=budget)
        case ThinkingParam(type="disabled"):
            return thinking_of(effort, enabled=False)
        case _:
            return thinking_of(effort)


def _output(request: MessagesRequest) -> OutputFormat:
    wanted = (request.output_config.format if request.output_config else None) or request.output_format
    return OutputFormat("schema", wanted.schema) if wanted else OutputFormat()


def _asks_to_cache(request: MessagesRequest) -> bool:
    return (
        request.cache_control is not None
        or asks_to_cache(request.system)
        or any(asks_to_cache(message.content) for message in request.messages)
        or any(tool.cache_control is not None for tool in request.tools or ())
    )


def _warnings(request: MessagesRequest) -> list[str]:
    warnings = []
    if request.mcp_servers:
        warnings.append("mcp_servers were left out: this server calls no others")
    budget = request.thinking.budget_tokens if request.thinking else None
    if budget and request.max_tokens and budget >= request.max_tokens:
        # Anthropic refuses this. Clients take max_tokens from tables of models that were not made for local ones, and
        # an answer that may end early is worth more to their users than none.
        warnings.append("thinking.budget_tokens is not below max_tokens: thinking may use up the whole answer")
    return warnings
