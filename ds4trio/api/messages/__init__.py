"""Anthropic Messages: ``POST /v1/messages`` and ``POST /v1/messages/count_tokens``.

Shapes follow Anthropic's API reference and the types of the ``anthropic`` SDK. `request` is the body, `history` its
messages, `tools` its tools, `answer` what goes back, `signature` what makes thinking come back as it was sent.
"""

import msgspec

from ds4trio.api.errors import ApiError
from ds4trio.api.messages import answer, request
from ds4trio.api.task import Task

__all__ = ["Messages"]


class Messages:
    """Implements `WireProtocol`."""

    def parse(self, body: bytes) -> Task:
        """Check a body of ``/v1/messages``. Raises `ApiError`, never anything else."""
        return request.parse(body, to_answer=True)

    def parse_count_tokens(self, body: bytes) -> Task:
        """Check a body of ``/v1/messages/count_tokens``: the same, but for ``max_tokens``. Raises `ApiError`."""
        return request.parse(body, to_answer=False)

    def count_tokens_document(self, tokens: int) -> bytes:
        """The answer to ``/v1/messages/count_tokens``."""
        return msgspec.json.encode({"input_tokens": tokens})

    def error_document(self, error: ApiError, *, request_id: str) -> bytes:
        """Anthropic's error object."""
        return answer.error_document(error, request_id)
