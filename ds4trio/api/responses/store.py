"""Responses that clients may come back to: by id, for ``previous_response_id``, for ``item_reference``.

In memory and bounded: at most so many responses and so many bytes, the least recently used leave first. What is
deleted or pushed out while it is still being generated does not return when it ends. Bodies are parsed in worker
threads while answers end on the event loop, hence the lock; nothing blocks while holding it.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from sys import getsizeof

from ds4trio.chat import Message

__all__ = ["ResponseStore", "StoredResponse"]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response as it is known so far.

    ``document`` is the response object and ``input`` the items of the request's ``input``, all JSON. ``messages`` are
    the whole conversation with the answer, without ``instructions``; None while there is nothing that could be
    continued. ``item_ids`` are those of the output items.

    ``size`` is in bytes of memory, rather too many than too few: what several responses share (the messages of one
    conversation, equal strings) counts in each of them.
    """

    document: bytes
    input: tuple[bytes, ...]
    messages: tuple[Message, ...] | None = None
    item_ids: tuple[str, ...] = ()
    size: int = field(init=False)

    def __post_init__(self) -> None:
        messages = self.messages or ()
        parts = (self.document, self.input, *self.input, messages)
        object.__setattr__(self, "size", sum(map(getsizeof, parts)) + sum(map(_size, messages)))


def _size(message: Message) -> int:
    parts: list[object] = [message.content, message.reasoning, message.tool_calls, message.tool_call_id, message.name]
    for call in message.tool_calls:
        parts += [call, call.id, call.name, call.arguments]
    # What is empty is there once for all.
    return getsizeof(message) + sum(getsizeof(part) for part in parts if part)


class ResponseStore:
    """Response id → `StoredResponse`. All methods are quick, thread-safe, and no checkpoints."""

    def __init__(self, *, most_responses: int = 1000, most_bytes: int = 256 * 2**20) -> None:
        self._most_responses = most_responses
        self._most_bytes = most_bytes
        self._responses: OrderedDict[str, StoredResponse] = OrderedDict()
        self._owners: dict[str, str] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def begin(self, response_id: str, response: StoredResponse) -> None:
        """Keep a response that has just begun."""
        with self._lock:
            self._put(response_id, response)

    def update(self, response_id: str, response: StoredResponse) -> None:
        """Replace what is known of a response, unless it is gone."""
        with self._lock:
            if response_id in self._responses:
                self._remove(response_id)
                self._put(response_id, response)

    def get(self, response_id: str) -> StoredResponse | None:
        """The response, which counts as used now."""
        with self._lock:
            response = self._responses.get(response_id)
            if response is not None:
                self._responses.move_to_end(response_id)
            return response

    def delete(self, response_id: str) -> bool:
        """Forget a response; False if it was not there."""
        with self._lock:
            if response_id not in self._responses:
                return False
            self._remove(response_id)
            return True

    def document_of(self, item_id: str) -> bytes | None:
        """The document of the response that has this output item, once that has ended."""
        with self._lock:
            response_id = self._owners.get(item_id)
            return None if response_id is None else self._responses[response_id].document

    def __len__(self) -> int:
        """How many responses are kept."""
        with self._lock:
            return len(self._responses)

    @property
    def size(self) -> int:
        """Bytes in memory, see `StoredResponse.size`."""
        with self._lock:
            return self._bytes

    def _put(self, response_id: str, response: StoredResponse) -> None:
        self._responses[response_id] = response
        self._owners.update(dict.fromkeys(response.item_ids, response_id))
        self._bytes += response.size
        while self._responses and (len(self._responses) > self._most_responses or self._bytes > self._most_bytes):
            self._remove(next(iter(self._responses)))

    def _remove(self, response_id: str) -> None:
        response = self._responses.pop(response_id)
        self._bytes -= response.size
        for item_id in response.item_ids:
            del self._owners[item_id]
