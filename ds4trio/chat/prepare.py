"""From a conversation to the messages and variables that one model's template takes, and on to the prompt.

A pipeline of small steps over `Message` values; only the last one writes the dicts that templates read. What a template
cannot write is written in another way, never left out silently: instructions and results become part of a user turn,
calls become text. Nothing is looked up by a model's name, all differences come from `Capabilities`.

Every step is linear in the number of messages, and no text is copied more than once or twice: a conversation of
5 MB costs milliseconds here. What a template refuses in the end is `TemplateFailedError`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from ds4trio.chat.capabilities import Capabilities
from ds4trio.chat.messages import Conversation, Message, ToolCall
from ds4trio.chat.template import ChatTemplate, TemplateFailedError, go_on
from ds4trio.chat.thinking import is_off, thinking_variables
from ds4trio.chat.tools import arguments_of, declaration, hermes, pythonic, tools_text

__all__ = ["Prepared", "is_begun", "prepare", "render"]

_GAP = "\n\n"
# Stands between two turns of the user where a template wants the assistant's in between.
_FILLER = Message("assistant", "OK.")
# Stands behind the text that is to be continued, to tell it from what the template writes behind it: a noncharacter.
_END = "\ufdd1"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a template is rendered with: OpenAI-shaped messages, and the other names, ``tools`` among them."""

    messages: list[dict[str, Any]]
    variables: dict[str, object]


def render(
    template: ChatTemplate,
    capabilities: Capabilities,
    conversation: Conversation,
    *,
    think_start: str = "",
    think_end: str = "",
    check: Callable[[], None] = go_on,
) -> str:
    """The text of the prompt. Costs what `ChatTemplate.render` costs, so: in a thread.

    A conversation that ends with an assistant's text is to be continued: the prompt ends with that very text.
    ``think_start`` and ``think_end`` are the model's marks around its reasoning: where reasoning is off but the
    template opens it nevertheless, the prompt closes it again. ``check`` is called now and then and may raise to give
    up. Raises `TemplateFailedError`.
    """
    if is_begun(conversation):
        *others, last = conversation.messages
        ended = (*others, replace(last, content=last.content.rstrip() + _END))
        whole = _rendered(template, capabilities, replace(conversation, messages=ended), check, begun=True)
        end = whole.rfind(_END)
        if end >= 0:
            return whole[:end]
    text = _rendered(template, capabilities, conversation, check)
    opening = think_start.rstrip()
    if is_off(conversation.thinking) and opening and text.rstrip().endswith(opening):
        return f"{text}\n{think_end.strip()}{_GAP}" if text.endswith("\n") else text + think_end.strip()
    return text


def is_begun(conversation: Conversation) -> bool:
    """Whether the conversation ends with an assistant's text, which is to be continued."""
    last = conversation.messages[-1] if conversation.messages else None
    return last is not None and last.role == "assistant" and not last.tool_calls and bool(last.content.strip())


def _rendered(
    template: ChatTemplate,
    capabilities: Capabilities,
    conversation: Conversation,
    check: Callable[[], None],
    *,
    begun: bool = False,
) -> str:
    try:
        prepared = prepare(conversation, capabilities)
    except RecursionError:
        raise TemplateFailedError("arguments or schemas are nested too deeply") from None
    variables = {**prepared.variables, "add_generation_prompt": False} if begun else prepared.variables
    return template.render(prepared.messages, check, **variables)


def prepare(conversation: Conversation, capabilities: Capabilities) -> Prepared:
    """Messages and variables as the template wants them; takes a few µs a message.

    Raises `RecursionError` for JSON that is too deep to be written, and nothing else.
    """
    can = capabilities
    leading, rest = _led(conversation.messages)
    leading = _instructions(leading, conversation, can)
    turns: Iterable[Message] = _exchanges(rest)
    if not can.parallel_calls:
        turns = _single_calls(turns)
    if not can.calls:
        turns = (_calls_as_text(turn, can) for turn in turns)
    if can.results == "user":
        turns = _results_as_user(turns)
    if leading and can.instructions == "user":
        turns = chain((Message("system", leading),), turns)
    if can.instructions == "user" or not can.late_instructions or can.alternation:
        turns = _joined(turns, alternation=can.alternation)
    if can.alternation:
        turns = _alternating(turns)
    turns = list(turns)
    if can.needs_user and not any(turn.role == "user" for turn in turns):
        turns.insert(0, Message("user"))
    if leading and can.instructions != "user":
        turns.insert(0, Message(can.instructions, leading))
    return Prepared(_Writer(can).write(turns), _variables(conversation, can))


