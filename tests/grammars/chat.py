"""The grammar of a Chat Completions stream, as its clients rely on it, checked on the bytes.

    stream  = role+ (delta | aside | finish)* (usage? | error) [DONE]            comments anywhere
    role    = a chunk that opens a choice; all of them come first, in the order of their indexes
    delta   = a piece of reasoning, of content or of one tool call's arguments
    aside   = a chunk with an empty delta for a choice that still runs, or without choices once all have ended
    finish  = a chunk with the choice's finish reason and nothing else; no chunk names that choice afterwards

Why so strict: the ``openai`` SDK appends a choice when it first sees it, whatever its index is; many clients keep the
finish reason of the last chunk that names a choice, so a null would take it back; and those that asked for the usage
take every chunk without choices for it unless its usage is null.
"""

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["check_chat_stream", "openai_chunks", "sse_data"]

FRAME = {"id", "object", "created", "model", "choices", "usage"}


def check_chat_stream(body: bytes, *, stop_strings: bool = False) -> list[dict[str, Any]]:
    """What each choice comes to. Raises `AssertionError` where the grammar is broken, `ValueError` where JSON is.

    A choice has ``content``, ``reasoning``, ``tool_calls`` (each ``id``, ``name`` and ``arguments``), ``logprobs`` (a
    list, or None without them) and ``finish_reason``; after a stream that failed also ``error``. With ``stop_strings``
    the request had some of its own: one of them may have ended an answer after or within a call.
    """
    chunks, error = openai_chunks(body, kind="chat.completion.chunk", prefix="chatcmpl-")
    choices: list[_Choice] = []
    for chunk in chunks:
        further = set(chunk) - FRAME
        match chunk["choices"]:
            case []:
                assert further <= {"prompt_progress"}
                assert all(choice.finish_reason for choice in choices), "an aside names a choice that still runs"
            case [entry]:
                _take(choices, entry, further)
            case _:
                raise AssertionError("one choice a chunk")
    assert choices or error, "an answer has a choice"
    ids = [call["id"] for choice in choices for call in choice.tool_calls]
    assert len(set(ids)) == len(ids), "each call has an id of its own"
    if error is None:
        for choice in choices:
            choice.check_end(stop_strings=stop_strings)
    return [choice.result() | ({"error": error} if error else {}) for choice in choices]


def openai_chunks(body: bytes, *, kind: str, prefix: str) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The chunks of a stream, and the error that ended it, if one did, after a check of what OpenAI's streams share."""
    *documents, done = sse_data(body) or [""]
    assert done == "[DONE]"
    chunks = [json.loads(document) for document in documents]
    assert chunks, "the stream is empty"
    error = None
    if "error" in chunks[-1]:
        last = chunks.pop()
        assert set(last) == {"error"}
        error = last["error"]
        assert {"message", "type", "param", "code"} <= set(error)
    assert all("error" not in chunk for chunk in chunks), "an error is the last thing that is said"
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) <= 1, "one answer"
    for chunk in chunks:
        assert chunk["object"] == kind
        assert chunk["id"].startswith(prefix)
        assert type(chunk["created"]) is int
    _check_usage(chunks, failed=error is not None)
    return chunks, error


def sse_data(body: bytes) -> list[str]:
    """The events of a stream as a strict parser sees them: comments dropped, one ``data`` line each."""
    assert b"\r" not in body
    *events, rest = body.decode().split("\n\n")
    assert rest == "", "the last event is dispatched"
    data = []
    for event in events:
        lines = [line for line in event.split("\n") if not line.startswith(":")]
        if lines:
            line = lines[0]
            assert len(lines) == 1
            assert line.startswith("data: ")
            data.append(line.removeprefix("data: "))
    return data


def _check_usage(chunks: list[dict[str, Any]], *, failed: bool) -> None:
    """Where it was asked for, every chunk has the member: null, except for the last one, which has no choices."""
    assert len({"usage" in chunk for chunk in chunks}) <= 1, "all chunks have the member or none"
    if chunks and "usage" in chunks[-1] and not failed:
        *chunks, last = chunks
        usage = last["usage"]
        assert last["choices"] == []
        assert usage, "the usage comes last"
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert all(chunk.get("usage") is None for chunk in chunks)


