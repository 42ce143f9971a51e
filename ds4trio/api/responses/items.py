"""Input items → messages.

A turn of the assistant comes as many items (reasoning, messages, calls), in the model's terms it is one `Message`:
neighbours are merged. Calls of tools that some server ran itself are told with their results where the item holds
both, as if they had been functions. Items that hold nothing for a text model are counted and left out, since clients
send ever new kinds; but a picture or a file inside of a message is refused, because the user believes it was seen.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from ds4trio.api.body import invalid
from ds4trio.api.errors import InvalidRequestError, shown
from ds4trio.api.responses import reasoning
from ds4trio.api.responses.tools import LOCAL_SHELL, flat_name
from ds4trio.chat import Message, Role, ToolCall

__all__ = ["InputItem", "read_items"]

ROLES: Final[Mapping[str, Role]] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "developer",
}
TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
MOST_REFERENCES = 1000


class ItemPart(Struct):
    """A part of a message, of a tool's output or of reasoning."""

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(Struct):
    """An item as clients send it, all kinds in one; members whose type differs between kinds are checked later."""

    type: str | None = None
    id: str | None = None
    role: str | None = None
    content: str | list[ItemPart] | None = None
    summary: list[ItemPart] | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    server_label: str | None = None
    arguments: Any = None
    input: Any = None
    output: Any = None
    action: Any = None
    operation: Any = None
    status: Any = None
    error: Any = None
    code: Any = None
    outputs: Any = None
    queries: Any = None
    results: Any = None


class StoredDocument(Struct):
    """A response object with the items that it put out."""

    output: list[InputItem]


FindDocument = Callable[[str], bytes | None]
_documents = msgspec.json.Decoder(StoredDocument)


def read_items(items: Iterable[InputItem], *, find: FindDocument) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The messages, and warnings about what was left out.

    ``find`` knows the stored response, as JSON, that has an output item of this id. Raises `InvalidRequestError` with
    the item's path.
    """
    turns = _Turns()
    stored = _References(find)
    left_out: Counter[str] = Counter()
    for index, item in enumerate(items):
        path = f"$.input[{index}]"
        kind = _kind(path, item)
        if kind == "item_reference":
            item = stored.take(path, item)  # noqa: PLW2901 - the reference stands for the item
            kind = _kind(path, item)
        if not _take(turns, path, kind, item):
            left_out[kind] += 1
    warnings = tuple(f"input: left out {count} of type {shown(kind)}" for kind, count in left_out.most_common())
    return turns.done(), warnings


def _kind(path: str, item: InputItem) -> str:
    if item.type is not None:
        return item.type
    if item.role is not None:
        return "message"
    if item.id is not None:
        return "item_reference"
    raise _missing(path, "type")


class _References:
    """The stored items that a request refers to.

    A reference is short and an item long, so there are bounds: a limited number, each item once as in OpenAI's API,
    and a response that has several of the items is decoded once.
    """

    def __init__(self, find: FindDocument) -> None:
        self._find = find
        self._known: dict[str, InputItem] = {}
        self._taken: set[str] = set()

    def take(self, path: str, reference: InputItem) -> InputItem:
        """The item. Raises `InvalidRequestError`."""
        item_id = reference.id
        if item_id is None:
            raise _missing(path, "id")
        if len(self._taken) == MOST_REFERENCES:
            raise InvalidRequestError(
                f"{path}: input refers to more than {MOST_REFERENCES} items; send the items themselves",
                code="too_many_references",
                param=path,
            )
        if item_id in self._taken:
            raise InvalidRequestError(
                f"{path} refers to the item {shown(item_id)} twice", code="duplicate_item", param=f"{path}.id"
            )
        if item_id not in self._known and (document := self._find(item_id)) is not None:
            self._known |= {item.id: item for item in _documents.decode(document).output if item.id is not None}
        if item_id not in self._known:
            raise InvalidRequestError(
                f"{path}: there is no stored item {shown(item_id)}; send the item itself",
                code="item_not_found",
                param=f"{path}.id",
            )
        self._taken.add(item_id)
        return self._known[item_id]


class _Turns:
    """Messages so far, and the assistant's turn that is still being put together."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._contents: list[str] = []
        self._reasonings: list[str] = []
        self._calls: list[ToolCall] = []

    def say(self, text: str) -> None:
        self._contents.append(text)

    def reason(self, text: str) -> None:
        self._reasonings.append(text)

    def call(self, call: ToolCall) -> None:
        self._calls.append(call)

    def result(self, call_id: str | None, text: str) -> None:
        self.add(Message("tool", text, tool_call_id=call_id))

    def add(self, message: Message) -> None:
        self._flush()
        self._messages.append(message)

    def done(self) -> tuple[Message, ...]:
        self._flush()
        return tuple(self._messages)

    def _flush(self) -> None:
        if not (self._contents or self._reasonings or self._calls):
            return
        content = "\n\n".join(text for text in self._contents if text)
        thoughts = "\n\n".join(text for text in self._reasonings if text)
        self._messages.append(Message("assistant", content, thoughts, tuple(self._calls)))
        self._contents, self._reasonings, self._calls = [], [], []


