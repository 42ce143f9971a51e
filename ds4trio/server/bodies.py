"""What comes in a request, and the two kinds of what goes back: a document, and a stream that must not be held up."""

from collections.abc import AsyncGenerator

from quart import Response, request
from quart.wrappers.response import ResponseBody

from ds4trio.server.errors import UnsupportedMediaTypeError

__all__ = ["json_body", "json_response", "stream_response"]


async def json_body() -> bytes:
    """The request's body. A checkpoint. Raises `UnsupportedMediaTypeError` for anything but JSON."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaTypeError(request.mimetype)
    return await request.get_data(cache=False, as_text=False, parse_form_data=False)


def json_response(document: bytes) -> Response:
    """A complete JSON answer."""
    return Response(document, content_type="application/json")


def stream_response(body: ResponseBody | AsyncGenerator[bytes, None], *, content_type: str) -> Response:
    """An answer that takes its time, and that nobody on the way may keep or collect."""
    response = Response(body, content_type=content_type)
    response.timeout = None
    response.headers["Cache-Control"] = "no-cache"
    # nginx would collect the stream and defeat every heartbeat.
    response.headers["X-Accel-Buffering"] = "no"
    return response
