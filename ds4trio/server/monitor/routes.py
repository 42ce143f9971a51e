"""``/requests``, ``/metrics``, and the page at ``/`` with the events that feed it."""

import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
from quart import Response, g, request
from quart_trio import QuartTrio

from ds4trio import __version__
from ds4trio.api.errors import CancelledError, NotFoundError
from ds4trio.config import Settings
from ds4trio.server.bodies import json_response, stream_response
from ds4trio.server.guard import Guard
from ds4trio.server.host import EngineHost
from ds4trio.server.monitor.board import Board
from ds4trio.server.monitor.metrics import CONTENT_TYPE
from ds4trio.server.monitor.page import Page

__all__ = ["add_monitor_routes"]


def add_monitor_routes(app: QuartTrio, host: EngineHost, settings: Settings, board: Board, guard: Guard) -> None:
    """Register the endpoints. Reads the page's files: blocks."""
    page, started = Page(), round(time.time(), 3)
    keeps_on_disk = settings.kv_disk and settings.engine == "llama"
    disk_limit = settings.kv_disk_space_mb * 2**20 if keeps_on_disk else 0

    def seen() -> str | None:
        return guard.sees(g.key)

    @app.get("/requests")
    async def requests() -> Response:
        return json_response(msgspec.json.encode(await board.view(seen())))

    @app.delete("/requests/<id>")
    async def cancel(id: str) -> dict[str, Any]:
        lifeline = board.live.get(id)
        if lifeline is None or seen() not in (None, lifeline.key):
            raise NotFoundError(f"no request {id[:64]!r} lives; GET /requests lists those that do")
        return {"id": id, "cancelled": lifeline.stop(CancelledError(), "the operator cancelled it")}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(board.metrics.text(), content_type=CONTENT_TYPE)

    async def snapshot(key: str | None) -> bytes:
        view, kv = await board.view(key), host.kv
        if key is not None and kv is not None:
            kv = replace(kv, slots=())  # the conversations of all keys
        return msgspec.json.encode(
            {
                "at": round(time.time(), 3),
                "started": started,
                "version": __version__,
                "key": key,
                "models": host.names,
                "state": host.state,
                "loaded": host.load_fraction,
                "message": host.failure,
                "errors": board.errors() if key is None else [],
                "kv": kv,
                "disk_limit_bytes": disk_limit,
                **view,
            }
        )

    async def feed(key: str | None, admitted: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        while admitted() and not host.draining.is_set():
            news = board.news  # before the look: what happens while it is taken and sent is news, too
            yield b"data: " + await snapshot(key) + b"\n\n"
            await board.wait(news)

    @app.get("/requests/events")
    async def events() -> Response:
        if request.method == "HEAD":  # else it would have no end either, and nobody would see that it goes on
            return Response("", content_type="text/event-stream")
        name = g.key
        admitted = partial(guard.knows, name) if name else lambda: True
        return stream_response(feed(seen(), admitted), content_type="text/event-stream")

    @app.get("/")
    async def show() -> Response | dict[str, Any]:
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) != "text/html":
            about = {"name": "ds4trio", "version": __version__, "health": "/health"}
            return about | ({"models": list(host.names)} if guard.trusts(g.key) else {})
        return page.response(needs_key=bool(guard.keys))
