"""What a conversation demands of its answer, and the grammar for it.

The grammar is built as if all schemas were good, and llguidance looks at the whole once. Only if it refuses, every
schema is looked at alone: the fault of a strict one is the client's to mend, other tools get arguments without one.
"""

import dataclasses
from collections.abc import Mapping

from llguidance.gbnf_to_lark import gbnf_to_lark

from ds4trio.chat.dialects.rows import Dialect
from ds4trio.chat.grammar.answer import Reasoning, answer
from ds4trio.chat.grammar.calls import Callee, Calls, Obedience, tool_error
from ds4trio.chat.grammar.errors import UnenforceableError
from ds4trio.chat.grammar.harmony import harmony_answer
from ds4trio.chat.grammar.schemas import ANY_OBJECT, Schema, Style, refusal
from ds4trio.chat.grammar.source import Source
from ds4trio.chat.messages import Conversation, OutputFormat, Tool

__all__ = ["grammar_for"]


def grammar_for(
    conversation: Conversation,
    dialect: Dialect,
    *,
    special_tokens: Mapping[str, int],
    reasoning: Reasoning,
    prompt_end: str = "",
) -> str | None:
    """The grammar that an answer has to obey, for `GenerationRequest.grammar`; None if it may be anything.

    ``special_tokens`` are the vocabulary's, text → id. ``reasoning`` says whether the text begins within the reasoning
    (``open``), may begin it (``may_begin``) or cannot (``closed``). ``prompt_end`` are the last characters of the
    rendered prompt, which may have begun a call. Takes about a millisecond, and as long again for every 5 KB of
    schemas. Raises `UnenforceableError`.
    """
    begin = dialect.call_begin.strip()
    demands = _demands(conversation, begun=begin if begin and prompt_end.rstrip().endswith(begin) else "")
    if demands is None:
        return None
    markers = dialect.special_markers(special_tokens)
    tokens = {text: id for text, id in special_tokens.items() if text in markers}
    try:
        grammar = _grammar(demands, dialect, tokens, reasoning)
        if reason := refusal(grammar):
            grammar = _grammar(_without_faults(demands), dialect, tokens, reasoning)
            reason = refusal(grammar)
    except RecursionError:
        reason = "a schema is nested too deeply"
    if reason:
        param = "tools" if demands.output.kind == "text" else "response_format"
        raise UnenforceableError(f"the grammar for this answer cannot be used: {reason}", param=param)
    return grammar


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Demands:
    """What has to be.

    ``tools`` are those that may be called, ``known`` all that the reader knows. ``begun`` is the marker of a call
    that the prompt has written already.
    """

    tools: tuple[Callee, ...]
    known: tuple[str, ...]
    must_call: bool
    several: bool
    output: OutputFormat
    begun: str


def _demands(conversation: Conversation, begun: str) -> _Demands | None:
    choice, tools = conversation.tool_choice, conversation.tools
    allowed = () if choice.mode == "none" else tuple(_callees(conversation))
    if choice.mode == "required" and not allowed:
        raise UnenforceableError("a tool has to be called, but there is none that may be", param="tool_choice")
    anything = conversation.output.kind == "text" and choice.mode != "required"
    limited = choice.mode == "auto" and (len(allowed) < len(tools) or any(one.obedience == "strict" for one in allowed))
    if anything and not limited:
        return None
    return _Demands(
        tools=allowed,
        known=tuple(tool.name for tool in tools),
        must_call=choice.mode == "required",
        several=conversation.parallel_tool_calls,
        output=conversation.output,
        begun=begun,
    )


def _callees(conversation: Conversation) -> list[Callee]:
    names = conversation.tool_choice.names
    must = conversation.tool_choice.mode == "required"

    def obedience(tool: Tool) -> Obedience:
        return "strict" if tool.strict else "lenient" if must else "free"

    return [
        Callee(tool, f"tools[{index}]", obedience(tool))
        for index, tool in enumerate(conversation.tools)
        if not names or tool.name in names
    ]


def _grammar(demands: _Demands, dialect: Dialect, tokens: Mapping[str, int], reasoning: Reasoning) -> str:
    source = Source(tokens)
    # Two ways to skip white space cannot both begin with the same bracket.
    style = Style.COMPACT if dialect.bare and demands.tools else Style.PRETTY
    content = None if demands.must_call else _content(demands.output, source, style)
    if dialect.codec == "harmony":
        start = harmony_answer(
            source, demands.tools, content, must_call=demands.must_call, thinking=reasoning == "open"
        )
    else:
        start = answer(
            source,
            dialect,
            calls=Calls(source, dialect, demands.tools, several=demands.several) if demands.tools else None,
            content=content,
            must_call=demands.must_call,
            known=demands.known,
            reasoning=reasoning,
            begun=demands.begun,
        )
    return source.lark(start)


def _content(output: OutputFormat, source: Source, style: Style) -> str | None:
    match output.kind:
        case "text":
            return None
        case "gbnf" | "lark":
            return source.embed(_lark(output))
        case "json":
            return ANY_OBJECT.json(style)
        case "schema":
            return _schema(output).json(style)


def _schema(output: OutputFormat) -> Schema:
    return Schema(output.schema, output.schema if isinstance(output.schema, Mapping) else {})


def _lark(output: OutputFormat) -> str:
    if output.kind == "lark":
        return output.grammar
    try:
        return str(gbnf_to_lark(output.grammar))
    except Exception as error:  # the converter raises bare exceptions for what it does not understand
        raise UnenforceableError(f"the grammar is not valid GBNF: {error}", param="response_format") from None


def _without_faults(demands: _Demands) -> _Demands:
    """The same demands without schemas that llguidance refuses. Raises `UnenforceableError` if they have to stay."""
    output = demands.output
    if output.kind == "schema" and (fault := _schema(output).fault()):
        message = f"the schema of the response format cannot be enforced: {fault}; change that part"
        raise UnenforceableError(message, param="response_format")
    if output.kind in ("gbnf", "lark"):
        alone = Source({})
        if reason := refusal(alone.lark(alone.embed(_lark(output)))):
            raise UnenforceableError(f"the grammar cannot be used: {reason}", param="response_format")
    return dataclasses.replace(demands, tools=tuple(map(_without_fault, demands.tools)))


def _without_fault(tool: Callee) -> Callee:
    fault = "" if tool.obedience == "free" else tool.schema.fault()
    if fault and tool.obedience == "strict":
        raise tool_error(tool, fault)
    return dataclasses.replace(tool, obedience="free") if fault else tool
