"""From Anthropic's messages, each a list of content blocks, to the conversation's `Message` values.

One block type, `Block`, has the members of all kinds of blocks, so that a kind that is new to this server decodes too.
What cannot be told to a text model is then refused where it stands for something that the user said (a picture, a PDF),
named where a tool returned it, and left out of what an assistant did (a search that Anthropic's servers ran), with a
warning.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct, field

from ds4trio.api.body import decode
from ds4trio.api.errors import InvalidRequestError, shown
from ds4trio.api.messages.signature import carried
from ds4trio.chat import Message, ToolCall

__all__ = ["Block", "MessageParam", "asks_to_cache", "read_messages", "read_system"]

VOLATILE = "x-anthropic-"
"""System blocks that begin so are billing headers of Claude Code: they change and would break every cached prefix."""

UNSEEN = "[an image, which this model cannot see]"
"""Stands for a picture in a tool's result."""


class Source(Struct):
    """Where a document's content is."""

    type: str
    data: str | None = None
    content: "str | list[Block] | None" = None


class Block(Struct):
    """A content block of any kind."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    id: str | None = None
    name: str | None = None
    input: Annotated[Raw, Meta(extra_json_schema={"type": "object"})] = field(default_factory=lambda: Raw(b"{}"))
    tool_use_id: str | None = None
    content: "str | list[Block] | dict[str, Any] | None" = None
    is_error: bool | None = None
    source: str | Source | None = None
    title: str | None = None
    context: str | None = None
    tool_name: str | None = None
    cache_control: dict[str, Any] | None = None


class MessageParam(Struct):
    """A turn as clients send it. Claude Code sends system messages between the others."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


_object_decoder = msgspec.json.Decoder(dict[str, Any])


def read_system(system: str | Sequence[Block] | None, path: str = "$.system") -> list[Message]:
    """The system prompt as one message, or none. Raises `InvalidRequestError`."""
    if not isinstance(system, str):
        texts = _texts(system or (), path)
        system = _paragraphs(text for text in texts if not text.startswith(VOLATILE))
    return [Message("system", system)] if system else []


def read_messages(params: Sequence[MessageParam]) -> tuple[list[Message], list[str]]:
    """The messages, and warnings about what was left out. Raises `InvalidRequestError` with the path."""
    messages: list[Message] = []
    skipped: dict[str, None] = {}
    names: dict[str, str] = {}
    for index, param in enumerate(params):
        path = f"$.messages[{index}].content"
        match param.role, param.content:
            case "system", content:
                messages += read_system(content, path)
            case role, str(text):
                messages.append(Message(role, text))
            case "user", blocks:
                messages += _user(blocks, path, names)
            case "assistant", blocks:
                message = _assistant(blocks, path, skipped)
                names.update((call.id, call.name) for call in message.tool_calls)
                messages.append(message)
    return messages, [f"the history's blocks of type {shown(kind)} were left out" for kind in skipped]


def asks_to_cache(blocks: str | Iterable[Block] | None) -> bool:
    """Whether one of these blocks is marked for caching."""
    return not isinstance(blocks, str) and any(block.cache_control is not None for block in blocks or ())


def _user(blocks: Sequence[Block], path: str, names: dict[str, str]) -> Iterator[Message]:
    """Results first: templates want them right after the calls that they answer."""
    said = []
    for index, block in enumerate(blocks):
        here = f"{path}[{index}]"
        if block.type == "tool_result":
            id = _needed(block.tool_use_id, f"{here}.tool_use_id")
            yield Message("tool", _result(block, here), tool_call_id=id, name=names.get(id))
        else:
            said.append(_text(block, here))
    if said or not blocks:
        yield Message("user", _paragraphs(said))


def _result(block: Block, path: str) -> str:
    match block.content:
        case None:
            text = ""
        case str(text):
            pass
        case list(blocks):
            # An agent that once looked at a picture goes on: the model is told that there was one.
            text = _paragraphs(
                UNSEEN if part.type == "image" else _text(part, f"{path}.content[{index}]")
                for index, part in enumerate(blocks)
            )
        case _:
            raise InvalidRequestError(
                f"{path}.content is neither text nor a list of blocks", code="invalid_type", param=f"{path}.content"
            )
    return f"Error: {text}" if block.is_error else text


def _assistant(blocks: Sequence[Block], path: str, skipped: dict[str, None]) -> Message:
    content, reasoning, calls = [], [], []
    for index, block in enumerate(blocks):
        here = f"{path}[{index}]"
        match block.type:
            case "text":
                content.append(_needed(block.text, f"{here}.text"))
            case "thinking":
                reasoning.append(block.thinking or carried(block.signature or ""))
            case "tool_use":
                calls.append(_call(block, here))
            case "redacted_thinking":
                pass  # nobody here can read it, and nobody misses it
            case other:
                skipped[other] = None
    # An assistant's blocks are one text that was cut, not paragraphs.
    return Message("assistant", "".join(content), "".join(reasoning), tuple(calls))


def _call(block: Block, path: str) -> ToolCall:
    try:
        decode(_object_decoder, bytes(block.input))
    except InvalidRequestError as error:
        raise InvalidRequestError(
            f"{path}.input must be a JSON object: {error.message}", code=error.code, param=f"{path}.input"
        ) from None
    return ToolCall(
        _needed(block.id, f"{path}.id"), _needed(block.name, f"{path}.name"), bytes(block.input).decode().strip()
    )


def _texts(blocks: Iterable[Block], path: str) -> Iterator[str]:
    return (_text(block, f"{path}[{index}]") for index, block in enumerate(blocks))


def _text(block: Block, path: str) -> str:
    """What a block says to a model that only reads text."""
    match block:
        case Block(type="text"):
            return _needed(block.text, f"{path}.text")
        case Block(type="document", source=Source(type="text", data=str(data))):
            return _titled(block, data)
        case Block(type="document", source=Source(type="content", content=str(data))):
            return _titled(block, data)
        case Block(type="document", source=Source(type="content", content=list(blocks))):
            return _titled(block, *_texts(blocks, f"{path}.source.content"))
        case Block(type="search_result", content=list(blocks)):
            where = block.source if isinstance(block.source, str) else ""
            return _titled(block, where, *_texts(blocks, f"{path}.content"))
        case Block(type="tool_reference", tool_name=str(name)):
            return f"The tool {name} can be called now."
    raise InvalidRequestError(
        f"{path} is of type {shown(block.type)}, but this model reads text only; send text",
        code="unsupported_content",
        param=path,
    )


def _titled(block: Block, *texts: str) -> str:
    return _paragraphs([block.title or "", block.context or "", *texts])


def _paragraphs(texts: Iterable[str]) -> str:
    return "\n\n".join(filter(None, texts))


def _needed(value: str | None, path: str) -> str:
    if value is None:
        raise InvalidRequestError(f"{path} is missing", code="missing_required_parameter", param=path)
    return value
