"""The checker itself: it reads a good stream, and finds what breaks a client in a bad one."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.grammars.chat import check_chat_stream

FRAME = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "usage": None}


def chunk(index: int, delta: dict[str, Any], reason: str | None = None, **members: object) -> dict[str, Any]:
    entry = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {**FRAME, "choices": [entry], **members}


def call(index: int, arguments: str, **members: object) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, **members, "function": {"arguments": arguments}}]}


def opened(index: int) -> dict[str, Any]:
    function = {"name": "read", "arguments": ""}
    return {"tool_calls": [{"index": index, "id": f"call_{index}", "type": "function", "function": function}]}


USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
ROLE = {"role": "assistant", "content": ""}


def good() -> list[dict[str, Any]]:
    return [
        chunk(0, ROLE),
        chunk(1, ROLE),
        chunk(0, {"reasoning_content": "hm"}),
        chunk(1, {"content": "hello"}),
        chunk(0, opened(0)),
        chunk(0, call(0, '{"a":')),
        chunk(0, {}),
        chunk(0, call(0, "1}")),
        chunk(0, opened(1)),
        chunk(0, call(1, "{}")),
        chunk(0, {}, "tool_calls", timings={}),
        chunk(1, {}),
        chunk(1, {}, "stop", timings={}),
        {**FRAME, "choices": []},
        {**FRAME, "choices": [], "usage": USAGE},
    ]


def written(chunks: list[dict[str, Any]], *, done: bool = True) -> bytes:
    events = [json.dumps(chunk) for chunk in chunks] + ["[DONE]"] * done
    return b"".join(f": beat\n\ndata: {event}\n\n".encode() for event in events)


def test_a_good_stream_is_read() -> None:
    calls = [
        {"id": "call_0", "name": "read", "arguments": '{"a":1}'},
        {"id": "call_1", "name": "read", "arguments": "{}"},
    ]
    assert check_chat_stream(written(good())) == [
        {"content": "", "reasoning": "hm", "tool_calls": calls, "logprobs": None, "finish_reason": "tool_calls"},
        {"content": "hello", "reasoning": "", "tool_calls": [], "logprobs": None, "finish_reason": "stop"},
    ]


def test_a_stream_that_failed_is_read_up_to_there() -> None:
    error = {"message": "no", "type": "server_error", "param": None, "code": None}
    first, second = check_chat_stream(written([*good()[:6], {"error": error}]))
    assert (first["tool_calls"][0]["arguments"], first["error"], second["content"]) == ('{"a":', error, "hello")


def test_a_stop_string_of_the_clients_own_may_end_an_answer_within_a_call() -> None:
    chunks = good()
    del chunks[9]
    chunks[9]["choices"][0].update(finish_reason="stop")
    assert check_chat_stream(written(chunks), stop_strings=True)[0]["tool_calls"][1]["arguments"] == ""
    with pytest.raises(AssertionError):
        check_chat_stream(written(chunks))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda chunks: chunks.pop(0), id="a choice without its role"),
        pytest.param(lambda chunks: chunks.insert(0, chunks.pop(1)), id="choices out of order"),
        pytest.param(lambda chunks: chunks.insert(5, chunk(0, ROLE)), id="the role twice"),
        pytest.param(lambda chunks: chunks.insert(4, chunk(2, ROLE)), id="a choice that begins late"),
        pytest.param(lambda chunks: chunks.insert(4, chunk(2, {"content": "x"})), id="a choice from nowhere"),
        pytest.param(lambda chunks: chunks.insert(4, chunk(0, {"content": ""})), id="an empty piece"),
        pytest.param(lambda chunks: chunks.insert(4, chunk(0, {"thought": "x"})), id="an unknown piece"),
        pytest.param(lambda chunks: chunks.insert(6, chunk(0, {"content": "x"})), id="a call that is interrupted"),
        pytest.param(lambda chunks: chunks.insert(9, chunk(0, call(0, " "))), id="a call that goes on after the next"),
        pytest.param(lambda chunks: chunks.insert(6, chunk(0, call(0, "1", id="call_0"))), id="the id twice"),
        pytest.param(lambda chunks: chunks.pop(4), id="a call that never began"),
        pytest.param(lambda chunks: chunks.pop(7), id="arguments that are no JSON"),
        pytest.param(lambda chunks: chunks.insert(10, chunk(0, opened(3))), id="a call left out"),
        pytest.param(lambda chunks: chunks.pop(10), id="no finish reason"),
        pytest.param(lambda chunks: chunks.insert(11, chunk(0, {})), id="null after the finish reason"),
        pytest.param(lambda chunks: chunks.insert(11, chunks[10]), id="the finish reason twice"),
        pytest.param(lambda chunks: chunks[10]["choices"][0].update(finish_reason="stop"), id="calls that say stop"),
        pytest.param(lambda chunks: chunks.insert(4, {**FRAME, "choices": []}), id="no choice while some run"),
        pytest.param(lambda chunks: chunks.pop(), id="no usage"),
        pytest.param(lambda chunks: chunks.append(chunk(1, {})), id="a chunk after the usage"),
        pytest.param(lambda chunks: chunks[3].pop("usage"), id="usage neither null nor there"),
        pytest.param(lambda chunks: chunks[3].update(id="chatcmpl-2"), id="two ids"),
        pytest.param(lambda chunks: chunks[3].update(created=2), id="two times"),
        pytest.param(lambda chunks: chunks[8]["choices"][0].update(delta=opened(0)), id="an index twice"),
        pytest.param(lambda chunks: chunks.clear(), id="nothing at all"),
    ],
)
def test_what_would_break_a_client_is_found(damage: Callable[[list[dict[str, Any]]], object]) -> None:
    chunks = good()
    damage(chunks)
    with pytest.raises((AssertionError, ValueError)):
        check_chat_stream(written(chunks))


@pytest.mark.parametrize(
    "content",
    [
        written(good(), done=False),
        b"",
        written(good())[:-1],
        written(good()).replace(b"\n\n", b"\r\n\r\n"),
        written(good()) + b"data: {}\n\n",
        written(good()).replace(b"data: ", b"event: x\ndata: ", 1),
    ],
    ids=["no end", "nothing", "an end that is cut", "other line breaks", "more after the end", "named events"],
)
def test_what_would_break_a_parser_is_found(content: bytes) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check_chat_stream(content)
