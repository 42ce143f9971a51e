"""What a reader made of an answer, put together again, and the ways to cut an answer into pieces."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from ds4trio.chat.dialects import Dialect, DialectReader
from ds4trio.chat.events import ContentDelta, OutputEvent, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from ds4trio.chat.messages import Tool

__all__ = ["Answer", "cut", "cuts", "gather", "read"]


@dataclass(frozen=True, slots=True)
class Answer:
    """Calls are (name, arguments as JSON text)."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()

    @property
    def parsed(self) -> tuple[str, str, list[tuple[str, object]]]:
        """Without white space at the edges, the arguments as values; text that is no JSON stays text."""
        calls = [(name, _value(arguments)) for name, arguments in self.calls]
        return self.content.strip(), self.reasoning.strip(), calls


def _value(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except ValueError:
        return f"no JSON: {arguments}"


def _is_object(arguments: str) -> bool:
    try:
        value = json.loads(arguments, parse_constant=_refuse)
    except RecursionError:
        return arguments.startswith("{") and arguments.endswith("}")
    except ValueError:
        return False
    json.dumps(value, ensure_ascii=False).encode()
    return isinstance(value, dict)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def gather(events: Iterable[OutputEvent]) -> Answer:
    """Put events together, asserting that they obey their grammar."""
    content, reasoning = "", ""
    calls: list[tuple[str, str]] = []
    open_call = False
    for event in events:
        match event:
            case ContentDelta(text) | ReasoningDelta(text):
                assert text
                assert not open_call
                if isinstance(event, ContentDelta):
                    content += text
                else:
                    reasoning += text
            case ToolCallStart(index, name):
                assert name
                assert (index, open_call) == (len(calls), False)
                calls.append((name, ""))
                open_call = True
            case ToolCallDelta(index, arguments):
                assert arguments
                assert (index, open_call) == (len(calls) - 1, True)
                calls[-1] = (calls[-1][0], calls[-1][1] + arguments)
            case ToolCallEnd(index, complete):
                assert (index, open_call) == (len(calls) - 1, True)
                assert complete == _is_object(calls[-1][1])
                open_call = False
    assert not open_call
    return Answer(content, reasoning, tuple(calls))


def read(dialect: Dialect, pieces: str | Sequence[str], *, tools: Sequence[Tool] = (), prompt_end: str = "") -> Answer:
    """Feed plain text to a new reader, whole if it is one string."""
    reader = DialectReader(dialect, tools=tools, prompt_end=prompt_end)
    events: list[OutputEvent] = []
    for piece in [pieces] if isinstance(pieces, str) else pieces:
        events += reader.feed(piece)
    return gather([*events, *reader.finish()])


def cut(text: str, sizes: Sequence[int]) -> list[str]:
    """``text`` in pieces of these sizes, again and again."""
    pieces = []
    start = turn = 0
    while start < len(text):
        size = sizes[turn % len(sizes)]
        pieces.append(text[start : start + size])
        start, turn = start + size, turn + 1
    return pieces


cuts = st.lists(st.integers(1, 12), min_size=1, max_size=8)
"""Sizes for `cut`."""