@dataclass(slots=True)
class _Choice:
    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, str]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] | None = None
    finish_reason: str | None = None
    begun: bool = False
    in_call: bool = False

    def grow(self, name: str, piece: Any) -> None:
        if name == "tool_calls":
            (fragment,) = piece
            self._grow_call(fragment)
            return
        assert isinstance(piece, str)
        assert piece, "no piece is empty"
        self.in_call = False
        match name:
            case "content":
                self.content += piece
            case "reasoning_content":
                self.reasoning += piece
            case _:
                raise AssertionError(f"no client knows {name}")

    def _grow_call(self, fragment: dict[str, Any]) -> None:
        match fragment:
            case {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}:
                assert index == len(self.tool_calls), "calls count from 0"
                assert id.startswith("call_")
                assert name
                self.tool_calls.append({"id": id, "name": name, "arguments": arguments})
                self.in_call = True
            case {"index": index, "function": {"arguments": arguments, **more_of_function}, **more}:
                assert not more | more_of_function, "only a call's first fragment says what it is"
                assert self.in_call, "the fragments of a call follow each other"
                assert index == len(self.tool_calls) - 1
                assert arguments, "no piece is empty"
                self.tool_calls[index]["arguments"] += arguments
            case _:
                raise AssertionError(f"not a fragment of a call: {fragment}")

    def check_end(self, *, stop_strings: bool) -> None:
        """Calls are complete, except where the answer says that something was cut off."""
        assert self.finish_reason in {"stop", "length", "tool_calls"}, "every choice has its finish reason"
        if self.finish_reason == "length" or (stop_strings and self.finish_reason == "stop"):
            return
        assert (self.finish_reason == "tool_calls") == bool(self.tool_calls)
        assert all(isinstance(json.loads(call["arguments"]), dict) for call in self.tool_calls)

    def result(self) -> dict[str, Any]:
        return {
            "content": self.content,
            "reasoning": self.reasoning,
            "tool_calls": self.tool_calls,
            "logprobs": self.logprobs,
            "finish_reason": self.finish_reason,
        }


def _take(choices: list[_Choice], entry: dict[str, Any], further: set[str]) -> None:
    """One entry of ``choices``; ``further`` are the members beside the frame's."""
    assert set(entry) == {"index", "delta", "logprobs", "finish_reason"}
    index, delta, logprobs, reason = entry["index"], entry["delta"], entry["logprobs"], entry["finish_reason"]
    if "role" in delta:
        assert index == len(choices), "choices begin in the order of their indexes"
        assert not any(choice.begun for choice in choices), "all choices begin before the first piece"
        assert delta == {"role": "assistant", "content": ""}
        assert (logprobs, reason, further) == (None, None, set())
        choices.append(_Choice())
        return
    assert index < len(choices), "a choice begins with its role"
    choice = choices[index]
    assert choice.finish_reason is None, "nothing follows the finish reason"
    choice.begun = True
    if reason is not None:
        assert (delta, logprobs, further) == ({}, None, {"timings"})
        choice.finish_reason = reason
        return
    assert further <= (set() if delta else {"prompt_progress"})
    assert len(delta) <= 1, "one kind of piece a delta"
    for name, piece in delta.items():
        choice.grow(name, piece)
    if logprobs is not None:
        assert set(logprobs) == {"content", "refusal"}
        choice.logprobs = (choice.logprobs or []) + [_logprob(token) for token in logprobs["content"]]


def _logprob(token: dict[str, Any]) -> dict[str, Any]:
    assert set(token) == {"token", "logprob", "bytes", "top_logprobs"}
    for entry in (token, *token["top_logprobs"]):
        assert bytes(entry["bytes"]).decode(errors="replace") == entry["token"]
        assert entry["logprob"] <= 0
    return token
