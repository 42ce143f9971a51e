"""What clients send. What this server cannot do is refused with the path of the offending part.

Unknown members are accepted and ignored, since clients send ever new ones; unknown kinds of tools are left out with a
warning.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ds4trio.api.body import SamplingMembers, StopMember, StreamOptions, decode, stop_strings
from ds4trio.api.chat_completions.answer import ChatDocument, ChatOptions, ChatStream
from ds4trio.api.errors import InvalidRequestError, shown
from ds4trio.api.task import Task
from ds4trio.chat import Conversation, Message, OutputFormat, Role, Thinking, Tool, ToolCall, ToolChoice, thinking_of

__all__ = ["ChatRequest", "parse"]

MOST_CHOICES = 8
MOST_TOP_LOGPROBS = 20


class ContentPart(Struct):
    """A part of a message; only text can be answered."""

    type: str
    text: str | UnsetType = UNSET
    refusal: str | UnsetType = UNSET


class CalledFunction(Struct):
    """A function's name and the arguments that the model wrote for it; some clients send them decoded."""

    name: str
    arguments: str | dict[str, Any] | None = None


class HistoryCall(Struct):
    """A call in an assistant's message."""

    function: CalledFunction | None = None
    custom: dict[str, Any] | None = None
    id: str | None = None


class ChatMessage(Struct):
    """A message. ``function`` is the old name of the role ``tool``."""

    role: Role | Literal["function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[HistoryCall] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None


class FunctionDefinition(Struct):
    """A function that the model may call."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(Struct):
    """A tool; only functions can be offered to a local model."""

    type: str
    function: FunctionDefinition | None = None


class NamedFunction(Struct):
    """Which function."""

    name: str


class NamedTool(Struct):
    """One of the tools by its name."""

    type: str
    function: NamedFunction


class AllowedTools(Struct):
    """Some of the tools, at least one."""

    tools: Annotated[list[NamedTool], Meta(min_length=1)]
    mode: Literal["auto", "required"] = "auto"


class NamedChoice(Struct):
    """The tool that has to be called, or those that may be."""

    type: str
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


class SchemaFormat(Struct):
    """The schema that the answer has to obey."""

    schema: dict[str, Any] | bool | None = None
    strict: bool | None = None
    name: str | None = None


class ResponseFormat(Struct):
    """What the answer has to look like. llama-server's clients give the schema without its envelope."""

    type: str
    json_schema: SchemaFormat | None = None
    schema: dict[str, Any] | None = None
    grammar: str | None = None


class ThinkingMember(Struct):
    """Anthropic's way to ask for reasoning, which several chat clients use too."""

    type: str = "enabled"
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None


class ReasoningMember(Struct):
    """OpenRouter's way to ask for reasoning."""

    effort: str | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    enabled: bool | None = None


class ChatRequest(SamplingMembers, kw_only=True):
    """The members that this server reads."""

    messages: list[ChatMessage]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MOST_CHOICES)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    stop: StopMember = None
    tools: list[ToolDefinition] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    reasoning_effort: str | None = None
    thinking: ThinkingMember | None = None
    reasoning: ReasoningMember | None = None
    thinking_budget: Annotated[int, Meta(ge=0)] | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_progress: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None


_decoder = msgspec.json.Decoder(ChatRequest)


def parse(body: bytes) -> Task:
    """Check a request body. Raises `InvalidRequestError`, never anything else."""
    request = decode(_decoder, body)
    _refuse_what_is_not_there(request)
    warnings: list[str] = []
    tools = _tools(request.tools or [], warnings)
    limits = [limit for limit in (request.max_completion_tokens, request.max_tokens) if limit is not None]
    options = ChatOptions(
        include_usage=request.stream_options is not None and bool(request.stream_options.include_usage),
        logprobs=bool(request.logprobs),
        progress=bool(request.return_progress),
        n=request.n or 1,
    )
    return Task(
        kind="chat",
        model=request.model,
        prompt=Conversation(
            messages=tuple(_message(index, message) for index, message in enumerate(request.messages)),
            tools=tools,
            tool_choice=_tool_choice(request.tool_choice, tools),
            parallel_tool_calls=request.parallel_tool_calls is not False,
            output=_output(request),
            thinking=_thinking(request),
            variables=request.chat_template_kwargs or {},
        ),
        answer=partial(ChatStream if request.stream else ChatDocument, options=options),
        overrides=request.overrides(),
        max_tokens=min(limits, default=None),
        stop=stop_strings(request.stop),
        n=options.n,
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        ignore_eos=bool(request.ignore_eos),
        priority=request.priority,
        warnings=tuple(warnings),
    )


def _refuse_what_is_not_there(request: ChatRequest) -> None:
    """Better a clear 400 than an answer that ignores what was asked."""
    if not request.messages:
        raise InvalidRequestError("messages must not be empty", code="empty_array", param="messages")
    if request.functions or request.function_call not in (None, "none", "auto"):
        raise InvalidRequestError(
            "functions were replaced by tools in 2023; send tools and tool_choice",
            code="unsupported",
            param="functions",
        )
    if set(request.modalities or ()) - {"text"}:
        raise InvalidRequestError("this model writes text only", code="unsupported", param="modalities")
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs to be true", code="invalid_value", param="top_logprobs")


def _message(index: int, message: ChatMessage) -> Message:
    path = f"$.messages[{index}]"
    reasoning = message.reasoning_content or (message.reasoning if isinstance(message.reasoning, str) else "")
    return Message(
        role="tool" if message.role == "function" else message.role,
        content=_text(f"{path}.content", message.content),
        reasoning=reasoning,
        tool_calls=tuple(
            _call(f"{path}.tool_calls[{number}]", call) for number, call in enumerate(message.tool_calls or [])
        ),
        tool_call_id=message.tool_call_id,
        name=message.name,
    )


