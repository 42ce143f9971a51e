"""The response object, as a stream of events and as one document.

`Draft` is the object while it grows: the request's own members around the output, and what the store knows of it.
A stream begins with ``response.created`` and ``response.in_progress`` (SDK helpers fail on anything before the first),
repeats the latter as its heartbeat, and always ends with exactly one of ``completed``, ``incomplete`` and ``failed``:
clients take a missing end for a broken connection and ask again. A cancelled response ends as ``failed`` with the
status ``cancelled``, for there is no event of that name and no client takes a failure for a result.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ds4trio.api import sse
from ds4trio.api.answer import AnswerUsage, Delta, DocumentAnswer, Ending, Frame, StreamAnswer
from ds4trio.api.errors import ApiError, InvalidRequestError, openai_error_document
from ds4trio.api.responses.output import Output
from ds4trio.api.responses.output_items import Event, Presentation
from ds4trio.api.responses.store import ResponseStore, StoredResponse
from ds4trio.chat import Message
from ds4trio.engine import Progress

__all__ = ["Keeping", "Reply", "ResponsesDocument", "ResponsesStream"]

PASSED_ON_CODES = ("context_length_exceeded",)


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where a response is kept: with the items of the request's ``input`` (JSON) and the messages before the answer."""

    store: ResponseStore
    input: tuple[bytes, ...]
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """What an answer needs to know of its request; ``echo`` are the members that the response object repeats."""

    echo: Mapping[str, Any]
    presentation: Presentation
    keeping: Keeping | None = None


@dataclass(slots=True)
class Draft:
    """The response object while it grows."""

    frame: Frame
    reply: Reply
    output: Output = field(init=False)
    _begun: bool = field(init=False, default=False)
    _ending: Ending | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.output = Output(self.reply.presentation)

    @property
    def id(self) -> str:
        """The response's id."""
        return f"resp_{self.frame.id}"

    def begin(self) -> msgspec.Raw:
        """The object before anything is known; from now on the store has it."""
        value = self.current()
        if self.reply.keeping is not None:
            self.reply.keeping.store.begin(self.id, StoredResponse(bytes(value), self.reply.keeping.input))
        self._begun = True
        return value

    def current(self) -> msgspec.Raw:
        """The object with all items that are done."""
        return self._value("in_progress")

    def end(self, ending: Ending) -> Iterable[Event]:
        """Close the items."""
        self._ending = ending
        return self.output.finish(ending.reason)

    def finish(self, usage: AnswerUsage) -> tuple[str, msgspec.Raw]:
        """The status and the complete object."""
        cut = self.output.incomplete or (self._ending is not None and self._ending.reason == "length")
        status = "incomplete" if cut else "completed"
        details = {"reason": "max_output_tokens"} if cut else None
        value = self._value(status, incomplete_details=details, usage=_usage(usage))
        self._keep(value, continues=True)
        return status, value

    def fail(self, error: ApiError) -> msgspec.Raw:
        """The object of a response that nobody will complete."""
        self.output.abandon()
        status = "cancelled" if error.code == "cancelled" else "failed"
        value = self._value(status, error={"code": _failure_code(error), "message": error.message})
        self._keep(value, continues=False)
        return value

    def _value(self, status: str, **members: object) -> msgspec.Raw:
        value = {
            "id": self.id,
            "object": "response",
            "created_at": math.floor(self.frame.created),
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self.frame.model,
            **self.reply.echo,
            "output": self.output.values(),
            "usage": None,
            **members,
        }
        return msgspec.Raw(msgspec.json.encode(value))

    def _keep(self, value: msgspec.Raw, *, continues: bool) -> None:
        keeping = self.reply.keeping
        if keeping is None:
            return
        messages = (*keeping.messages, self.output.message()) if continues else None
        stored = StoredResponse(bytes(value), keeping.input, messages, self.output.item_ids)
        if self._begun:
            keeping.store.update(self.id, stored)
        else:
            keeping.store.begin(self.id, stored)


class ResponsesStream(StreamAnswer):
    """Server-sent events, each with the next ``sequence_number``."""

    def __init__(self, reply: Reply, frame: Frame) -> None:
        self._draft = Draft(frame, reply)
        self._sequence = 0

    def start(self, progress: Progress) -> bytes:
        """``response.created`` and ``response.in_progress``."""
        value = self._draft.begin()
        return self._lifecycle("created", value) + self._lifecycle("in_progress", value)

    def beat_event(self, progress: Progress) -> bytes:
        """``response.in_progress`` with the response so far: Codex does not count comments."""
        return self._lifecycle("in_progress", self._draft.current())

    def delta(self, choice: int, delta: Delta) -> bytes:
        """The events of the items that the delta touches; may be empty."""
        return self._encoded(self._draft.output.take(delta))

    def end(self, choice: int, ending: Ending) -> bytes:
        """The end of the last item."""
        return self._encoded(self._draft.end(ending))

    def finish(self, usage: AnswerUsage) -> bytes:
        """``response.completed`` or ``response.incomplete``."""
        return self._lifecycle(*self._draft.finish(usage))

    def error(self, error: ApiError) -> bytes:
        """``response.failed``, after ``response.created`` if nothing was sent yet."""
        created = self._lifecycle("created", self._draft.begin()) if self._sequence == 0 else b""
        return created + self._lifecycle("failed", self._draft.fail(error))

    def refusal(self, error: ApiError) -> bytes:
        """OpenAI's error object."""
        return openai_error_document(error)

    def _lifecycle(self, name: str, response: msgspec.Raw) -> bytes:
        return self._encoded([{"type": f"response.{name}", "response": response}])

    def _encoded(self, events: Iterable[Event]) -> bytes:
        encoded = []
        for event in events:
            event["sequence_number"] = self._sequence
            self._sequence += 1
            encoded.append(sse.event(event["type"], event))
        return b"".join(encoded)


class ResponsesDocument(DocumentAnswer):
    """One response object, made by the same fold as the stream's last event."""

    def __init__(self, reply: Reply, frame: Frame) -> None:
        self._draft = Draft(frame, reply)

    def start(self, progress: Progress) -> bytes:
        """One space; from now on the store has the response."""
        self._draft.begin()
        return super().start(progress)

    def delta(self, choice: int, delta: Delta) -> bytes:
        """Collected for the end."""
        for _ in self._draft.output.take(delta):
            pass
        return b""

    def end(self, choice: int, ending: Ending) -> bytes:
        """Collected for the end."""
        for _ in self._draft.end(ending):
            pass
        return b""

    def finish(self, usage: AnswerUsage) -> bytes:
        """The response object."""
        return bytes(self._draft.finish(usage)[1])

    def error(self, error: ApiError) -> bytes:
        """The error object; the store gets to know it, too."""
        self._draft.fail(error)
        return super().error(error)

    def refusal(self, error: ApiError) -> bytes:
        """OpenAI's error object."""
        return openai_error_document(error)


def _failure_code(error: ApiError) -> str:
    """One of the codes of ``ResponseError``.

    Codex gives up for good on an overloaded server and on a bad prompt, makes the conversation shorter when the context
    is exceeded, and asks again after all others.
    """
    if error.code in PASSED_ON_CODES:
        return error.code
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, InvalidRequestError) else "server_error"


def _usage(usage: AnswerUsage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.prompt_tokens - usage.cached_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }
