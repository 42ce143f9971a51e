"""The kinds of output items, and the events that tell how each grows.

An item is announced, gets pieces, and is closed; each step yields the stream's events for it, dicts without
``sequence_number``. What an item looks like to the client is said here and nowhere else: `Item.value` is the same in
events, in the response object and in the store. When items begin and end is decided elsewhere.
"""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ds4trio.api.responses import reasoning
from ds4trio.api.responses.free_text import FreeText
from ds4trio.api.responses.tools import Origin, flat_name
from ds4trio.api.shapes import logprob_object
from ds4trio.chat import ToolCall
from ds4trio.engine import TokenLogprob

__all__ = ["AnyItem", "CallItem", "Event", "MessageItem", "Presentation", "ReasoningItem", "call_item"]

Event = dict[str, Any]
Status = Literal["in_progress", "completed", "incomplete"]


@dataclass(frozen=True, slots=True)
class Presentation:
    """How the client wants to see things.

    ``summaries``: reasoning goes out as its own summary, for clients that asked for one, as Codex does: that is the
    form which they show to the user. Without that it goes out as ``reasoning_text``, the form of open models, which
    clients show that know it and others pass over. ``packed`` fills in ``encrypted_content``.
    ``origins`` are the client's own names of the tools, by flat name.
    """

    summaries: bool
    packed: bool
    origins: Mapping[str, Origin]


class Item(ABC):
    """One output item. ``place`` is what its events have in common."""

    def __init__(self, prefix: str, index: int) -> None:
        self.id = f"{prefix}_{secrets.token_hex(16)}"
        self.index = index
        self.status: Status = "in_progress"
        self.place: dict[str, Any] = {"item_id": self.id, "output_index": index}
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self._parts)

    @abstractmethod
    def value(self) -> dict[str, Any]:
        """The item as it is now."""

    def opening(self) -> Iterator[Event]:
        """The events that announce the item, while it is empty."""
        yield {"type": "response.output_item.added", "output_index": self.index, "item": self.value()}

    def closing(self, status: Status) -> Iterator[Event]:
        """The events that complete the item."""
        self.status = status
        yield {"type": "response.output_item.done", "output_index": self.index, "item": self.value()}


class MessageItem(Item):
    """Visible text, always in one part."""

    def __init__(self, index: int) -> None:
        super().__init__("msg", index)
        self._logprobs: list[dict[str, Any]] = []

    def append(self, text: str, logprobs: Iterable[TokenLogprob]) -> Event:
        """A piece of text and the logprobs of its tokens."""
        self._parts.append(text)
        values = [logprob_object(logprob) for logprob in logprobs]
        self._logprobs += values
        return {
            "type": "response.output_text.delta",
            **self.place,
            "content_index": 0,
            "delta": text,
            "logprobs": values,
        }

    def value(self) -> dict[str, Any]:
        """A ``message``."""
        content = [self._part()] if self._parts else []
        return {"id": self.id, "type": "message", "status": self.status, "role": "assistant", "content": content}

    def opening(self) -> Iterator[Event]:
        """The item and its one part."""
        yield from super().opening()
        yield {"type": "response.content_part.added", **self.place, "content_index": 0, "part": self._part()}

    def closing(self, status: Status) -> Iterator[Event]:
        """The text, the part and the item."""
        place = {**self.place, "content_index": 0}
        yield {"type": "response.output_text.done", **place, "text": self.text, "logprobs": self._logprobs}
        yield {"type": "response.content_part.done", **place, "part": self._part()}
        yield from super().closing(status)

    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self._logprobs}


class ReasoningItem(Item):
    """Reasoning in one part, as text or as its own summary."""

    def __init__(self, index: int, presentation: Presentation) -> None:
        super().__init__("rs", index)
        self._packed = presentation.packed
        self._summary = presentation.summaries
        if presentation.summaries:
            self._part_events, self._text_events = "response.reasoning_summary_part", "response.reasoning_summary_text"
            self.place["summary_index"] = 0
        else:
            self._part_events, self._text_events = "response.content_part", "response.reasoning_text"
            self.place["content_index"] = 0

    def append(self, text: str) -> Event:
        """A piece of reasoning."""
        self._parts.append(text)
        return {"type": f"{self._text_events}.delta", **self.place, "delta": text}

    def value(self) -> dict[str, Any]:
        """A ``reasoning`` item."""
        parts = [self._part()] if self._parts else []
        value: dict[str, Any] = {"id": self.id, "type": "reasoning", "status": self.status}
        value |= {"summary": parts} if self._summary else {"summary": [], "content": parts}
        done = self.status != "in_progress"
        return {**value, "encrypted_content": reasoning.pack(self.text) if self._packed and done else None}

    def opening(self) -> Iterator[Event]:
        """The item and its one part."""
        yield from super().opening()
        yield {"type": f"{self._part_events}.added", **self.place, "part": self._part()}

    def closing(self, status: Status) -> Iterator[Event]:
        """The text, the part and the item."""
        yield {"type": f"{self._text_events}.done", **self.place, "text": self.text}
        yield {"type": f"{self._part_events}.done", **self.place, "part": self._part()}
        yield from super().closing(status)

    def _part(self) -> dict[str, Any]:
        return {"type": "summary_text" if self._summary else "reasoning_text", "text": self.text}


