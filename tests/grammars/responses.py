"""The grammar of a Responses stream, written down from OpenAI's reference, independently of what makes the stream.

`check_responses_stream` takes the bytes of a whole stream and fails on the first thing that a client could stumble
over. Comments may stand anywhere.
"""

import json
from collections.abc import Iterator
from typing import Any

__all__ = ["check_responses_stream", "sse_events"]

Event = dict[str, Any]

TERMINAL = {
    "response.completed": {"completed"},
    "response.incomplete": {"incomplete"},
    "response.failed": {"failed", "cancelled"},
}
LIFECYCLE = {"response.created", "response.in_progress", "response.queued", *TERMINAL}
# Kind of item → the events of its pieces, of their end, and the member of the end that repeats them all.
PIECES = {
    "response.output_text.delta": ("message", "response.output_text.done", "text"),
    "response.reasoning_text.delta": ("reasoning", "response.reasoning_text.done", "text"),
    "response.reasoning_summary_text.delta": ("reasoning", "response.reasoning_summary_text.done", "text"),
    "response.function_call_arguments.delta": ("function_call", "response.function_call_arguments.done", "arguments"),
    "response.custom_tool_call_input.delta": ("custom_tool_call", "response.custom_tool_call_input.done", "input"),
}
ENDS = {end: (kind, delta, member) for delta, (kind, end, member) in PIECES.items()}
PARTS = {
    "response.content_part.added": "content_index",
    "response.content_part.done": "content_index",
    "response.reasoning_summary_part.added": "summary_index",
    "response.reasoning_summary_part.done": "summary_index",
}
PART_TYPES = {
    "response.output_text.delta": "output_text",
    "response.reasoning_text.delta": "reasoning_text",
    "response.reasoning_summary_text.delta": "summary_text",
}


def sse_events(body: bytes) -> Iterator[Event]:
    """The events of a stream; every block is comments, or one event with one line of data."""
    assert body.endswith(b"\n\n"), "the last event is cut off"
    for block in body[:-2].split(b"\n\n"):
        lines = [line for line in block.split(b"\n") if not line.startswith(b":")]
        if not lines:
            continue
        assert len(lines) == 2, block
        name, data = lines
        assert name.startswith(b"event: "), block
        assert data.startswith(b"data: "), block
        event = json.loads(data.removeprefix(b"data: "))
        assert event["type"] == name.removeprefix(b"event: ").decode()
        yield event


def check_responses_stream(body: bytes) -> dict[str, Any]:
    """Assert the whole grammar; returns the final response object."""
    events = list(sse_events(body))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert [event["type"] for event in events].count("response.created") == 1
    assert events[-1]["type"] in TERMINAL
    assert not any(event["type"] in TERMINAL for event in events[:-1])
    first, last = events[0]["response"], events[-1]["response"]
    assert first["status"] == "in_progress"
    assert first["output"] == []
    if last["status"] in ("completed", "incomplete"):
        assert events[1]["type"] == "response.in_progress"
    stream = _Stream(first)
    for event in events[1:-1]:
        stream.take(event)
    stream.finish(events[-1]["type"], last)
    return dict(last)


class _Item:
    """One output item as the events tell of it."""

    def __init__(self, item: Event) -> None:
        self.added = item
        self.done: Event | None = None
        self.pieces: list[str] = []
        self.logprobs: list[Any] = []
        self.text: str | None = None
        self.opened: Event | None = None
        self.closed: Event | None = None

    @property
    def kind(self) -> str:
        return str(self.added["type"])

    @property
    def abandoned(self) -> bool:
        """Whether this can be a call of which nothing more comes."""
        return self.kind.endswith("_call") and self.done is None and self.text is None

    def check_end(self, final: Event) -> None:
        """An item that was never done."""
        assert final["status"] == "incomplete"
        assert (final["id"], final["type"]) == (self.added["id"], self.kind)
        if self.kind != "local_shell_call":
            assert _text(final) == "".join(self.pieces)


