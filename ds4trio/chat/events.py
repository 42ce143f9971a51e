"""What a model's raw text turns out to be: reasoning, content, tool calls. Values only.

A `Reader` gets the text as it is decoded and says what it is, as soon as that is certain. Every stream of events obeys
this grammar: reasoning and content deltas in any order, and calls one after the other, each a `ToolCallStart`, any
number of `ToolCallDelta` of the same index, a `ToolCallEnd`; indexes count from 0. No event is empty, and every text
can be encoded as UTF-8.
"""

from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "ContentDelta",
    "OutputEvent",
    "Reader",
    "ReasoningDelta",
    "TextReader",
    "ToolCallDelta",
    "ToolCallEnd",
    "ToolCallStart",
]


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """A piece of the visible answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call of tool ``name`` begins; its arguments follow."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A fragment of the arguments. All fragments of a complete call together are one JSON object."""

    index: int
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """Nothing more of the call follows.

    It is ``complete`` if its arguments are one JSON object: not if the answer ended in the middle of them, nor if the
    model wrote what cannot be read.
    """

    index: int
    complete: bool = True


OutputEvent = ReasoningDelta | ContentDelta | ToolCallStart | ToolCallDelta | ToolCallEnd


class Reader(Protocol):
    """Reads the raw text of one answer. Never raises: what it cannot read is content."""

    def feed(self, text: str, *, special: bool = False) -> list[OutputEvent]:
        """Take a piece of text and say what is certain now. ``special``: it is one special token, see `TextDelta`."""
        ...

    def finish(self) -> list[OutputEvent]:
        """The answer is complete: say what the rest is. A call that was cut off gets its end here, too."""
        ...

    @property
    def reasoning(self) -> bool:
        """Whether the text read so far ends within the reasoning."""
        ...


class TextReader:
    """Implements `Reader` for plain text: all of it is content."""

    reasoning = False

    def feed(self, text: str, *, special: bool = False) -> list[OutputEvent]:
        """The text itself; special tokens are not part of it."""
        return [ContentDelta(text)] if text and not special else []

    def finish(self) -> list[OutputEvent]:
        """Nothing is held back."""
        return []
