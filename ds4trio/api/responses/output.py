"""The model's events → output items.

`Output` decides when an item begins and ends and passes on the stream events that follow; a document uses the same fold
and only looks at its end, so the two can never disagree.

Codex runs a tool as soon as it sees ``output_item.done`` of its call, whatever the status. A call that was cut off is
therefore never announced as done, or half a command might run: it stays open, and the final response shows it with the
status ``incomplete``.
"""

from collections.abc import Iterator
from typing import Any, Literal

from ds4trio.api.answer import Delta
from ds4trio.api.responses.output_items import (
    AnyItem,
    CallItem,
    Event,
    MessageItem,
    Presentation,
    ReasoningItem,
    call_item,
)
from ds4trio.chat import ContentDelta, Message, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from ds4trio.engine import TokenLogprob

__all__ = ["Output"]


class Output:
    """The items of one answer, in order; at most the last one is open."""

    def __init__(self, presentation: Presentation) -> None:
        self._presentation = presentation
        self._items: list[AnyItem] = []
        self._logprobs: list[TokenLogprob] = []

    def take(self, delta: Delta) -> Iterator[Event]:
        """Fold a delta in.

        Logprobs come by delta and not by event. They go to the delta's first text, or, while the text is held back,
        to that of the next delta with events; those of reasoning and calls have no place in this API.
        """
        self._logprobs += delta.logprobs
        for event in delta.events:
            match event:
                case ContentDelta(text):
                    message = self._current
                    if not isinstance(message, MessageItem):
                        yield from self._settle()
                        message = MessageItem(len(self._items))
                        yield from self._open(message)
                    logprobs, self._logprobs = self._logprobs, []
                    yield message.append(text, logprobs)
                case ReasoningDelta(text):
                    thought = self._current
                    if not isinstance(thought, ReasoningItem):
                        yield from self._settle()
                        thought = ReasoningItem(len(self._items), self._presentation)
                        yield from self._open(thought)
                    yield thought.append(text)
                case ToolCallStart(_, name):
                    yield from self._settle()
                    yield from self._open(call_item(len(self._items), name, self._presentation))
                case ToolCallDelta(_, arguments):
                    yield from self._called().append(arguments)
                case ToolCallEnd(_, complete):
                    call = self._called()
                    if complete:
                        yield from call.closing("completed")
        if delta.events:
            self._logprobs = []

    def finish(self, reason: Literal["stop", "length"]) -> Iterator[Event]:
        """The answer is complete, or the token limit cut its last item off."""
        yield from self._settle("completed" if reason == "stop" else "incomplete")

    def abandon(self) -> None:
        """Nothing more comes; an open item is incomplete, and no event says so."""
        if (item := self._current) is not None:
            item.status = "incomplete"

    def values(self) -> list[dict[str, Any]]:
        """All items that are not open."""
        return [item.value() for item in self._items if item.status != "in_progress"]

    @property
    def incomplete(self) -> bool:
        """Whether an item was cut off."""
        return any(item.status == "incomplete" for item in self._items)

    @property
    def item_ids(self) -> tuple[str, ...]:
        """The ids of all items."""
        return tuple(item.id for item in self._items)

    def message(self) -> Message:
        """The answer as a turn of the conversation, without a call that nobody can answer."""
        return Message(
            "assistant",
            "".join(item.text for item in self._items if isinstance(item, MessageItem)),
            "".join(item.text for item in self._items if isinstance(item, ReasoningItem)),
            tuple(item.call() for item in self._items if isinstance(item, CallItem) and item.status == "completed"),
        )

    @property
    def _current(self) -> AnyItem | None:
        """The open item."""
        return self._items[-1] if self._items and self._items[-1].status == "in_progress" else None

    def _called(self) -> CallItem:
        call = self._current
        assert isinstance(call, CallItem), "a call's fragments follow its start"
        return call

    def _open(self, item: AnyItem) -> Iterator[Event]:
        self._items.append(item)
        yield from item.opening()

    def _settle(self, status: Literal["completed", "incomplete"] = "completed") -> Iterator[Event]:
        """Close the open item, if there is one. A call that is still open was cut off."""
        item = self._current
        if isinstance(item, CallItem):
            self.abandon()
        elif item is not None:
            yield from item.closing(status)
