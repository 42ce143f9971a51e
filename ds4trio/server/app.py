"""The application: Quart-Trio with this server's connection class, limits, errors and endpoints."""

import re
import secrets
from pathlib import Path

import trio
from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from ds4trio.api.errors import ApiError
from ds4trio.config import Settings, changed_settings, load_settings
from ds4trio.engine import Engine
from ds4trio.server.connection import LifelineConnection, NoWebSocket
from ds4trio.server.errors import api_error, error_response, log_breakdown
from ds4trio.server.guard import Guard
from ds4trio.server.host import EngineHost
from ds4trio.server.monitor import Board
from ds4trio.server.monitor.routes import add_monitor_routes
from ds4trio.server.monitor.trace import TraceFile
from ds4trio.server.openapi import add_openapi_route
from ds4trio.server.ops import add_ops_routes
from ds4trio.server.retries import RetryMemory
from ds4trio.server.routes import add_routes, protocol_error_document
from ds4trio.server.tokenizer import add_tokenizer_routes
from ds4trio.server.wedge import watch_for_wedges, wedge_timeout

__all__ = ["App", "build_app", "header_text"]


MOST_WARNING = 1000
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Max-Age": "600",
}


class App(QuartTrio):
    """A QuartTrio that owns an `EngineHost` for the length of its lifespan."""

    asgi_http_class = LifelineConnection
    asgi_websocket_class = NoWebSocket

    def __init__(self, settings: Settings, host: EngineHost) -> None:
        super().__init__("ds4trio", static_folder=None)
        self.settings = settings
        self.host = host
        self.guard = Guard(settings)
        self.board = Board(kv=lambda: host.kv)
        self.retries = RetryMemory(window=settings.retry_window)
        self.trace = TraceFile(Path(settings.trace)) if settings.trace else None
        # Clients of an API do not follow redirects; such a path is none.
        self.url_map.merge_slashes = False
        self.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
        self.config["BODY_TIMEOUT"] = settings.body_timeout
        # The engine's task ends when it is told to, not after a grace that would pass in any case.
        self.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = None

    def drain(self) -> None:
        """Start nothing new, and let those go who only watch. Not a checkpoint."""
        self.host.drain()
        self.board.changed()


def build_app(settings: Settings | None = None, *, engine: Engine | None = None) -> App:
    """Build the application. ``engine`` is for tests that bring their own. Raises `ConfigError`."""
    settings = load_settings() if settings is None else settings
    app = App(settings, EngineHost(settings, engine))

    @app.before_serving
    async def open_engine() -> None:
        # The port is open from here on; requests get a 503 until the model is there.
        app.nursery.start_soon(app.host.run)
        if settings.wedge_timeout:
            app.nursery.start_soon(
                watch_for_wedges, app.host, app.board, wedge_timeout(settings), settings.shutdown_grace
            )
        app.nursery.start_soon(app.retries.run)
        if app.trace is not None:
            app.nursery.start_soon(app.trace.run, changed_settings(settings))

    @app.before_request
    async def name_request() -> None:
        g.request_id = f"req_{secrets.token_hex(12)}"
        g.arrived = trio.current_time()
        g.headers = {name.lower(): value for name, value in request.headers.items()}
        g.key = ""
        g.warnings = []

    @app.before_request
    async def guard() -> Response | None:
        origin = g.headers.get("origin", "")
        if request.method == "OPTIONS" and app.guard.allows_origin(origin):
            return Response("", status=204, headers=PREFLIGHT)
        server = request.scope.get("server")
        g.key = await app.guard.admit(g.headers, path=request.path, address=server[0] if server else None)
        if request.method == "POST":
            app.guard.charge(g.key)
        return None

    @app.after_request
    async def tell_name(response: Response) -> Response:
        # OpenAI's clients look for the first, Anthropic's for the second.
        response.headers["x-request-id"] = response.headers["request-id"] = g.request_id
        if app.guard.settings.cors:
            response.headers["Vary"] = "Origin"
        if app.guard.allows_origin(origin := g.headers.get("origin", "")):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "x-request-id, retry-after, x-ds4trio-warning"
        if g.warnings:
            response.headers["x-ds4trio-warning"] = header_text("; ".join(g.warnings))
        return response

    @app.errorhandler(ApiError)
    async def refused(error: ApiError) -> Response:
        return error_answer(error)

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        response = error_answer(error)
        response.headers.extend({name: value for name, value in error.get_headers() if name == "Allow"})
        return response

    @app.errorhandler(Exception)
    async def other_error(error: Exception) -> Response:
        return error_answer(error)

    def error_answer(error: Exception) -> Response:
        told = api_error(error)
        app.board.refused(request.method, request.path, told)
        if app.trace is not None:
            refusal = {"status": told.status, "code": told.code, "message": told.message}
            app.trace.put(
                "refused", {"request": g.request_id, "method": request.method, "path": request.path, **refusal}
            )
        if told.code == "internal_error":
            log_breakdown(error)
        return error_response(told, protocol_error_document(request.path, told, request_id=g.request_id))

    add_routes(app, app.host, settings, board=app.board, guard=app.guard, retries=app.retries, trace=app.trace)
    add_tokenizer_routes(app, app.host)
    add_ops_routes(app, app.host, settings, app.board, app.guard)
    add_monitor_routes(app, app.host, settings, app.board, app.guard)
    add_openapi_route(app, app.host.names[0])
    return app


def header_text(text: str) -> str:
    """``text`` as a header may hold it: printable ASCII, of moderate length."""
    return re.sub(r"[^\x20-\x7e]", "?", text[:MOST_WARNING])
