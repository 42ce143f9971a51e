"""What clients get: ``chat.completion.chunk`` events, or one ``chat.completion`` document."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ds4trio.api.answer import Delta, Ending, Frame
from ds4trio.api.chunks import ChoicesDocument, ChunkStream
from ds4trio.api.shapes import logprob_object
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


class ChatStream(ChunkStream):
    """Implements `Answer` with ``chat.completion.chunk`` events, ended by ``[DONE]``."""

    def __init__(self, frame: Frame, *, options: ChatOptions) -> None:
        super().__init__(
            frame,
            prefix="chatcmpl",
            kind="chat.completion.chunk",
            choices=options.n,
            empty={"delta": {}},
            include_usage=options.include_usage,
        )
        self._options = options
        self._calls_whole: dict[int, bool] = {}

    def start(self, progress: Progress) -> bytes:
        """The role of every choice: the client sees an answer begin before anything is computed.

        All at once and in order: the ``openai`` SDK appends a choice when it first sees it, whatever its index is.
        """
        role = {"delta": {"role": "assistant", "content": ""}}
        return b"".join(self.chunk(choice, role) for choice in range(self._options.n))

    def beat_event(self, progress: Progress) -> bytes:
        """A chunk whose delta is empty: every chat client takes it, and Qwen Code's idle timer counts nothing less."""
        return self.aside()

    def prefill(self, progress: Progress) -> bytes:
        """llama-server's ``prompt_progress``, where it was asked for."""
        if not self._options.progress:
            return b""
        done = progress.prefilled_tokens - progress.cached_tokens
        return self.aside(
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
            return b"".join(self.chunk(choice, {"delta": part}) for part in deltas)
        first, *rest = deltas or [{}]
        chunk = self.chunk(choice, {"delta": first}, logprobs=_logprobs(delta.logprobs))
        return chunk + b"".join(self.chunk(choice, {"delta": part}) for part in rest)

    def end(self, choice: int, ending: Ending) -> bytes:
        """The finish reason."""
        return self.end_choice(choice, ending, _finish_reason(ending, self._calls_whole.get(choice)))

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


class ChatDocument(ChoicesDocument):
    """Implements `Answer` with one ``chat.completion`` object."""

    def __init__(self, frame: Frame, *, options: ChatOptions) -> None:
        super().__init__(frame, prefix="chatcmpl", kind="chat.completion")
        self._options = options

    def choice_object(self, index: int, transcript: Transcript, ending: Ending) -> dict[str, Any]:
        """The choice with its message."""
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
