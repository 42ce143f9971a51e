"""One request's ASGI connection: the client's presence, and the order in which an answer goes out.

Three things that Quart-Trio's own class does not do:

* it cancels the request when ``http.disconnect`` arrives, but Hypercorn also sends that after a *finished* response,
  from inside ``send``; cancelling then breaks Hypercorn's own closing, so that ``Connection: close`` is not honoured
  and idle keep-alive connections stay for ever (quart-trio 0.12). Here a finished response is never cancelled;
* a `Lifeline` learns its status while it is entered, so it is entered before the status goes out;
* when the server itself cancels a request (shutdown), the client is told so in the protocol's own form.
"""

import math

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent
from quart import Request
from quart.asgi import ASGIHTTPConnection
from quart.typing import ResponseTypes
from quart.utils import encode_headers
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection

from ds4trio.api.errors import InvalidRequestError, openai_error_document
from ds4trio.engine import EngineStoppedError
from ds4trio.server.errors import api_error
from ds4trio.server.lifeline import Lifeline
from ds4trio.server.wire import break_connection

__all__ = ["LifelineConnection", "NoWebSocket"]

FAREWELL_SECONDS = 0.5
"""How long a client that does not read may hold up the end of the server."""


class LifelineConnection(TrioASGIHTTPConnection):
    """Set as ``app.asgi_http_class``."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request; cancelled by the server only."""
        self._started = False
        self._answered = False
        self._client_gone = False
        self._sending = False
        self._lifeline: Lifeline | None = None

        async def noted_send(message: ASGISendEvent) -> None:
            self._started = True
            # Noted before it is sent: the disconnect of a finished response arrives inside this very send.
            self._answered |= message["type"] == "http.response.body" and not message.get("more_body", False)
            self._sending = True
            try:
                await send(message)
            finally:
                self._sending = False

        await super().__call__(receive, noted_send)

    def _create_request_from_scope(self, send: ASGISendCallable) -> Request:
        path = self.scope["path"]
        try:
            return super()._create_request_from_scope(send)
        except (ValueError, IndexError):
            # Quart reads the absolute form of a request target as a URL and fails on a broken one: no such path here.
            self.scope = {**self.scope, "path": f"/{path}"}
            return super()._create_request_from_scope(send)

    async def handle_messages(  # type: ignore[override]  # quart-trio passes the nursery too
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        """Read the body and wait for the client to go; its going cancels the request."""
        try:
            await ASGIHTTPConnection.handle_messages(self, request, receive)
        except trio.Cancelled:
            await self._free_stuck_writer()
            raise
        if self._answered:
            return
        self._client_gone = True
        if self._lifeline is not None:
            self._lifeline.vanish("the client has gone")
        nursery.cancel_scope.cancel()

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        body = response.response
        if not isinstance(body, Lifeline):
            await super()._send_response(send, response)
            return
        self._lifeline = body
        # On HTTP/2 the body's own cancellation drops the one stream that is not read; others share its connection.
        if self.scope["http_version"].startswith("1"):
            body.on_stall = self._break
        try:
            async with body:
                await send(
                    {
                        "type": "http.response.start",
                        "status": body.response.status_code,
                        "headers": encode_headers(body.response.headers),
                    }
                )
                async for data in body:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except BaseException:
            await self._say_farewell(send, body)
            raise
        finally:
            body.abandon()

    async def _say_farewell(self, send: ASGISendCallable, body: Lifeline) -> None:
        """Tell a client that is still there that the server has to stop."""
        cancelled = trio.current_effective_deadline() == -math.inf
        if self._client_gone or self._answered or not cancelled:
            return
        error = api_error(EngineStoppedError())
        with trio.CancelScope(shield=True, deadline=trio.current_time() + FAREWELL_SECONDS):
            begun = self._started
            if not begun:
                headers = body.response.headers
                headers["Content-Type"], headers["Retry-After"] = "application/json", str(error.retry_after)
                headers.pop("Content-Length", None)
                await send({"type": "http.response.start", "status": error.status, "headers": encode_headers(headers)})
            data = body.farewell(error) if begun else body.refuse(error)
            await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _free_stuck_writer(self) -> None:
        """When the server stops, a client that does not read must not hold it up."""
        if not self._sending:
            return
        with trio.CancelScope(shield=True):
            await trio.sleep(FAREWELL_SECONDS)
        if self._sending:
            self._break()

    def _break(self) -> None:
        client, server = self.scope.get("client"), self.scope.get("server")
        if client and server and server[1] is not None:
            break_connection((client[0], client[1]), (server[0], server[1]))


class NoWebSocket(TrioASGIWebsocketConnection):
    """Set as ``app.asgi_websocket_class``: there are none here, and Quart's own would need error handlers."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Refuse the handshake; a checkpoint."""
        error = InvalidRequestError("there are no WebSockets here; send a plain HTTP request", code="unsupported")
        headers = [(b"content-type", b"application/json")]
        await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
        document = openai_error_document(error)
        await send({"type": "websocket.http.response.body", "body": document, "more_body": False})
