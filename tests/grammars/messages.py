"""The grammar of a Messages stream, as its clients rely on it, checked on the bytes.

    stream  = error | start beat* block* beat* (final stop | error)      beats also within blocks, comments anywhere
    block   = content_block_start delta* content_block_stop              a thinking block's last delta signs it
    beat    = ping | message_delta without a stop reason
    final   = message_delta with a stop reason

A ping before ``message_start`` would do no harm, since the SDKs drop pings unseen, but this server has no use for one.
An error ends the stream: the SDKs raise on it, Claude Code, Pi and opencode retry, and none waits for more.
"""

import json
from collections.abc import Iterator
from typing import Any

__all__ = ["check_messages_stream", "sse_events"]

DELTAS = {
    "text": {"text_delta": "text"},
    "thinking": {"thinking_delta": "thinking", "signature_delta": "signature"},
    "tool_use": {"input_json_delta": "partial_json"},
}
CUT_OFF = {"max_tokens", "stop_sequence"}


def check_messages_stream(body: bytes) -> dict[str, Any]:
    """The message that the stream amounts to. Raises `AssertionError` where the grammar is broken.

    A stream that ended with an error has it in the member ``error``, which is all there is if nothing came before.
    """
    events = sse_events(body)
    first = next(events, None)
    assert first is not None, "the stream is empty"
    if first["type"] == "error":
        assert list(events) == [], "nothing follows an error"
        return {"error": _error(first)}
    assert first["type"] == "message_start", f"the first event is {first['type']}"
    message = _started(first["message"])
    open_block: dict[str, Any] | None = None
    parts: list[str] = []
    for event in events:
        match event["type"]:
            case "ping":
                pass
            case "message_delta" if event["delta"]["stop_reason"] is None:
                assert event["delta"] == {"stop_reason": None, "stop_sequence": None}
                message["usage"] |= _counts(event["usage"])
            case "content_block_start":
                assert open_block is None, "blocks do not overlap"
                assert event["index"] == len(message["content"]), "indexes count from 0"
                open_block, parts = _opened(event["content_block"]), []
                message["content"].append(open_block)
            case "content_block_delta":
                assert open_block is not None, "a delta belongs to an open block"
                assert event["index"] == len(message["content"]) - 1
                _grow(open_block, event["delta"], parts)
            case "content_block_stop":
                assert open_block is not None, "only an open block stops"
                assert event["index"] == len(message["content"]) - 1
                _closed(open_block, parts)
                open_block = None
            case "message_delta":
                assert open_block is None, "all blocks are closed at the end"
                message |= event["delta"]
                message["usage"] |= _counts(event["usage"])
                assert next(events, None) == {"type": "message_stop"}, "message_stop follows"
                break
            case "error":
                message["error"] = _error(event)
                break
            case other:
                raise AssertionError(f"Anthropic has no event {other!r}, and opencode dies of such")
    else:
        raise AssertionError("the stream has no end")
    assert list(events) == [], "nothing follows the end"
    if "error" not in message:
        _check_end(message)
    return message


def sse_events(body: bytes) -> Iterator[dict[str, Any]]:
    """The data of all events; comments are skipped, and each event is named after its type."""
    text = body.decode()
    assert text.endswith("\n\n"), "the last event is dispatched"
    assert "\r" not in text
    for chunk in text.removesuffix("\n\n").split("\n\n"):
        lines = [line for line in chunk.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        name, data = lines
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        yield value


def _started(message: dict[str, Any]) -> dict[str, Any]:
    assert message["id"].startswith("msg_")
    assert (message["type"], message["role"], message["content"]) == ("message", "assistant", [])
    assert message["stop_reason"] is None
    assert message["stop_sequence"] is None
    _counts(message["usage"])
    return dict(message)


def _opened(block: dict[str, Any]) -> dict[str, Any]:
    match block:
        case {"type": "text", "text": ""}:
            pass
        case {"type": "thinking", "thinking": "", "signature": ""}:
            pass
        case {"type": "tool_use", "id": str(id), "name": str(name), "input": {}}:
            assert id.startswith("toolu_")
            assert name
        case _:
            raise AssertionError(f"not the start of a block: {block}")
    return dict(block)


def _grow(block: dict[str, Any], delta: dict[str, Any], parts: list[str]) -> None:
    kind = delta["type"]
    assert kind in DELTAS[block["type"]], f"a {block['type']} block has no {kind}"
    piece = delta[DELTAS[block["type"]][kind]]
    assert piece != "", "no delta is empty"
    if kind == "signature_delta":
        assert block["signature"] == "", "one signature a block"
        block["signature"] = piece
        return
    assert not block.get("signature"), "the signature comes last"
    parts.append(piece)


def _closed(block: dict[str, Any], parts: list[str]) -> None:
    text = "".join(parts)
    match block["type"]:
        case "tool_use":
            block["input"] = text
        case "thinking":
            assert block["signature"], "a thinking block is signed before it stops"
            block["thinking"] = text
        case _:
            assert text, "no text block is empty"
            block["text"] = text


def _check_end(message: dict[str, Any]) -> None:
    """Calls are complete unless the reason is a cut; one that is not keeps its text as ``input``."""
    calls = [block for block in message["content"] if block["type"] == "tool_use"]
    reason = message["stop_reason"]
    assert reason in {"end_turn", "max_tokens", "stop_sequence", "tool_use"}
    assert (reason == "stop_sequence") == isinstance(message["stop_sequence"], str)
    assert (reason == "tool_use") <= bool(calls), "tool_use needs a call"
    assert (reason == "end_turn") <= (not calls), "a call is not the end of a turn"
    for call in calls:
        try:
            arguments = json.loads(call["input"])
        except ValueError:
            assert reason in CUT_OFF, "a whole answer has whole calls"
        else:
            assert isinstance(arguments, dict)
            call["input"] = arguments


def _counts(usage: dict[str, Any]) -> dict[str, Any]:
    counts = [value for name, value in usage.items() if name.endswith("_tokens")]
    assert all(isinstance(count, int) and count >= 0 for count in counts)
    assert "output_tokens" in usage
    return usage


def _error(event: dict[str, Any]) -> dict[str, Any]:
    error = event["error"]
    assert isinstance(error["type"], str)
    assert isinstance(error["message"], str)
    return dict(error)
