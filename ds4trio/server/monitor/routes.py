"""``/requests``, ``/metrics``, and the page at ``/`` with the events that feed it."""

import secrets
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from quart import Response, g, request
from quart_trio import QuartTrio

from ds4trio import __version__
from ds4trio.api.errors import CancelledError, NotFoundError
from ds4trio.server.bodies import stream_response
from ds4trio.server.guard import Guard
from ds4trio.server.host import EngineHost
from ds4trio.server.monitor.board import Board
from ds4trio.server.monitor.metrics import CONTENT_TYPE

__all__ = ["add_monitor_routes"]

OPERATOR = "operator"
"""The name of the API key that sees everybody's requests."""
PAGE = Path(__file__).with_name("page.html")


def add_monitor_routes(app: QuartTrio, host: EngineHost, board: Board, guard: Guard) -> None:
    """Register the endpoints."""
    page = PAGE.read_text(encoding="utf-8")

    def seen() -> str | None:
        """The key whose requests may be seen; None for all: without keys, and for the operator's."""
        return None if g.key in ("", OPERATOR) else str(g.key)

    @app.get("/requests")
    async def requests() -> dict[str, Any]:
        return {"requests": board.requests(seen()), "ended": board.ended(seen())}

    @app.delete("/requests/<id>")
    async def cancel(id: str) -> dict[str, Any]:
        lifeline = board.live.get(id)
        if lifeline is None or seen() not in (None, lifeline.key):
            raise NotFoundError(f"no request {id[:64]!r} lives; GET /requests lists those that do")
        return {"id": id, "cancelled": lifeline.stop(CancelledError(), "the operator cancelled it")}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(board.metrics.text(), content_type=CONTENT_TYPE)

    def snapshot(key: str | None) -> bytes:
        return msgspec.json.encode(
            {
                "at": round(time.time(), 3),
                "version": __version__,
                "models": host.names,
                "state": host.state,
                "loaded": host.load_fraction,
                "message": host.failure,
                "requests": board.requests(key),
                "ended": board.ended(key),
                "errors": board.errors() if key is None else [],
                "kv": host.kv,
            }
        )

    async def feed(key: str | None, admitted: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        while admitted() and not host.draining.is_set():
            yield b"data: " + snapshot(key) + b"\n\n"
            await board.wait()

    @app.get("/requests/events")
    async def events() -> Response:
        name = g.key
        admitted = partial(guard.knows, name) if name else lambda: True
        return stream_response(feed(seen(), admitted), content_type="text/event-stream")

    @app.get("/")
    async def show() -> Response | dict[str, Any]:
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) != "text/html":
            about = {"name": "ds4trio", "version": __version__, "health": "/health"}
            return about | ({"models": list(host.names)} if guard.trusts(g.key) else {})
        nonce = secrets.token_urlsafe(16)
        response = Response(page.replace("{nonce}", nonce), content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}' 'unsafe-inline'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        response.headers["Cache-Control"] = "no-cache"
        return response
