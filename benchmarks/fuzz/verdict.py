"""What may be said of an answer to bad input: nothing, if it is one that its protocol's clients understand."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from benchmarks.fuzz.wire import Heard
from ds4trio.server.openapi.answers.errors import MessagesError, OpenAIError
from ds4trio.server.openapi.operations import operations

__all__ = ["Judge"]

LAST_EVENTS = (b"data: [DONE]\n\n", b"event: message_stop\n", b"event: error\n")
LAST_RESPONSE_EVENTS = tuple(f"event: response.{name}\n".encode() for name in ("completed", "incomplete", "failed"))
RETRY_STATUSES = (429, 503, 529)


class Judge:
    """Knows which documents belong to which endpoint, strictly: no member but the known ones."""

    def __init__(self) -> None:
        self._answers: Mapping[tuple[str, str], msgspec.json.Decoder[Any]] = {
            (operation.method.upper(), operation.path): msgspec.json.Decoder(operation.answer)
            for operation in operations("")
            if operation.answer is not None
        }
        self._openai, self._messages = msgspec.json.Decoder(OpenAIError), msgspec.json.Decoder(MessagesError)

    def fault(self, method: str, target: str, heard: Heard) -> str | None:
        """What is wrong with an answer; None for nothing."""
        status, kind = heard.status, heard.headers.get("content-type", "").partition(";")[0]
        path = unquote(target.partition("?")[0])
        if not heard.whole:
            return "hung up without an answer" if not status else "cut off"
        if status in RETRY_STATUSES and "retry-after" not in heard.headers:
            return f"{status} without Retry-After"
        if status >= 500 and status not in RETRY_STATUSES:
            return f"status {status}"
        if b"Traceback" in heard.body:
            return "a traceback"
        if 300 <= status < 400:
            return f"status {status}"
        if method == "HEAD" or status == 204:
            return None if not heard.body else "a body that may not be"
        if status >= 400:
            if kind != "application/json":
                return f"an error of type {kind!r}"
            return self._read(self._messages if path.startswith("/v1/messages") else self._openai, heard.body)
        if kind == "application/json" and (decoder := self._answers.get((method, path))) is not None:
            return self._read(decoder, heard.body)
        if kind == "text/event-stream" and method == "POST":
            last = heard.body.rstrip(b"\n").rpartition(b"\n\n")[2] + b"\n\n"
            return None if last.startswith(LAST_EVENTS + LAST_RESPONSE_EVENTS) else "a stream without its end"
        return None

    def _read(self, decoder: msgspec.json.Decoder[Any], body: bytes) -> str | None:
        try:
            decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return f"not the shape of its protocol: {error}"
        return None
