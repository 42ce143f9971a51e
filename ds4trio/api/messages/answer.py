"""Answers as Anthropic's message object and as its stream of events.

A stream is ``message_start``; content blocks, one after the other, each a start, deltas and a stop; one
``message_delta`` with the reason and the usage; ``message_stop``. An ``error`` event may take the place of the rest:
clients raise or retry on it and wait for nothing more, and a stop reason after it would be a lie.

Usage. ``input_tokens``, ``cache_read_input_tokens`` and ``cache_creation_input_tokens`` add up to the prompt. Cached
tokens were read. The others were computed and, as this server keeps every prompt, written too; each token can be
reported once only, so they count as ``cache_creation_input_tokens`` if the request marks anything with
``cache_control``, which is how an agent says that it thinks in reads and writes, and else as ``input_tokens``. At
``message_start`` only the prompt's size may be known; the usage at the end replaces that one.
"""

import secrets
from typing import Literal

import msgspec

from ds4trio.api import sse
from ds4trio.api.answer import AnswerUsage, CollectedAnswer, Delta, Ending, Frame, StreamAnswer
from ds4trio.api.errors import ApiError
from ds4trio.api.messages.signature import carrying, signature
from ds4trio.api.transcript import Call, Content, Reasoning, Transcript
from ds4trio.chat import ContentDelta, OutputEvent, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from ds4trio.engine import Progress

__all__ = ["MessagesDocument", "MessagesStream", "error_document"]