def _call(path: str, call: HistoryCall) -> ToolCall:
    if call.function is not None:
        arguments = call.function.arguments
        text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments or {}).decode()
        return ToolCall(call.id or "", call.function.name, text)
    if call.custom is not None:
        given = {"input": call.custom.get("input", "")}
        return ToolCall(call.id or "", str(call.custom.get("name", "")), msgspec.json.encode(given).decode())
    raise InvalidRequestError(f"{path} has no function", code="missing_required_parameter", param=f"{path}.function")


def _text(path: str, content: str | list[ContentPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(_part(f"{path}[{index}]", part) for index, part in enumerate(content))


def _part(path: str, part: ContentPart) -> str:
    if part.type not in ("text", "refusal"):
        raise InvalidRequestError(
            f"{path} is of type {shown(part.type)}, but this model reads text only; send text parts",
            code="unsupported_content",
            param=f"{path}.type",
        )
    text = part.text if part.type == "text" else part.refusal
    if text is UNSET:
        raise InvalidRequestError(
            f"{path} has no {part.type}", code="missing_required_parameter", param=f"{path}.{part.type}"
        )
    return text


def _tools(definitions: Sequence[ToolDefinition], warnings: list[str]) -> tuple[Tool, ...]:
    tools: dict[str, Tool] = {}
    for index, definition in enumerate(definitions):
        path = f"$.tools[{index}]"
        if definition.type != "function":
            warnings.append(f"{path}: tools of type {shown(definition.type)} are not offered to the model")
            continue
        if definition.function is None:
            raise InvalidRequestError(
                f"{path} has no function", code="missing_required_parameter", param=f"{path}.function"
            )
        function = definition.function
        if function.name in tools:
            raise InvalidRequestError(
                f"{path}: a tool named {shown(function.name)} was already given; names must differ",
                code="invalid_value",
                param=f"{path}.function.name",
            )
        tools[function.name] = Tool(
            name=function.name,
            description=function.description or "",
            parameters=function.parameters or {"type": "object", "properties": {}},
            strict=bool(function.strict),
        )
    return tuple(tools.values())


def _tool_choice(choice: str | NamedChoice | None, tools: Sequence[Tool]) -> ToolChoice:
    match choice:
        case None | "auto":
            return ToolChoice()
        case "none":
            return ToolChoice("none")
        case "required":
            result = ToolChoice("required")
        case NamedChoice(function=NamedFunction(name=name)):
            result = ToolChoice("required", (name,))
        case NamedChoice(allowed_tools=AllowedTools(tools=allowed, mode=mode)):
            result = ToolChoice(mode, tuple(tool.function.name for tool in allowed))
        case _:
            raise InvalidRequestError(
                "tool_choice must be 'none', 'auto', 'required', or name a function: "
                "{'type': 'function', 'function': {'name': …}}",
                code="invalid_value",
                param="tool_choice",
            )
    known = {tool.name for tool in tools}
    if result.mode == "required" and not known:
        raise InvalidRequestError(
            "tool_choice asks for a call, but tools is empty", code="invalid_value", param="tools"
        )
    if missing := set(result.names) - known:
        raise InvalidRequestError(
            f"tool_choice names {shown(', '.join(sorted(missing)))}, which is not in tools",
            code="invalid_value",
            param="tool_choice",
        )
    return result


def _output(request: ChatRequest) -> OutputFormat:
    if request.grammar:
        return OutputFormat("gbnf", grammar=request.grammar)
    if request.json_schema is not None:
        return OutputFormat("schema", schema=request.json_schema)
    wanted = request.response_format
    match wanted:
        case None | ResponseFormat(type="text"):
            return OutputFormat()
        case ResponseFormat(type="json_object", schema=None):
            return OutputFormat("json")
        case ResponseFormat(type="json_object", schema=dict(schema)):
            return OutputFormat("schema", schema=schema)
        case ResponseFormat(type="json_schema"):
            given = wanted.schema if wanted.json_schema is None else wanted.json_schema.schema
            if given is None:
                raise InvalidRequestError(
                    "response_format of type json_schema has no schema",
                    code="missing_required_parameter",
                    param="response_format.json_schema.schema",
                )
            return OutputFormat("schema", schema=given)
        case ResponseFormat(type="gbnf" | "lark" | "grammar", grammar=grammar):
            if not grammar:
                raise InvalidRequestError(
                    f"response_format of type {wanted.type} has no grammar",
                    code="missing_required_parameter",
                    param="response_format.grammar",
                )
            return OutputFormat("lark" if wanted.type == "lark" else "gbnf", grammar=grammar)
    raise InvalidRequestError(
        f"response_format of type {shown(wanted.type)} is not known; use text, json_object, json_schema, gbnf or lark",
        code="invalid_value",
        param="response_format.type",
    )


def _thinking(request: ChatRequest) -> Thinking:
    """Every client has its own way to say it."""
    enabled, effort, budget = request.enable_thinking, request.reasoning_effort, request.thinking_budget
    if request.reasoning is not None:
        effort = effort or request.reasoning.effort
        budget = request.reasoning.max_tokens if budget is None else budget
        enabled = request.reasoning.enabled if enabled is None else enabled
    if request.thinking is not None:
        enabled = request.thinking.type != "disabled" if enabled is None else enabled
        budget = request.thinking.budget_tokens if budget is None else budget
    return thinking_of(effort, enabled=enabled, budget=budget)