class _Stream:
    """What was said so far."""

    def __init__(self, response: Event) -> None:
        self._frame = {name: value for name, value in response.items() if name not in ("output", "status")}
        self._items: list[_Item] = []

    def take(self, event: Event) -> None:
        kind = event["type"]
        if kind in LIFECYCLE:
            self._alive(event["response"])
        elif kind == "response.output_item.added":
            self._added(event)
        elif kind == "response.output_item.done":
            self._done(event)
        elif kind in PARTS:
            self._part(event)
        elif kind in PIECES:
            self._piece(event)
        else:
            assert kind in ENDS, f"unknown event {kind}"
            self._end(event)

    def finish(self, kind: str, response: Event) -> None:
        assert response["status"] in TERMINAL[kind]
        assert (response["error"] is not None) == (kind == "response.failed")
        assert (response["incomplete_details"] is not None) == (kind == "response.incomplete")
        assert (response["usage"] is None) == (kind == "response.failed")
        self._same_frame(response, but={"error", "incomplete_details", "usage"})
        assert len(response["output"]) == len(self._items)
        for index, (item, final) in enumerate(zip(self._items, response["output"], strict=True)):
            if item.done is not None:
                assert final == item.done
                continue
            assert kind != "response.completed", "a complete response has no open items"
            last = index == len(self._items) - 1
            assert item.abandoned or (last and kind == "response.failed"), "only a call that was cut off stays open"
            item.check_end(final)

    def _alive(self, response: Event) -> None:
        assert response["status"] == "in_progress"
        known = self._items if self._items and self._items[-1].done is not None else self._items[:-1]
        for item, value in zip(known, response["output"], strict=True):
            if item.done is not None:
                assert value == item.done
            else:
                item.check_end(value)
        self._same_frame(response, but=set())

    def _same_frame(self, response: Event, but: set[str]) -> None:
        for name, value in self._frame.items():
            assert name in but or response[name] == value, name

    def _added(self, event: Event) -> None:
        item = event["item"]
        assert event["output_index"] == len(self._items)
        assert all(earlier.done is not None or earlier.abandoned for earlier in self._items), "two items are open"
        assert item["status"] == "in_progress"
        assert item["id"] not in [earlier.added["id"] for earlier in self._items]
        if item["type"] != "local_shell_call":
            assert _text(item) == ""
        self._items.append(_Item(item))

    def _open(self, event: Event) -> _Item:
        assert event["output_index"] == len(self._items) - 1
        item = self._items[-1]
        assert item.done is None, "an item that is done changes"
        assert event.get("item_id", item.added["id"]) == item.added["id"]
        return item

    def _done(self, event: Event) -> None:
        item, final = self._open(event), event["item"]
        assert final["status"] in ("completed", "incomplete")
        constant = {"id", "type", "call_id", "name", "namespace", "role"}
        assert {k: v for k, v in final.items() if k in constant} == {
            k: v for k, v in item.added.items() if k in constant
        }
        if item.kind.endswith("_call"):
            assert final["status"] == "completed", "clients run a call that is done"
        if item.kind != "local_shell_call":
            assert item.text is not None, "an item is done before its text"
            assert _text(final) == item.text
        if item.kind in ("message", "reasoning"):
            assert item.closed is not None
            assert item.closed in (final.get("content") or []) + (final.get("summary") or [])
        item.done = final

    def _part(self, event: Event) -> None:
        item = self._open(event)
        assert item.kind in ("message", "reasoning")
        assert event[PARTS[event["type"]]] == 0
        if event["type"].endswith("added"):
            assert item.opened is None
            assert event["part"]["text"] == ""
            item.opened = event["part"]
        else:
            assert item.closed is None
            assert item.opened is not None
            assert event["part"]["type"] == item.opened["type"]
            assert event["part"]["text"] == item.text
            item.closed = event["part"]

    def _piece(self, event: Event) -> None:
        item = self._open(event)
        assert item.kind == PIECES[event["type"]][0]
        assert item.text is None, "a piece after the end of the text"
        assert event["delta"], "an empty piece"
        if event["type"] in PART_TYPES:
            assert item.opened is not None
            assert item.opened["type"] == PART_TYPES[event["type"]]
        item.pieces.append(event["delta"])
        item.logprobs += event.get("logprobs", [])

    def _end(self, event: Event) -> None:
        item = self._open(event)
        kind, _, member = ENDS[event["type"]]
        assert item.kind == kind
        assert item.text is None, "the text ends twice"
        assert event[member] == "".join(item.pieces)
        assert event.get("logprobs", []) == item.logprobs
        item.text = event[member]


def _text(item: Event) -> str:
    match item["type"]:
        case "message":
            return "".join(part["text"] for part in item["content"])
        case "reasoning":
            return "".join(part["text"] for part in item.get("content", []) + item["summary"])
        case "function_call":
            return str(item["arguments"])
        case "custom_tool_call":
            return str(item["input"])
    raise AssertionError(f"unknown item {item['type']}")
