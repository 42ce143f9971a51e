"""The protocol's face: bodies in, documents out."""

from typing import Literal

import msgspec

from ds4trio.api.errors import InvalidRequestError, shown
from ds4trio.api.responses.listing import input_items
from ds4trio.api.responses.request import read
from ds4trio.api.responses.store import ResponseStore, StoredResponse
from ds4trio.api.task import Task

__all__ = ["Responses", "UnknownResponseError"]


class UnknownResponseError(InvalidRequestError):
    """No such response here, or no longer."""

    status = 404

    def __init__(self, response_id: str) -> None:
        super().__init__(f"there is no response {shown(response_id)}", code="response_not_found", param="response_id")


class Responses:
    """Implements `WireProtocol` for ``POST /v1/responses``, and makes the documents of the paths below it."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    def parse(self, body: bytes) -> Task:
        """Check a request body. Blocks as long as that takes. Raises `ApiError`, never anything else."""
        return read(body, self._store)

    def input_tokens_document(self, count: int) -> bytes:
        """The answer to ``/v1/responses/input_tokens``, whose body is that of a request."""
        return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": count})

    def response_document(self, response_id: str) -> bytes:
        """The response as it is known now. Raises `UnknownResponseError`."""
        return self._stored(response_id).document

    def delete(self, response_id: str) -> bytes:
        """Forget a response; the document says so. Raises `UnknownResponseError`."""
        if not self._store.delete(response_id):
            raise UnknownResponseError(response_id)
        return msgspec.json.encode({"id": response_id, "object": "response", "deleted": True})

    def input_items_document(
        self, response_id: str, *, limit: int = 20, order: Literal["asc", "desc"] = "desc", after: str | None = None
    ) -> bytes:
        """A page of the items that the response's own request brought. Raises `InvalidRequestError`."""
        return input_items(response_id, self._stored(response_id).input, limit=limit, order=order, after=after)

    def _stored(self, response_id: str) -> StoredResponse:
        stored = self._store.get(response_id)
        if stored is None:
            raise UnknownResponseError(response_id)
        return stored