class CallItem(Item):
    """A call of a tool."""

    def __init__(self, prefix: str, index: int, origin: Origin) -> None:
        super().__init__(prefix, index)
        self.call_id = f"call_{secrets.token_hex(16)}"
        self._origin = origin
        self._arguments: list[str] = []

    @property
    def arguments(self) -> str:
        """What the model wrote."""
        return "".join(self._arguments)

    def call(self) -> ToolCall:
        """The call as the model knows it."""
        return ToolCall(self.call_id, flat_name(self._origin.name, self._origin.namespace), self.arguments)

    @abstractmethod
    def append(self, fragment: str) -> Iterator[Event]:
        """A fragment of the arguments."""

    def _identity(self) -> dict[str, Any]:
        value = {"call_id": self.call_id, "name": self._origin.name}
        return value if self._origin.namespace is None else {**value, "namespace": self._origin.namespace}


class FunctionCallItem(CallItem):
    """A function call; its arguments go out as they come."""

    def __init__(self, index: int, origin: Origin) -> None:
        super().__init__("fc", index, origin)

    def append(self, fragment: str) -> Iterator[Event]:
        """The fragment as it is."""
        self._arguments.append(fragment)
        yield {"type": "response.function_call_arguments.delta", **self.place, "delta": fragment}

    def value(self) -> dict[str, Any]:
        """A ``function_call``."""
        value = {"id": self.id, "type": "function_call", "status": self.status, "arguments": self.arguments}
        return {**value, **self._identity()}

    def closing(self, status: Status) -> Iterator[Event]:
        """The arguments and the item. A call without any has an empty object: clients parse them as JSON."""
        if not self._arguments:
            yield from self.append("{}")
        yield {"type": "response.function_call_arguments.done", **self.place, "arguments": self.arguments}
        yield from super().closing(status)


class CustomCallItem(CallItem):
    """A call of a custom tool: the string inside of the arguments goes out as it comes."""

    def __init__(self, index: int, origin: Origin) -> None:
        super().__init__("ctc", index, origin)
        self._free_text = FreeText()

    def append(self, fragment: str) -> Iterator[Event]:
        """The part of the string that the fragment makes certain, if any."""
        self._arguments.append(fragment)
        yield from self._piece(self._free_text.feed(fragment))

    def value(self) -> dict[str, Any]:
        """A ``custom_tool_call``."""
        value = {"id": self.id, "type": "custom_tool_call", "status": self.status, "input": self.text}
        return {**value, **self._identity()}

    def closing(self, status: Status) -> Iterator[Event]:
        """The input and the item."""
        yield from self._piece(self._free_text.finish())
        yield {"type": "response.custom_tool_call_input.done", **self.place, "input": self.text}
        yield from super().closing(status)

    def _piece(self, text: str) -> Iterator[Event]:
        if text:
            self._parts.append(text)
            yield {"type": "response.custom_tool_call_input.delta", **self.place, "delta": text}


class ShellArguments(Struct):
    """The arguments of `SHELL_COMMAND` as a model may write them."""

    command: list[str] | str = []
    working_directory: str | None = None
    timeout_ms: int | None = None


class LocalShellCallItem(CallItem):
    """A command for the client's own shell. There are no events for its parts: the command comes with the end."""

    def __init__(self, index: int, origin: Origin) -> None:
        super().__init__("lsh", index, origin)

    def append(self, fragment: str) -> Iterator[Event]:
        """Nothing to see yet."""
        self._arguments.append(fragment)
        yield from ()

    def value(self) -> dict[str, Any]:
        """A ``local_shell_call``."""
        return {
            "id": self.id,
            "type": "local_shell_call",
            "status": self.status,
            "call_id": self.call_id,
            "action": _shell_action(self.arguments),
        }


AnyItem = MessageItem | ReasoningItem | CallItem


def call_item(index: int, name: str, presentation: Presentation) -> CallItem:
    """A call in the form that the client wants for this tool; a name that it never sent is a function's."""
    origin = presentation.origins.get(name, Origin("function", name))
    match origin.kind:
        case "function":
            return FunctionCallItem(index, origin)
        case "custom":
            return CustomCallItem(index, origin)
        case "local_shell":
            return LocalShellCallItem(index, origin)


def _shell_action(arguments: str) -> dict[str, Any]:
    """The model's arguments as a local shell's action; a command line in one string is one for a shell."""
    try:
        given = msgspec.json.decode(arguments, type=ShellArguments)
    except (msgspec.DecodeError, RecursionError):
        given = ShellArguments()
    command = ["sh", "-c", given.command] if isinstance(given.command, str) else given.command
    action: dict[str, Any] = {"type": "exec", "command": command, "env": {}}
    # The AI SDK takes these as missing, not as null.
    if given.working_directory is not None:
        action["working_directory"] = given.working_directory
    if given.timeout_ms is not None:
        action["timeout_ms"] = given.timeout_ms
    return action