_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class MessagesStream(StreamAnswer):
    """The stream of events.

    ``caching``: the request marks something with ``cache_control``. ``hide_thinking``: thinking blocks hold only a
    signature, which carries the text.
    """

    def __init__(self, frame: Frame, *, caching: bool, hide_thinking: bool) -> None:
        self._frame = frame
        self._caching = caching
        self._hide_thinking = hide_thinking
        self._index = 0
        self._open: Literal["thinking", "text", "tool_use"] | None = None
        self._thoughts: list[str] = []
        self._calls_whole: bool | None = None
        self._ending: Ending | None = None

    def start(self, progress: Progress) -> bytes:
        """``message_start`` with what is known of the prompt."""
        usage = AnswerUsage(progress.prompt_tokens, progress.cached_tokens, progress.output_tokens)
        message = _message(self._frame, [], None, None, _usage(usage, caching=self._caching))
        return _event({"type": "message_start", "message": message})

    def beat_event(self, progress: Progress) -> bytes:
        """A ``ping``, and a ``message_delta`` that says only how many tokens there are.

        Pings are Anthropic's own sign of life, but client libraries drop them before a client's watchdog sees them.
        A ``message_delta`` without a stop reason is seen, and changes nothing wherever it comes: Claude Code 2.1.330
        and the accumulators of both SDKs give the same message and usage with fifty of them, in open blocks too.
        """
        return _event({"type": "ping"}) + _message_delta(None, None, {"output_tokens": progress.output_tokens})

    def delta(self, choice: int, delta: Delta) -> bytes:
        """Starts, deltas and stops of content blocks."""
        return b"".join([self._say(event) for event in delta.events])

    def end(self, choice: int, ending: Ending) -> bytes:
        """The stop of the last block. The reason waits for `finish`: a beat in between would take it back."""
        self._ending = ending
        return self._close()

    def finish(self, usage: AnswerUsage) -> bytes:
        """The reason, the final usage, and ``message_stop``."""
        assert self._ending is not None, "the choice ends before the answer does"
        reason, sequence = _stop(self._ending, self._calls_whole)
        return _message_delta(reason, sequence, _final_usage(usage, caching=self._caching)) + _event(
            {"type": "message_stop"}
        )

    def error(self, error: ApiError) -> bytes:
        """An ``error`` event; nothing has to come before it."""
        return _event(_error(error))

    def refusal(self, error: ApiError) -> bytes:
        """Anthropic's error object."""
        return error_document(error, f"req_{self._frame.id}")

    def _say(self, event: OutputEvent) -> bytes:
        match event:
            case ContentDelta(text):
                opening = self._enter("text", {"type": "text", "text": ""})
                return opening + self._delta({"type": "text_delta", "text": text})
            case ReasoningDelta(text):
                opening = self._enter("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                self._thoughts.append(text)
                if self._hide_thinking:
                    return opening
                return opening + self._delta({"type": "thinking_delta", "thinking": text})
            case ToolCallDelta(_, arguments):
                return self._delta({"type": "input_json_delta", "partial_json": arguments})
            case ToolCallStart(_, name):
                return self._enter("tool_use", _tool_use(name, {}))
            case ToolCallEnd(_, complete):
                self._calls_whole = complete and self._calls_whole is not False
                return self._close()

    def _enter(self, kind: Literal["thinking", "text", "tool_use"], block: dict[str, object]) -> bytes:
        """Be in a block of this kind: nothing to say if that is so already, and every call has a block of its own."""
        if self._open == kind != "tool_use":
            return b""
        closing = self._close()
        self._open = kind
        return closing + _event({"type": "content_block_start", "index": self._index, "content_block": block})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        signing = b""
        if self._open == "thinking":
            signing = self._delta({"type": "signature_delta", "signature": self._signature()})
        self._open = None
        self._index += 1
        return signing + _event({"type": "content_block_stop", "index": self._index - 1})

    def _signature(self) -> str:
        thinking = "".join(self._thoughts)
        self._thoughts.clear()
        return carrying(thinking) if self._hide_thinking else signature(thinking)

    def _delta(self, delta: dict[str, object]) -> bytes:
        return _event({"type": "content_block_delta", "index": self._index, "delta": delta})


class MessagesDocument(CollectedAnswer):
    """One message object; the arguments are those of `MessagesStream`."""

    def __init__(self, frame: Frame, *, caching: bool, hide_thinking: bool) -> None:
        super().__init__()
        self._frame = frame
        self._caching = caching
        self._hide_thinking = hide_thinking

    def finish(self, usage: AnswerUsage) -> bytes:
        """The whole message."""
        (transcript,), (ending,) = self.choices.values(), self.endings.values()
        reason, sequence = _stop(ending, transcript.calls_whole)
        totals = _final_usage(usage, caching=self._caching)
        return msgspec.json.encode(_message(self._frame, self._blocks(transcript), reason, sequence, totals))

    def refusal(self, error: ApiError) -> bytes:
        """Anthropic's error object."""
        return error_document(error, f"req_{self._frame.id}")

    def _blocks(self, transcript: Transcript) -> list[dict[str, object]]:
        return [self._block(item) for item in transcript.items]

    def _block(self, item: Reasoning | Content | Call) -> dict[str, object]:
        match item:
            case Content():
                return {"type": "text", "text": item.text}
            case Call():
                return _tool_use(item.name, _arguments(item))
            case Reasoning() if self._hide_thinking:
                return {"type": "thinking", "thinking": "", "signature": carrying(item.text)}
            case Reasoning():
                return {"type": "thinking", "thinking": item.text, "signature": signature(item.text)}


def error_document(error: ApiError, request_id: str) -> bytes:
    """Anthropic's error object."""
    return msgspec.json.encode({**_error(error), "request_id": request_id})


def _error(error: ApiError) -> dict[str, object]:
    """Anthropic's type and message; further members say more to those who look."""
    kind = _ERROR_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    more = {name: value for name, value in (("code", error.code), ("param", error.param)) if value is not None}
    return {"type": "error", "error": {"type": kind, "message": error.message, **more, **error.details}}


def _event(value: dict[str, object]) -> bytes:
    """An event is named after its type."""
    return sse.event(str(value["type"]), value)


def _message_delta(reason: str | None, sequence: str | None, usage: dict[str, object]) -> bytes:
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    return _event({"type": "message_delta", "delta": delta, "usage": usage})


def _message(
    frame: Frame,
    content: list[dict[str, object]],
    reason: str | None,
    sequence: str | None,
    usage: dict[str, object],
) -> dict[str, object]:
    return {
        "id": f"msg_{frame.id}",
        "type": "message",
        "role": "assistant",
        "model": frame.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": usage,
    }


def _tool_use(name: str, input: object) -> dict[str, object]:
    return {"type": "tool_use", "id": f"toolu_{secrets.token_hex(12)}", "name": name, "input": input}


def _arguments(call: Call) -> object:
    """What the model wrote, its numbers and order kept; ``{}`` where it was cut off.

    Half a command must not look like a whole one. Empty input fails every client's check instead.
    """
    return msgspec.Raw(call.arguments.encode()) if call.complete else {}


def _stop(ending: Ending, calls_whole: bool | None) -> tuple[str, str | None]:
    """Stop reason and stop sequence. A call that was cut off is not one to carry out, so every cut comes first."""
    if ending.stop_sequence is not None:
        return "stop_sequence", ending.stop_sequence
    if ending.reason == "length" or calls_whole is False:
        return "max_tokens", None
    return "tool_use" if calls_whole else "end_turn", None


def _usage(usage: AnswerUsage, *, caching: bool) -> dict[str, object]:
    computed = usage.prompt_tokens - usage.cached_tokens
    return {
        "input_tokens": 0 if caching else computed,
        "cache_creation_input_tokens": computed if caching else 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }


def _final_usage(usage: AnswerUsage, *, caching: bool) -> dict[str, object]:
    details = {"thinking_tokens": usage.reasoning_tokens}
    return {**_usage(usage, caching=caching), "output_tokens_details": details}
