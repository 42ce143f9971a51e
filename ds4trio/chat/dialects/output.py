"""What has been read, on its way to being events: the grammar of `ds4trio.chat.events` is kept here.

White space at the edge of reasoning or content is dropped if a marker stands next to it, and kept between two pieces
of text. Where no call can follow, that of content does not wait for what does: beside a prefill it would wait for
steps. Neighbouring fragments leave as one event. Special tokens, single characters inside this package (see
`reader`), become their texts again.
"""

import json
from collections.abc import Mapping
from typing import Literal

from ds4trio.chat.events import (
    ContentDelta,
    OutputEvent,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)

__all__ = ["Channel", "Output", "json_text"]

Channel = Literal["content", "reasoning"]


def json_text(text: str) -> str:
    """``text`` as the inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class _Text:
    """One channel: its white space that may turn out to be an edge, and whether a marker stands next to it."""

    __slots__ = ("edge", "space", "spoken")

    def __init__(self) -> None:
        self.space = ""
        self.spoken = False
        self.edge = False


class Output:
    """Collects events. ``specials`` maps the code points of special tokens to their texts; ``calls``: there may be."""

    def __init__(self, specials: Mapping[int, str], *, calls: bool) -> None:
        self._may_call = calls
        self._specials = dict(specials)
        self._json_specials = {code: json_text(text) for code, text in specials.items()}
        self._texts: dict[Channel, _Text] = {"content": _Text(), "reasoning": _Text()}
        self._events: list[OutputEvent] = []
        self._kind: Channel | Literal["arguments"] | None = None
        self._fragments: list[str] = []
        self._calls = 0
        self._empty = True
        self.calling = False
        """A call has started and not ended."""
        self.channel: Channel = "content"
        """Where text goes."""

    @property
    def fresh(self) -> bool:
        """Whether nothing but white space was said in the channel since its last marker."""
        return self._texts[self.channel].edge or not self._texts[self.channel].spoken

    def say(self, text: str) -> None:
        """Text of the current channel."""
        state = self._texts[self.channel]
        text = state.space + text
        if state.edge and not state.spoken:
            text = text.lstrip()
        waits = self._may_call or self.channel != "content" or not (state.spoken or text.strip())
        body = text.rstrip() if waits else text
        state.space = text[len(body) :]
        if body:
            state.spoken, state.edge = True, False
            self._add(self.channel, self.plain(body))

    def marker(self) -> None:
        """A marker was read: the white space before it may be an edge, and so may what follows."""
        for state in self._texts.values():
            state.edge = True

    def switch(self, channel: Channel) -> None:
        """A marker was read after which text goes to ``channel``."""
        self.marker()
        self.channel = channel

    def start(self, name: str) -> None:
        """A call begins."""
        self.marker()
        self._flush()
        self._events.append(ToolCallStart(self._calls, name))
        self.calling, self._empty = True, True

    def arguments(self, fragment: str) -> None:
        """A fragment of the call's arguments."""
        if fragment:
            self._empty = False
            self._add("arguments", fragment if fragment.isascii() else fragment.translate(self._json_specials))

    def end(self, *, complete: bool = True) -> None:
        """The call ends. A complete one, whose arguments are one object, gets the empty one if there are none."""
        if complete and self._empty:
            self.arguments("{}")
        self._flush()
        self._events.append(ToolCallEnd(self._calls, complete))
        self._calls += 1
        self.calling = False

    def close(self) -> None:
        """The answer ends: white space at its end is content unless a marker stands next to it."""
        for channel, state in self._texts.items():
            if state.space and not state.edge:
                self._add(channel, self.plain(state.space))

    def take(self) -> list[OutputEvent]:
        """The events since the last time."""
        self._flush()
        events, self._events = self._events, []
        return events

    def plain(self, text: str) -> str:
        """``text`` with special tokens spelled out."""
        return text if text.isascii() else text.translate(self._specials)

    def _add(self, kind: Channel | Literal["arguments"], text: str) -> None:
        if kind != self._kind:
            self._flush()
            self._kind = kind
        self._fragments.append(text)

    def _flush(self) -> None:
        if self._kind is None:
            return
        text = "".join(self._fragments)
        self._fragments.clear()
        if self._kind == "content":
            self._events.append(ContentDelta(text))
        elif self._kind == "reasoning":
            self._events.append(ReasoningDelta(text))
        else:
            self._events.append(ToolCallDelta(self._calls, text))
        self._kind = None
