"""Responses that clients may come back to: by id, for ``previous_response_id``, for ``item_reference``.

In memory and bounded: at most so many responses and so many bytes, the least recently used leave first. What is
deleted or pushed out while it is still being generated does not return when it ends. Bodies are parsed in worker
threads while answers end on the event loop, hence the lock; nothing blocks while holding it.
"""

import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from ds4trio.chat import Message

__all__ = ["ResponseStore", "StoredResponse"]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response as it is known so far.

    ``document`` is the response object and ``input`` the request's ``input``, both JSON. ``messages`` are the whole
    conversation with the answer, without ``instructions``; None while there is nothing that could be continued.
    ``item_ids`` are those of the output items.
    """

    document: bytes
    input: bytes
    messages: tuple[Message, ...] | None = None
    item_ids: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes in memory. Messages count in full also where a later response of the conversation shares them."""
        return len(self.document) + len(self.input) + sum(_size(message) for message in self.messages or ())


def _size(message: Message) -> int:
    calls = sum(sys.getsizeof(call.arguments) for call in message.tool_calls)
    return sys.getsizeof(message.content) + sys.getsizeof(message.reasoning) + calls


class _Document(Struct):
    output: list[dict[str, Any]]


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

    def item(self, item_id: str) -> Mapping[str, Any] | None:
        """The output item of a response that has ended."""
        with self._lock:
            response_id = self._owners.get(item_id)
            document = None if response_id is None else self._responses[response_id].document
        if document is None:
            return None
        output = msgspec.json.decode(document, type=_Document).output
        return next((item for item in output if item["id"] == item_id), None)

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