def _take(turns: _Turns, path: str, kind: str, item: InputItem) -> bool:  # noqa: PLR0912 - a table of kinds
    """Add one item. False: there is nothing in it for the model."""
    match kind:
        case "message":
            _message(turns, path, item)
        case "reasoning":
            turns.reason(_reasoning(path, item))
        case "function_call":
            arguments = _string(path, "arguments", item.arguments) or "{}"
            turns.call(ToolCall(_call_id(path, item), _called(path, item), arguments))
        case "custom_tool_call":
            text = {"input": _string(path, "input", item.input)}
            turns.call(ToolCall(_call_id(path, item), _called(path, item), _json(text)))
        case "local_shell_call":
            turns.call(ToolCall(_call_id(path, item), LOCAL_SHELL, _json(_members(path, "action", item.action))))
        case "shell_call":
            turns.call(ToolCall(_call_id(path, item), "shell", _json(_members(path, "action", item.action))))
        case "apply_patch_call":
            operation = _members(path, "operation", item.operation, keep_type=True)
            turns.call(ToolCall(_call_id(path, item), "apply_patch", _json(operation)))
        case "function_call_output" | "custom_tool_call_output":
            turns.result(item.call_id, _text(f"{path}.output", item.output))
        case "local_shell_call_output":
            # The API's reference names the call by `id`, clients by `call_id`.
            turns.result(item.call_id or item.id, _text(f"{path}.output", item.output))
        case "shell_call_output":
            turns.result(_call_id(path, item), _json(item.output))
        case "apply_patch_call_output":
            turns.result(_call_id(path, item), _text(f"{path}.output", item.output or item.status))
        case "mcp_call":
            name = flat_name(_called(path, item), item.server_label)
            arguments = _string(path, "arguments", item.arguments) or "{}"
            _told(turns, item, name, arguments, item.output if item.error is None else item.error)
        case "code_interpreter_call":
            _told(turns, item, "code_interpreter", _json({"code": item.code}), item.outputs)
        case "file_search_call" if item.results is not None:
            _told(turns, item, "file_search", _json({"queries": item.queries}), item.results)
        case _:
            return False
    return True


def _message(turns: _Turns, path: str, item: InputItem) -> None:
    if item.role is None:
        raise _missing(path, "role")
    role = ROLES.get(item.role)
    if role is None:
        raise InvalidRequestError(
            f"{path}.role has to be user, assistant, system or developer, not {shown(item.role)}",
            code="invalid_value",
            param=f"{path}.role",
        )
    if role == "assistant":
        turns.say(_text(f"{path}.content", item.content or ""))
        return
    if item.content is None:
        raise _missing(path, "content")
    turns.add(Message(role, _text(f"{path}.content", item.content)))


def _reasoning(path: str, item: InputItem) -> str:
    """What we packed is exact; text that another server showed is the best there is."""
    packed = reasoning.unpack(item.encrypted_content)
    if packed is not None:
        return packed
    if item.content:
        return _text(f"{path}.content", item.content)
    return "\n\n".join(part.text or "" for part in item.summary or ())


def _told(turns: _Turns, item: InputItem, name: str, arguments: str, result: object) -> None:
    """A call that another server made and answered in one item."""
    call_id = item.call_id or item.id or name
    turns.call(ToolCall(call_id, name, arguments))
    turns.result(call_id, result if isinstance(result, str) else _json(result))


def _called(path: str, item: InputItem) -> str:
    if not item.name:
        raise _missing(path, "name")
    return flat_name(item.name, item.namespace)


def _call_id(path: str, item: InputItem) -> str:
    call_id = item.call_id or item.id
    if not call_id:
        raise _missing(path, "call_id")
    return call_id


def _string(path: str, member: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        raise _missing(path, member)
    raise InvalidRequestError(f"{path}.{member} has to be a string", code="invalid_type", param=f"{path}.{member}")


def _members(path: str, member: str, value: object, *, keep_type: bool = False) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{path}.{member} has to be an object", code="invalid_type", param=f"{path}.{member}")
    return {name: inner for name, inner in value.items() if inner is not None and (keep_type or name != "type")}


def _text(path: str, value: object) -> str:
    """The text of a string or of a list of parts. Raises `InvalidRequestError` for parts that are no text."""
    if isinstance(value, str):
        return value
    try:
        parts = msgspec.convert(value, list[ItemPart])
    except msgspec.ValidationError as error:
        raise invalid(error, at=path) from None
    return "".join(_part(f"{path}[{index}]", part) for index, part in enumerate(parts))


def _part(path: str, part: ItemPart) -> str:
    if part.type == "refusal":
        return part.refusal or ""
    if part.type not in TEXT_PARTS:
        raise InvalidRequestError(
            f"{path} is of type {shown(part.type)}, but this model reads text only; send text parts",
            code="unsupported_content",
            param=path,
        )
    if part.text is None:
        raise _missing(path, "text")
    return part.text


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _missing(path: str, member: str) -> InvalidRequestError:
    return InvalidRequestError(f"{path} has no {member}", code="missing_required_parameter", param=f"{path}.{member}")
