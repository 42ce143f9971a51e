"""``GET /v1/responses/{id}/input_items``: a request's input as a list of full items.

Clients send items in many short forms; the list shows them as the SDK's types want them: with an id, messages with
a status and a list of parts. Ids that clients left out are made of the response's own, so they are the same each time.
"""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from ds4trio.api.errors import InvalidRequestError

__all__ = ["input_items"]

PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


def input_items(
    response_id: str,
    given: bytes,
    *,
    limit: int,
    order: Literal["asc", "desc"],
    after: str | None,
) -> bytes:
    """A page of the items in ``given``, the JSON of a request's ``input``.

    Raises `InvalidRequestError` for an ``after`` that is none of them.
    """
    items = list(_full_items(response_id, given))
    if order == "desc":
        items.reverse()
    if after is not None:
        items = items[_position(items, after) + 1 :]
    page = items[:limit]
    return msgspec.json.encode(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else "",
            "last_id": page[-1]["id"] if page else "",
            "has_more": len(items) > limit,
        }
    )


def _position(items: list[dict[str, Any]], item_id: str) -> int:
    for position, item in enumerate(items):
        if item["id"] == item_id:
            return position
    raise InvalidRequestError(f"there is no item {item_id[:80]!r} after which to go on", param="after")


def _full_items(response_id: str, given: bytes) -> Iterator[dict[str, Any]]:
    decoded = msgspec.json.decode(given)
    items = [{"role": "user", "content": decoded}] if isinstance(decoded, str) else decoded or []
    for index, item in enumerate(items):
        kind = item.get("type") or ("message" if "role" in item else "item_reference")
        full = {**item, "type": kind}
        if not item.get("id"):
            full["id"] = f"{PREFIXES.get(kind, 'item')}_{response_id.removeprefix('resp_')}{index}"
        if kind == "message":
            full |= {"status": item.get("status") or "completed", "content": _parts(item)}
        elif kind.endswith("_call"):
            full["status"] = item.get("status") or "completed"
        yield full


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content") or []
    if not isinstance(content, str):
        return list(content)
    if message.get("role") == "assistant":
        return [{"type": "output_text", "text": content, "annotations": []}]
    return [{"type": "input_text", "text": content}]
