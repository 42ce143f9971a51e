"""What Chat Completions and Completions have in common: chunks that name their choices, and documents of choices.

The protocols add what a choice holds: a delta or a text, a message or a text.
"""

import math
from abc import abstractmethod
from typing import Any

import msgspec

from ds4trio.api import sse
from ds4trio.api.answer import AnswerUsage, CollectedAnswer, Ending, Frame, StreamAnswer
from ds4trio.api.errors import ApiError, openai_error, openai_error_document
from ds4trio.api.shapes import usage_object
from ds4trio.api.timings import timings
from ds4trio.api.transcript import Transcript

__all__ = ["ChoicesDocument", "ChunkStream"]


def _frame(frame: Frame, prefix: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{frame.id}",
        "object": kind,
        "created": math.floor(frame.created),
        "model": frame.model,
    }


class ChunkStream(StreamAnswer):
    """A stream of chunks, ended by ``[DONE]``. ``empty`` is what a choice holds in a chunk that says nothing."""

    def __init__(
        self, frame: Frame, *, prefix: str, kind: str, choices: int, empty: dict[str, Any], include_usage: bool
    ) -> None:
        self._frame = _frame(frame, prefix, kind)
        if include_usage:
            self._frame["usage"] = None
        self._include_usage = include_usage
        self._empty = empty
        self._running = list(range(choices))

    def end_choice(self, choice: int, ending: Ending, reason: str) -> bytes:
        """The finish reason; no later chunk names this choice."""
        self._running.remove(choice)
        return self.chunk(choice, self._empty, finish_reason=reason, timings=timings(ending))

    def finish(self, usage: AnswerUsage) -> bytes:
        """The usage if it was asked for, and ``[DONE]``."""
        end = self._event([], usage=usage_object(usage)) if self._include_usage else b""
        return end + b"data: [DONE]\n\n"

    def error(self, error: ApiError) -> bytes:
        """OpenAI's error object as an event (the SDKs raise on it), and ``[DONE]``."""
        return sse.data(openai_error(error)) + b"data: [DONE]\n\n"

    def refusal(self, error: ApiError) -> bytes:
        """OpenAI's error object."""
        return openai_error_document(error)

    def aside(self, **members: Any) -> bytes:
        """A chunk with nothing for any choice.

        It names one that still runs: null after a finish reason would take it back. Once all have ended it names none.
        """
        if not self._running:
            return self._event([], **members)
        return self.chunk(self._running[0], self._empty, **members)

    def chunk(
        self,
        choice: int,
        held: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
        **members: object,
    ) -> bytes:
        """A chunk for one choice, with what it holds; ``members`` are the chunk's own."""
        entry = {"index": choice, **held, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._event([entry], **members)

    def _event(self, choices: list[dict[str, Any]], **members: object) -> bytes:
        return sse.data({**self._frame, "choices": choices, **members})


class ChoicesDocument(CollectedAnswer):
    """One document with all choices."""

    def __init__(self, frame: Frame, *, prefix: str, kind: str) -> None:
        super().__init__()
        self._frame = _frame(frame, prefix, kind)

    @abstractmethod
    def choice_object(self, index: int, transcript: Transcript, ending: Ending) -> dict[str, Any]:
        """One choice as the document tells of it."""

    def finish(self, usage: AnswerUsage) -> bytes:
        """The whole document."""
        choices = [
            self.choice_object(index, transcript, self.endings[index])
            for index, transcript in sorted(self.choices.items())
        ]
        return msgspec.json.encode(
            {**self._frame, "choices": choices, "usage": usage_object(usage), "timings": timings(self.endings[0])}
        )

    def refusal(self, error: ApiError) -> bytes:
        """OpenAI's error object."""
        return openai_error_document(error)
