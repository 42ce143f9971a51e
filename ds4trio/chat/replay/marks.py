"""Marks that go through a template with a message, to tell what of the text comes from it.

A mark is the number of its message between noncharacters of Unicode, which are made for such internal use. Without
its marks a rendered text is the text that would have come out without them: they stand where no template looks, within
white space at the edges, behind a key or within a value, and never alone.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ds4trio.chat.messages import Message, ToolCall

__all__ = ["Marks", "marked", "unmarked"]

# `prepare` and `spelling` have the ones before these.
_OPEN, _CLOSE = "\ufdd2", "\ufdd3"
_THOUGHT, _SAID, _END = "t", "s", "e"
_MARK = re.compile(f"([{_THOUGHT}{_SAID}{_END}])([0-9]{{1,9}})")


@dataclass(frozen=True, slots=True)
class Marks:
    """Where in a text its parts are, by the number of the message: each mapping has those that came out.

    ``thoughts``: where its reasoning begins. ``said``: where its content begins, if it also calls. ``ends``: where what
    it says or calls last ends.
    """

    thoughts: Mapping[int, int]
    said: Mapping[int, int]
    ends: Mapping[int, int]

    def first(self, number: int) -> int:
        """Where the first mark of a message is that came out; there is one."""
        return min(marks[number] for marks in (self.thoughts, self.said, self.ends) if number in marks)


def marked(number: int, message: Message, *, json_text: bool) -> Message:
    """An assistant's message with marks; ``json_text`` arguments reach the text as they are.

    Raises `ValueError` or `RecursionError` for arguments that are no JSON.
    """
    content, calls = message.content, message.tool_calls
    end = _mark(_END, number)
    if calls:
        content = _at_the_start(content, _mark(_SAID, number))
        calls = (*calls[:-1], _marked_call(calls[-1], end, json_text=json_text))
    else:
        content = _at_the_end(content, end)
    reasoning = _at_the_start(message.reasoning, _mark(_THOUGHT, number))
    return replace(message, content=content, reasoning=reasoning, tool_calls=calls)


def unmarked(text: str) -> tuple[str, Marks]:
    """The text without marks, and where they were. Of marks that came out twice the first one counts."""
    found: dict[str, dict[int, int]] = {_THOUGHT: {}, _SAID: {}, _END: {}}
    first, *others = text.split(_OPEN)
    pieces = [first]
    at = len(first)
    for other in others:
        name, _, piece = other.partition(_CLOSE)
        if mark := _MARK.fullmatch(name):
            found[mark[1]].setdefault(int(mark[2]), at)
        else:  # somebody else's
            piece = _OPEN + other
        pieces.append(piece)
        at += len(piece)
    return "".join(pieces), Marks(found[_THOUGHT], found[_SAID], found[_END])


def _mark(kind: str, number: int) -> str:
    return f"{_OPEN}{kind}{number}{_CLOSE}"


def _at_the_start(text: str, mark: str) -> str:
    said = text.lstrip()
    return text[: len(text) - len(said)] + mark + said if said else text


def _at_the_end(text: str, mark: str) -> str:
    said = text.rstrip()
    return said + mark + text[len(said) :]


def _marked_call(call: ToolCall, mark: str, *, json_text: bool) -> ToolCall:
    text = call.arguments.strip() or "{}"
    if json_text:
        return replace(call, arguments=text + mark)
    arguments = json.loads(text)
    if not isinstance(arguments, dict):
        raise ValueError("arguments are an object")
    if not arguments:
        return replace(call, name=call.name + mark)
    key, value = arguments.popitem()
    if isinstance(value, str):
        arguments[key] = _at_the_end(value, mark)
    else:
        arguments[key + mark] = value
    return replace(call, arguments=json.dumps(arguments, ensure_ascii=False))
