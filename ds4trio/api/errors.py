"""Errors that clients may see. Each protocol puts them into its own shape."""

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = [
    "ApiError",
    "CancelledError",
    "ContextLengthError",
    "ForbiddenError",
    "InternalError",
    "InvalidRequestError",
    "NotFoundError",
    "OverloadedError",
    "TooManyRequestsError",
    "TooOldError",
    "UnauthorizedError",
    "UnknownModelError",
    "openai_error",
    "openai_error_document",
    "shown",
]

MOST_SHOWN = 40


class ApiError(Exception):
    """Something to tell the client: an HTTP status, a machine-readable ``code``, and a message that says what to do.

    ``param`` is the JSON path of the offending part; ``details`` are further members of the error object;
    ``retry_after`` is in whole seconds.
    """

    status = 500
    kind = "server_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        details: Mapping[str, int] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.details = details or {}
        self.retry_after = retry_after

    @property
    def servers_fault(self) -> bool:
        """Whether its message may be logged and shown: that of a client's fault may quote the prompt."""
        return self.status >= 500


class InvalidRequestError(ApiError):
    """The request cannot be answered as it is."""

    status = 400
    kind = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    """The prompt leaves no room for an answer."""

    def __init__(self, prompt_tokens: int, context_length: int, *, param: str) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens and this server's context {context_length}, which must also hold "
            "the answer; shorten the conversation or start the server with a larger --ctx",
            code="context_length_exceeded",
            param=param,
            details={"n_prompt_tokens": prompt_tokens, "n_ctx": context_length},
        )


class UnknownModelError(InvalidRequestError):
    """No such model here."""

    status = 404

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"the model {shown(name)} does not exist; this server has: {', '.join(known)}",
            code="model_not_found",
            param="model",
        )


class NotFoundError(InvalidRequestError):
    """What the path names is not there."""

    status = 404


class UnauthorizedError(InvalidRequestError):
    """No key, or a wrong one."""

    status = 401
    kind = "authentication_error"

    def __init__(self) -> None:
        super().__init__(
            "the API key is missing or wrong; send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
            code="invalid_api_key",
        )


class ForbiddenError(InvalidRequestError):
    """Whoever asks may not."""

    status = 403
    kind = "permission_error"


class TooOldError(ApiError):
    """The request has lived as long as any may."""

    status = 504

    def __init__(self, seconds: float) -> None:
        super().__init__(f"a request may take {seconds:g} s here, and this one has", code="request_too_old")


class OverloadedError(ApiError):
    """Not now: still loading, too many in the queue, or shutting down."""

    status = 503
    kind = "overloaded_error"


class TooManyRequestsError(OverloadedError):
    """The queue is full, or this key has asked for as much as it may."""

    status = 429
    kind = "rate_limit_error"


class CancelledError(ApiError):
    """Somebody who may do so has ended the answer."""

    status = 499

    def __init__(self) -> None:
        super().__init__("the request was cancelled", code="cancelled")


class InternalError(ApiError):
    """A fault of the server; the message says nothing of the request."""

    status = 500


def shown(text: str) -> str:
    """A client's own text as messages quote it: printable ASCII on one line, and not more than its beginning."""
    return ascii(text[:MOST_SHOWN]) + ("..." if len(text) > MOST_SHOWN else "")


def openai_error(error: ApiError) -> dict[str, Any]:
    """The error object that OpenAI's protocols share; there a path has no root."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.param.removeprefix("$.") if error.param else None,
            "code": error.code,
            **error.details,
        }
    }


def openai_error_document(error: ApiError) -> bytes:
    """The same as a JSON document."""
    return msgspec.json.encode(openai_error(error))
