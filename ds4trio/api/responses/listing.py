"""``GET /v1/responses/{id}/input_items``: a request's input as a list of full items.

Clients send items in many short forms; the list shows them as the SDK's types want them: with an id, messages with
a status and a list of parts. Ids that clients left out are made of the response's own, so they are the same each time.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from ds4trio.api.errors import InvalidRequestError, shown

__all__ = ["input_items"]

PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


NULL = Raw(b"null")


class Head(Struct):
    """What an item is."""

    type: str | None = None
    id: str | None = None
    role: str | None = None

    @property
    def kind(self) -> str:
        """The type, also where the client left it out."""
        return self.type or ("message" if self.role is not None else "item_reference")


_heads = msgspec.json.Decoder(Head)
_texts = msgspec.json.Decoder(str | None)
_members = msgspec.json.Decoder(dict[str, Raw])


def input_items(
    response_id: str,
    given: Sequence[bytes],
    *,
    limit: int,
    order: Literal["asc", "desc"],
    after: str | None,
) -> bytes:
    """A page of the items in ``given``, each JSON.

    Raises `InvalidRequestError` for an ``after`` that is none of them. Only the page and what comes before it is looked
    at, and texts stay as they are: a request may be large.
    """
    indexes = range(len(given)) if order == "asc" else range(len(given) - 1, -1, -1)
    if after is not None:
        indexes = indexes[_position(response_id, given, indexes, after) + 1 :]
    page = [_full_item(response_id, index, given[index]) for index in indexes[:limit]]
    return msgspec.json.encode(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else "",
            "last_id": page[-1]["id"] if page else "",
            "has_more": len(indexes) > limit,
        }
    )


def _position(response_id: str, given: Sequence[bytes], indexes: Sequence[int], item_id: str) -> int:
    """How many of the items come before the one with this id."""
    for position, index in enumerate(indexes):
        if _id(response_id, index, _heads.decode(given[index])) == item_id:
            return position
    raise InvalidRequestError(f"there is no item {shown(item_id)} after which to go on", param="after")


def _id(response_id: str, index: int, head: Head) -> str:
    return head.id or f"{PREFIXES.get(head.kind, 'item')}_{response_id.removeprefix('resp_')}{index}"


def _full_item(response_id: str, index: int, item: bytes) -> dict[str, object]:
    members = _members.decode(item)
    head = Head(*(_texts.decode(members.get(name, NULL)) for name in ("type", "id", "role")))
    full: dict[str, object] = {**members, "type": head.kind, "id": _id(response_id, index, head)}
    if head.kind == "message":
        full["content"] = _parts(head, members)
    if head.kind == "message" or head.kind.endswith("_call"):
        full["status"] = _given(members, "status") or "completed"
    return full


def _parts(head: Head, message: Mapping[str, Raw]) -> object:
    """A message's content as a list of parts, which a text is one of."""
    content = _given(message, "content") or Raw(b"[]")
    if bytes(memoryview(content)[:1]) != b'"':
        return content
    if head.role == "assistant":
        return [{"type": "output_text", "text": content, "annotations": []}]
    return [{"type": "input_text", "text": content}]


def _given(members: Mapping[str, Raw], name: str) -> Raw | None:
    """A member that is neither missing nor null."""
    value = members.get(name, NULL)
    return None if value == NULL else value
