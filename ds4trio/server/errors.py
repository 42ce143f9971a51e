"""From whatever went wrong to an answer in the protocol's shape: never a traceback, never an HTML page."""

from quart import Response
from werkzeug.exceptions import HTTPException

from ds4trio.api.chat_completions import error_document
from ds4trio.api.errors import (
    ApiError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    TooManyRequestsError,
)
from ds4trio.chat import TemplateFailedError
from ds4trio.engine import EngineError, EngineStoppedError, QueueFullError

__all__ = ["UnsupportedMediaTypeError", "api_error", "error_response"]

SHUTDOWN_RETRY_AFTER = 5


class _HttpError(ApiError):
    """An error that HTTP itself has a status for."""

    kind = "invalid_request_error"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


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
        case EngineError():
            return InternalError(str(error), code="engine_error")
        case TemplateFailedError():
            return InvalidRequestError(
                f"the model's chat template refused these messages: {error}",
                code="template_error",
                param="messages",
            )
        case HTTPException():
            return _HttpError(error.code or 500, error.description or error.name)
        case _:
            return InternalError("the server failed on this request; its log says more", code="internal_error")


def error_response(error: ApiError) -> Response:
    """A complete JSON answer."""
    response = Response(error_document(error), status=error.status, content_type="application/json")
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response
