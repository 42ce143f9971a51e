"""HTTP as Hypercorn speaks it, but for these things.

* Bytes that are no HTTP get an error in words, and never a 5xx: a transfer coding that nobody knows is the client's
  fault (h11 calls for a 501).
* A client that has sent a second request and left before the first was answered leaves nothing behind. Hypercorn 0.18
  lets the second request wait for the end of the first answer, which never comes when writing it fails: task and
  descriptor stay for ever.
* ``Upgrade`` is ignored, as HTTP allows: there are no WebSockets here, and HTTP/2 begins with its preface or with TLS.
  Hypercorn 0.18 breaks on handshakes that are not quite right, and some of them leave tasks behind. So do some that
  HTTP/2 begins with ``CONNECT``, which ends the connection.
"""

from itertools import chain

import h11
import trio
from h2.events import RequestReceived
from h2.exceptions import ProtocolError
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol

from ds4trio.api.errors import InvalidRequestError, openai_error_document

__all__ = ["Http1", "Http2"]

TOO_LARGE = 431
UNREADABLE = (
    "these bytes are no HTTP/1.1 request: check the request line, the headers, and how the body's length is told"
)
MESSAGES = {TOO_LARGE: "the request line and the headers are too large together; send less of them"}


class Http1(H11Protocol):
    """One connection's protocol; Hypercorn makes it."""

    _reading: trio.CancelScope | None = None
    _closed = False

    async def handle(self, event: Event) -> None:
        """Bytes have come, or the connection has ended. A checkpoint."""
        if isinstance(event, RawData):
            if not self._closed:
                with trio.CancelScope() as self._reading:
                    await super().handle(event)
            return
        await super().handle(event)
        if isinstance(event, Closed):
            self._closed = True
            if self._reading is not None:
                self._reading.cancel()

    async def _check_protocol(self, event: h11.Request) -> None:
        await super()._check_protocol(_without_upgrade(event))

    async def _create_stream(self, request: h11.Request) -> None:
        await super()._create_stream(_without_upgrade(request))

    async def _send_error_response(self, status_code: int) -> None:
        status = status_code if status_code < 500 else 400
        error = InvalidRequestError(MESSAGES.get(status, UNREADABLE), code="invalid_http")
        document = openai_error_document(error)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(document)),
            (b"connection", b"close"),
        ]
        all_headers = list(chain(headers, self.config.response_headers("h11")))
        await self._send_h11_event(h11.Response(status_code=status, headers=all_headers))
        await self._send_h11_event(h11.Data(data=document))
        await self._send_h11_event(h11.EndOfMessage())


class Http2(H2Protocol):
    """The same for HTTP/2."""

    async def initiate(self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None) -> None:
        """Begin; the connection is idle until something is asked on it. A checkpoint.

        Hypercorn 0.18 takes a preface for a request, and waits for its end for ever.
        """
        await super().initiate(headers, settings)
        await self.send(Updated(idle=self.idle))

    async def _close_stream(self, stream_id: int) -> None:
        await super()._close_stream(stream_id)
        if not self.closed:  # Hypercorn 0.18 forgets to say so after a reset: then nothing ends the connection
            await self.send(Updated(idle=self.idle))

    async def _create_stream(self, request: RequestReceived) -> None:
        if (b":method", b"CONNECT") in request.headers:
            raise ProtocolError("there is nothing here to connect to")
        await super()._create_stream(request)


def _without_upgrade(request: h11.Request) -> h11.Request:
    headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
    return h11.Request(method=request.method, target=request.target, headers=headers, http_version=request.http_version)
