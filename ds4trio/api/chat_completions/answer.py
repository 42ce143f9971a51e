"""What clients get: ``chat.completion.chunk`` events, or one ``chat.completion`` document."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ds4trio.api import sse
from ds4trio.api.answer import AnswerUsage, CollectedAnswer, Delta, Ending, Frame, StreamAnswer
from ds4trio.api.errors import ApiError, openai_error, openai_error_document
from ds4trio.api.shapes import logprob_object, usage_object
from ds4trio.api.timings import timings
from ds4trio.api.transcript import Transcript
from ds4trio.chat import ContentDelta, OutputEvent, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from ds4trio.engine import Progress, TokenLogprob

__all__ = ["ChatDocument", "ChatOptions", "ChatStream"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """What a client wants to see beside the text, and of how many choices."""

    include_usage: bool
    logprobs: bool
    progress: bool
    n: int = 1


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": [logprob_object(token) for token in tokens], "refusal": None}


def _finish_reason(ending: Ending, calls_whole: bool | None) -> str:
    """``tool_calls`` tells the client to carry them out: only if all are whole and the model itself came to its end."""
    if calls_whole is None or ending.stop_sequence is not None or ending.reason == "length":
        return ending.reason
    return "tool_calls" if calls_whole else "length"


def _new_call_id() -> str:
    # Unguessable: a client that sends it back shows that it has seen this very call.
    return f"call_{secrets.token_hex(12)}"


class ChatStream(StreamAnswer):
    """Implements `Answer` with ``chat.completion.chunk`` events, ended by ``[DONE]``."""

    def __init__(self, frame: Frame, *, options: ChatOptions) -> None:
        self._frame: dict[str, Any] = {
            "id": f"chatcmpl-{frame.id}",
            "object": "chat.completion.chunk",
            "created": math.floor(frame.created),
            "model": frame.model,
        }
        if options.include_usage:
            self._frame["usage"] = None
        self._options = options
        self._calls_whole: dict[int, bool] = {}
        self._running = list(range(options.n))

    def start(self, progress: Progress) -> bytes:
        """The role of every choice: the client sees an answer begin before anything is computed.

        All at once and in order: the ``openai`` SDK appends a choice when it first sees it, whatever its index is.
        """
        return b"".join(self._chunk(choice, {"role": "assistant", "content": ""}) for choice in self._running)

    def beat_event(self, progress: Progress) -> bytes:
        """A chunk whose delta is empty: every chat client takes it, and Qwen Code's idle timer counts nothing less."""
        return self._aside()

    def prefill(self, progress: Progress) -> bytes:
        """llama-server's ``prompt_progress``, where it was asked for."""
        if not self._options.progress:
            return b""
        done = progress.prefilled_tokens - progress.cached_tokens
        return self._aside(
            prompt_progress={
                "total": progress.prompt_tokens,
                "cache": progress.cached_tokens,
                "processed": progress.prefilled_tokens,
                "time_ms": round(1000 * done / progress.rate) if progress.rate > 0 else 0,
            },
        )

    def delta(self, choice: int, delta: Delta) -> bytes:
        """A chunk for each event; the tokens' logprobs go with the first."""
        deltas = [part for event in delta.events if (part := self._part(choice, event)) is not None]
        if not delta.logprobs:
            return b"".join(self._chunk(choice, part) for part in deltas)
        first, *rest = deltas or [{}]
        chunk = self._chunk(choice, first, logprobs=_logprobs(delta.logprobs))
        return chunk + b"".join(self._chunk(choice, part) for part in rest)

    def end(self, choice: int, ending: Ending) -> bytes:
        """The finish reason."""
        self._running.remove(choice)
        reason = _finish_reason(ending, self._calls_whole.get(choice))
        return self._chunk(choice, {}, finish_reason=reason, timings=timings(ending))

    def finish(self, usage: AnswerUsage) -> bytes:
        """The usage if it was asked for, and ``[DONE]``."""
        end = b""
        if self._options.include_usage:
            end = self._event([], usage=usage_object(usage))
        return end + b"data: [DONE]\n\n"

    def error(self, error: ApiError) -> bytes:
        """OpenAI's error object as an event (the SDKs raise on it), and ``[DONE]``."""
        return sse.data(openai_error(error)) + b"data: [DONE]\n\n"

    def refusal(self, error: ApiError) -> bytes:
        """OpenAI's error object."""
        return openai_error_document(error)

    def _part(self, choice: int, event: OutputEvent) -> dict[str, Any] | None:
        match event:
            case ContentDelta(text):
                return {"content": text}
            case ReasoningDelta(text):
                return {"reasoning_content": text}
            case ToolCallStart(index, name):
                function = {"name": name, "arguments": ""}
                return {
                    "tool_calls": [{"index": index, "id": _new_call_id(), "type": "function", "function": function}]
                }
            case ToolCallDelta(index, arguments):
                return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}
            case ToolCallEnd(_, complete):
                self._calls_whole[choice] = complete and self._calls_whole.get(choice, True)
        return None

    def _aside(self, **members: Any) -> bytes:
        """A chunk with nothing for any choice.

        It names one that still runs: null after a finish reason would take it back. Once all have ended it names none.
        """
        return self._chunk(self._running[0], {}, **members) if self._running else self._event([], **members)

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
        **members: object,
    ) -> bytes:
        entry = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._event([entry], **members)

    def _event(self, choices: list[dict[str, Any]], **members: object) -> bytes:
        return sse.data({**self._frame, "choices": choices, **members})


class ChatDocument(CollectedAnswer):
    """Implements `Answer` with one ``chat.completion`` object."""

    def __init__(self, frame: Frame, *, options: ChatOptions) -> None:
        super().__init__()
        self._frame = {
            "id": f"chatcmpl-{frame.id}",
            "object": "chat.completion",
            "created": math.floor(frame.created),
            "model": frame.model,
        }
        self._options = options

    def finish(self, usage: AnswerUsage) -> bytes:
        """The whole document."""
        choices = [
            self._choice(index, transcript, self.endings[index]) for index, transcript in sorted(self.choices.items())
        ]
        return msgspec.json.encode(
            {**self._frame, "choices": choices, "usage": usage_object(usage), "timings": timings(self.endings[0])}
        )

    def refusal(self, error: ApiError) -> bytes:
        """OpenAI's error object."""
        return openai_error_document(error)

    def _choice(self, index: int, transcript: Transcript, ending: Ending) -> dict[str, Any]:
        calls = [
            {"id": _new_call_id(), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in transcript.calls
        ]
        message: dict[str, Any] = {"role": "assistant", "content": transcript.content, "refusal": None}
        if transcript.reasoning:
            message["reasoning_content"] = transcript.reasoning
        if calls:
            message["content"] = transcript.content or None
            message["tool_calls"] = calls
        return {
            "index": index,
            "message": message,
            "logprobs": _logprobs(transcript.logprobs) if self._options.logprobs else None,
            "finish_reason": _finish_reason(ending, transcript.calls_whole),
        }