# --- instructions -----------------------------------------------------------------------------------------------------


def _led(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """The text of all instructions that lead the conversation, and the rest; whoever gives instructions is system."""
    turns = [replace(message, role="system") if message.role == "developer" else message for message in messages]
    first = next((index for index, turn in enumerate(turns) if turn.role != "system"), len(turns))
    return _GAP.join(turn.content for turn in turns[:first] if turn.content), turns[first:]


def _instructions(text: str, conversation: Conversation, can: Capabilities) -> str:
    """With our own text about the tools where the template has none, and with the word that turns reasoning off.

    The tools come first: what a client changes in its own text then leaves the longest prefix.
    """
    if conversation.tools and not can.tools:
        text = _GAP.join((tools_text(conversation.tools, can.call_example), text or can.default_instructions)).rstrip()
    if can.text_switch and is_off(conversation.thinking):
        text = f"{text}\n{can.text_switch}".lstrip()
    return text


# --- calls and results ------------------------------------------------------------------------------------------------


def _exchanges(turns: Iterable[Message]) -> Iterator[Message]:
    """Each turn that calls, then at once its results in the order of the calls, each with id and name of its call.

    A result belongs to a call of the last assistant's turn: by its id, else to the first one without a result. One
    that belongs nowhere is told by the user.
    """
    caller: Message | None = None
    others: list[Message] = []
    for turn in turns:
        if turn.role == "assistant":
            yield from _settled(caller, others)
            caller, others = turn, []
        else:
            others.append(turn)
    yield from _settled(caller, others)


def _settled(caller: Message | None, others: list[Message]) -> Iterator[Message]:
    calls: tuple[ToolCall, ...] = ()
    if caller is not None:
        yield caller
        calls = caller.tool_calls
    numbers = {call.id: number for number, call in reversed(list(enumerate(calls)))}
    answers: dict[int, Message] = {}
    rest: list[Message] = []
    for turn in others:
        number = numbers.get(turn.tool_call_id or "") if turn.role == "tool" else None
        if number is None or number in answers:
            rest.append(turn)
        else:
            answers[number] = turn
    unanswered = [number for number in range(len(calls)) if number not in answers]
    told: list[Message] = []
    for turn in rest:
        if turn.role != "tool":
            told.append(turn)
        elif unanswered:
            answers[unanswered.pop(0)] = turn
        else:
            told.append(Message("user", _response(turn)))
    for number, call in enumerate(calls):
        if number in answers:
            yield replace(answers[number], tool_call_id=call.id, name=call.name)
    yield from told


def _single_calls(turns: Iterable[Message]) -> Iterator[Message]:
    """Parallel calls one by one, each with its result; text and reasoning stay with the first."""
    pending: list[Message] = []
    for turn in turns:
        if turn.role == "tool":
            while pending and pending[0].tool_calls[0].id != turn.tool_call_id:
                yield pending.pop(0)
            if pending:
                yield pending.pop(0)
            yield turn
            continue
        yield from pending
        pending = [Message("assistant", tool_calls=(call,)) for call in turn.tool_calls]
        if pending:
            pending[0] = replace(turn, tool_calls=turn.tool_calls[:1])
        else:
            yield turn
    yield from pending


def _calls_as_text(turn: Message, can: Capabilities) -> Message:
    """The calls in the form that the instructions tell the model to use."""
    if not turn.tool_calls:
        return turn
    calls = pythonic(turn.tool_calls) if can.call_text == "pythonic" else hermes(turn.tool_calls)
    return replace(turn, content=f"{turn.content}\n{calls}" if turn.content else calls, tool_calls=())


def _results_as_user(turns: Iterable[Message]) -> Iterator[Message]:
    """Results that follow each other are one turn of the user."""
    results: list[str] = []
    for turn in turns:
        if turn.role == "tool":
            results.append(_response(turn))
            continue
        if results:
            yield Message("user", "\n".join(results))
            results = []
        yield turn
    if results:
        yield Message("user", "\n".join(results))


def _response(result: Message) -> str:
    return f"<tool_response>\n{result.content}\n</tool_response>"


# --- who speaks when --------------------------------------------------------------------------------------------------


def _joined(turns: Iterable[Message], *, alternation: bool) -> Iterator[Message]:
    """Instructions as part of the user's turn next to them; with alternation all neighbours of one role as one turn."""
    group: list[Message] = []
    for turn in turns:
        if group and not _joinable(group[-1], turn, alternation=alternation):
            yield _one(group)
            group = []
        group.append(turn)
    if group:
        yield _one(group)


def _joinable(left: Message, right: Message, *, alternation: bool) -> bool:
    if left.role == right.role:
        return left.role == "system" or (alternation and left.role != "tool" and not left.tool_calls)
    return {left.role, right.role} == {"system", "user"}


def _one(group: list[Message]) -> Message:
    last = group[-1]
    if len(group) == 1 and last.role != "system":
        return last
    return replace(
        last,
        role="user" if last.role == "system" else last.role,
        content=_GAP.join(turn.content for turn in group if turn.content),
        reasoning=_GAP.join(turn.reasoning for turn in group if turn.reasoning),
    )


def _alternating(turns: Iterable[Message]) -> Iterator[Message]:
    """With what is missing for the user to be first and for nobody to speak twice; calls and results do not count."""
    last = "assistant"
    for turn in turns:
        if turn.role in ("user", "assistant") and not turn.tool_calls:
            if turn.role == last:
                yield Message("user") if last == "assistant" else _FILLER
            last = turn.role
        yield turn


# --- dicts ------------------------------------------------------------------------------------------------------------


class _Writer:
    """Writes turns as dicts in the shape of OpenAI's messages. One for each conversation: it counts the calls."""

    def __init__(self, can: Capabilities) -> None:
        self._can = can
        self._ids: dict[str, str] = {}
        self._calls = 0

    def write(self, turns: Iterable[Message]) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        for turn in turns:
            if turn.role == "assistant":
                messages.extend(self._assistant(turn))
            elif turn.role != "tool":
                messages.append({"role": turn.role, "content": self._content(turn.content)})
            elif self._can.results == "tool":
                messages.append(
                    {
                        "role": "tool",
                        "tool_call_id": self._ids.get(turn.tool_call_id or "", turn.tool_call_id),
                        "name": turn.name,
                        "content": self._content(turn.content),
                    }
                )
            else:
                # `_exchanges` has put every result right behind its call.
                responses = messages[-1].setdefault("tool_responses", [])
                responses.append({"name": turn.name, "response": turn.content})
        return messages

    def _content(self, text: str) -> object:
        return [{"type": "text", "text": text}] if self._can.parts else text

    def _assistant(self, turn: Message) -> Iterator[dict[str, Any]]:
        can = self._can
        text, reasoning = turn.content, turn.reasoning
        if turn.tool_calls and text:
            if can.preamble == "before":
                yield {"role": "assistant", "content": self._content(text)}
                text = ""
            elif can.preamble == "reasoning":
                text, reasoning = "", f"{reasoning}{_GAP}{text}".lstrip()
            elif can.preamble == "nowhere":
                text = ""
        message: dict[str, Any] = {"role": "assistant", "content": self._content(text)}
        if turn.tool_calls:
            if not text:
                message["content"] = can.empty_content
            self._ids = {}
            message["tool_calls"] = [self._call(number, call) for number, call in enumerate(turn.tool_calls)]
        if reasoning and can.reasoning == "content":
            parts = [{"type": "thinking", "thinking": reasoning}]
            message["content"] = [*parts, {"type": "text", "text": text}] if text else parts
        elif reasoning and can.reasoning:
            message[can.reasoning] = reasoning
        yield message

    def _call(self, number: int, call: ToolCall) -> dict[str, Any]:
        if self._can.arguments == "object":
            arguments: object = arguments_of(call)
        else:
            arguments = call.arguments if call.arguments.strip() else "{}"
        return {
            "type": "function",
            "id": self._ids.setdefault(call.id, self._id(number, call)),
            "function": {"name": call.name, "arguments": arguments},
        }

    def _id(self, number: int, call: ToolCall) -> str:
        count = self._calls
        self._calls += 1
        match self._can.call_ids:
            case "given":
                return call.id
            case "nine":
                if len(call.id) == 9 and call.id.isalnum():
                    return call.id
                return hashlib.sha256(call.id.encode("utf-8", "replace")).hexdigest()[:9]
            case "counted":
                return f"functions.{call.name}:{count}"
            case "counted_in_turn":
                return f"functions.{call.name}:{number}"


def _variables(conversation: Conversation, can: Capabilities) -> dict[str, object]:
    variables: dict[str, object] = {"tools": [] if can.empty_tools else None}
    if conversation.tools and can.tools and not can.functions:
        variables["tools"] = [
            {"type": "function", "function": declaration(tool, simple=can.simple_schemas)}
            for tool in conversation.tools
        ]
    if can.functions:
        declarations = [declaration(tool) for tool in conversation.tools]
        variables["functions"] = json.dumps(declarations, ensure_ascii=False, indent=2)
    variables.update(thinking_variables(conversation.thinking, can))
    variables.update(conversation.variables)
    return variables
