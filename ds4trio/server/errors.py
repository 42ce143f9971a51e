"""From whatever went wrong to an answer in the protocol's shape: never a traceback, never an HTML page."""

import logging

from quart import Response
from werkzeug.exceptions import HTTPException

from ds4trio.api.errors import (
    ApiError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    TooManyRequestsError,
)
from ds4trio.chat import TemplateFailedError, UnenforceableError
from ds4trio.engine import EngineError, EngineStoppedError, GrammarError, QueueFullError
from ds4trio.engine.breakdown import breakdown, first_leaf

__all__ = ["UnsupportedMediaTypeError", "api_error", "error_response", "log_breakdown"]

log = logging.getLogger("ds4trio")

SHUTDOWN_RETRY_AFTER = 5
HTTP_MESSAGES = {
    404: "there is no such endpoint; the README lists those that there are",
    405: "this endpoint takes another method; the Allow header says which",
    408: "the request body did not arrive in time; --body-timeout is the number of seconds that it may take",
    413: "the request body is too large; start the server with a larger --max-body-bytes",
}


class _HttpError(ApiError):
    """An error that HTTP itself has a status for."""

    kind = "invalid_request_error"

    def __init__(self, error: HTTPException) -> None:
        super().__init__(HTTP_MESSAGES.get(error.code or 500, error.description or error.name))
        self.status = error.code or 500


class UnsupportedMediaTypeError(InvalidRequestError):
    """Only JSON is read. A web page could send other types to a local server without asking first."""

    status = 415

    def __init__(self, mimetype: str) -> None:
        super().__init__(
            f"the content type is {mimetype or 'missing'!r}; send 'Content-Type: application/json'",
            code="unsupported_media_type",
        )


def api_error(error: Exception) -> ApiError:
    """The error that clients get for ``error``."""
    match error:
        case ApiError():
            return error
        case QueueFullError():
            return TooManyRequestsError(str(error), code="queue_full", retry_after=error.retry_after)
        case EngineStoppedError():
            return OverloadedError(str(error), code="shutting_down", retry_after=SHUTDOWN_RETRY_AFTER)
        case GrammarError():
            return InvalidRequestError(str(error), code="grammar_failed", param="response_format")
        case EngineError():
            return InternalError(str(error), code="engine_error")
        case TemplateFailedError():
            return InvalidRequestError(
                f"the model's chat template refused these messages: {error}",
                code="template_error",
                param="messages",
            )
        case UnenforceableError():
            return InvalidRequestError(str(error), code="unsupported_schema", param=error.param)
        case HTTPException():
            return _HttpError(error)
        case _:
            return InternalError("the server failed on this request; its log says more", code="internal_error")


def error_response(error: ApiError, document: bytes) -> Response:
    """A complete JSON answer with the error's status; ``document`` is the error in its protocol's shape."""
    response = Response(document, status=error.status, content_type="application/json")
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def log_breakdown(error: BaseException) -> None:
    """Log where a fault of the server is and of what kind, but not its message: that may quote a prompt."""
    log.error("a request broke down: %s", breakdown(first_leaf(error)))
