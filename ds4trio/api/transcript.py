"""All of a choice so far, in order: for documents, for final events that repeat the whole answer, for the store."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ds4trio.chat import ContentDelta, OutputEvent, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from ds4trio.engine import TokenLogprob

__all__ = ["Call", "Content", "Reasoning", "Transcript"]


@dataclass(slots=True)
class Reasoning:
    """A stretch of reasoning."""

    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.parts)


@dataclass(slots=True)
class Content:
    """A stretch of the visible answer."""

    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.parts)


@dataclass(slots=True)
class Call:
    """A tool call; ``parts`` are the fragments of its arguments. It is ``complete`` once its end says so."""

    index: int
    name: str
    parts: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def arguments(self) -> str:
        """JSON text, an object where the call is complete."""
        return "".join(self.parts)


class Transcript:
    """Collects events into ``items``, the order kept, deltas of the same kind joined."""

    def __init__(self) -> None:
        self.items: list[Reasoning | Content | Call] = []
        self.logprobs: list[TokenLogprob] = []

    def add(self, events: Iterable[OutputEvent], logprobs: Iterable[TokenLogprob] = ()) -> None:
        """Take what a delta holds."""
        self.logprobs += logprobs
        for event in events:
            last = self.items[-1] if self.items else None
            match event:
                case ReasoningDelta(text):
                    if not isinstance(last, Reasoning):
                        self.items.append(last := Reasoning())
                    last.parts.append(text)
                case ContentDelta(text):
                    if not isinstance(last, Content):
                        self.items.append(last := Content())
                    last.parts.append(text)
                case ToolCallStart(index, name):
                    self.items.append(Call(index, name))
                case ToolCallDelta(_, arguments):
                    assert isinstance(last, Call), "a call's fragments follow its start"
                    last.parts.append(arguments)
                case ToolCallEnd(_, complete):
                    assert isinstance(last, Call), "a call's end follows its start"
                    last.complete = complete

    @property
    def content(self) -> str:
        """The visible answer, all stretches together."""
        return "".join(item.text for item in self.items if isinstance(item, Content))

    @property
    def reasoning(self) -> str:
        """The reasoning, all stretches together."""
        return "".join(item.text for item in self.items if isinstance(item, Reasoning))

    @property
    def calls(self) -> list[Call]:
        """The tool calls in order."""
        return [item for item in self.items if isinstance(item, Call)]

    @property
    def calls_whole(self) -> bool | None:
        """Whether all tool calls are complete; None where there are none."""
        return all(call.complete for call in self.calls) if self.calls else None
