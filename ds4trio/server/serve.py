"""``ds4trio serve``: own sockets, Hypercorn on Trio, and a shutdown that tells every client.

The listening socket carries TCP options that accepted sockets inherit: with ``TCP_USER_TIMEOUT`` the kernel itself
breaks a peer that vanished without a word or never reads (3 s set, broken after 3.5 s).
"""

import logging
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import hypercorn.protocol
import hypercorn.trio
import hypercorn.trio.run
import trio
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.trio.tcp_server import TCPServer

from ds4trio.config import ConfigError, Settings
from ds4trio.engine.breakdown import first_leaf
from ds4trio.server.app import App, build_app
from ds4trio.server.guard import is_loopback, read_keys
from ds4trio.server.monitor.log_output import set_log_level
from ds4trio.server.protocols import Http1, Http2

if TYPE_CHECKING:
    from ds4trio.server.monitor.terminal import Terminal

__all__ = ["hypercorn_config", "listen", "run_hypercorn", "serve"]

log = logging.getLogger("ds4trio")

# Hypercorn's default of 100 makes 1,000 simultaneous connects take 9 s.
BACKLOG = 2048
# Connections that may wait, more or less; shells often allow 1,024 files, though they may be asked for more.
FILES = 16_384
# Long enough for clients that pool connections; and for headers to arrive.
IDLE_CONNECTION_SECONDS = 15
# What a connection hears for which there is no place, and for how long it may take to hear it.
TOO_MANY_BODY = b'{"error": {"message": "too many connections (--max-connections)", "type": "overloaded_error"}}'
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(TOO_MANY_BODY), TOO_MANY_BODY)
)
REFUSAL_SECONDS = 1.0
# Of the shutdown grace, what is kept for farewells and for closing the engine.
FAREWELL_SHARE = 0.3


UNUSABLE_MODEL_STATUS = os.EX_CONFIG
"""With which a server ends whose model cannot be loaded: starting it again would change nothing."""
# Where a service manager puts the sockets that it has opened for a process (sd_listen_fds(3)).
FIRST_INHERITED = 3


def listen(settings: Settings) -> socket.socket:
    """Open the listening socket, or take the one that was inherited as systemd and `supervise` pass it.

    Not a checkpoint. Raises `ConfigError` where that cannot be done.
    """
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        if os.environ.get("LISTEN_FDS") != "1":
            raise ConfigError(f"LISTEN_FDS = {os.environ.get('LISTEN_FDS')!r}: give this server one socket")
        try:
            listener = socket.socket(fileno=FIRST_INHERITED)
            listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ConfigError(f"what was inherited is no socket: {error.strerror}") from None
        if listener.family not in {socket.AF_INET, socket.AF_INET6} or not listening:
            raise ConfigError("the socket that was inherited is no TCP socket that listens (Accept=no in its unit)")
        listener.set_inheritable(False)
        _find_the_vanished(listener, settings)
        return listener
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"host = {settings.host!r}: no such address; give one of this machine's") from None
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _find_the_vanished(listener, settings)
    try:
        listener.bind(address)
        # From here on a client that connects waits instead of being refused.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {settings.host} port {settings.port}: {os.strerror(error.errno or 0)}; "
            "choose another with --port or --host"
        ) from None
    return listener


def _find_the_vanished(listener: socket.socket, settings: Settings) -> None:
    """Set what accepted sockets inherit: the kernel breaks connections of peers that are gone, and nothing waits."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * settings.stall_timeout))
    if hasattr(socket, "TCP_KEEPIDLE"):
        # Finds a vanished peer while nothing is sent to it: while a document is computed, or with no heartbeat.
        idle = max(1, int(settings.stall_timeout / 2))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle // 4))


def allow_files() -> None:
    """Let this process have many connections, as far as its owner may. Not a checkpoint."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):  # macOS has a limit that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def serve(
    settings: Settings,
    *,
    on_ready: Callable[[str, str], None] = lambda _url, _name: None,
    reload: Callable[[], Settings] | None = None,
    terminal: "Terminal | None" = None,
) -> int:
    """Run a server until SIGTERM or SIGINT; returns the exit status.

    A checkpoint. ``on_ready`` gets the URL and the model's name when the model is loaded. A second signal ends
    everything at once. An engine that fails ends the server with status 1, for its supervisor, or with
    `UNUSABLE_MODEL_STATUS` where its model cannot be loaded. On SIGHUP ``reload`` is called in a thread, and keys,
    limits and the log level of what it returns hold from then on; nobody loses anything. The ``terminal`` shows what
    lives. Raises `ConfigError` before anything is opened.
    """
    app = build_app(settings)
    _check_certificate(settings)
    allow_files()
    with listen(settings) as listener:
        host, port = listener.getsockname()[:2]
        scheme = "https" if settings.tls_cert else "http"
        url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        if not (app.guard.keys or settings.no_auth or is_loopback(host)):
            raise ConfigError(
                f"host = {host!r} can be reached from other machines: give an --api-key (or --api-key-file), "
                "or say --no-auth if everybody may use this server"
            )
        stop = trio.Event()

        async def report() -> None:
            await app.host.settled.wait()
            if app.host.state == "ready":
                log.info("serving %(model)s on %(url)s", {"event": "ready", "url": url, "model": app.host.names[0]})
                on_ready(url, app.host.names[0])
            await app.host.failed.wait()
            stop.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(_watch_signals, app, stop, nursery.cancel_scope, settings.shutdown_grace)
            log.info(
                "listening on %(url)s, loading %(model)s",
                {"event": "listening", "url": url, "model": app.host.names[0]},
            )
            nursery.start_soon(report)
            if terminal is not None:
                nursery.start_soon(terminal.watch, app.board, app.host)
            if reload is not None:
                await nursery.start(_watch_hangups, app, reload)
            await run_hypercorn(app, hypercorn_config(listener, settings), stop=stop)
            nursery.cancel_scope.cancel()
    if app.host.state != "failed":
        return 0
    return UNUSABLE_MODEL_STATUS if app.host.hopeless else 1


def _check_certificate(settings: Settings) -> None:
    """Raise `ConfigError` for a certificate that Hypercorn could not serve with."""
    if not settings.tls_cert:
        return

    def password() -> str:
        raise ConfigError(f"tls_key = {settings.tls_key!r} is encrypted; give one that needs no password")

    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.tls_cert, settings.tls_key, password=password
        )
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"tls_cert = {settings.tls_cert!r} and tls_key = {settings.tls_key!r} cannot be used: {error}; both are "
            "PEM, and the key is the certificate's"
        ) from None


async def _watch_signals(
    app: App,
    stop: trio.Event,
    everything: trio.CancelScope,
    grace: float,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                everything.cancel()
                continue
            log.info(
                "%(signal)s: stopping within %(seconds)g s",
                {"event": "stopping", "signal": signal.Signals(number).name, "seconds": grace},
            )
            app.drain()
            stop.set()


async def _watch_hangups(
    app: App, reload: Callable[[], Settings], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    def read() -> tuple[Settings, dict[str, bytes]]:
        settings = reload()
        return settings, read_keys(settings)

    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            try:
                settings, keys = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
                if app.guard.keys and not keys:
                    raise ConfigError("there is no API key any more; start the server anew for that")
            except ConfigError as error:
                log.error("SIGHUP: nothing changes: %s", error)
                continue
            app.guard.reload(settings, keys)
            set_log_level(settings.log_level)
            log.info("SIGHUP: %d API keys; limits and the log level were read again", len(keys))


class GuardedConnection(TCPServer):
    """Hypercorn's connection, whose faults stay its own, and of which there are no more than ``places``.

    Hypercorn 0.18 lets whatever a connection raises end the whole server, and malformed HTTP/2 makes it raise (a
    request without ``:path``, data for a stream that is answered already): one client could take the server from all
    others.
    """

    def __init__(self, places: trio.Semaphore, *args: Any) -> None:
        super().__init__(*args)
        self._places = places
        self._asks = True

    async def run(self) -> None:
        """Serve the connection until it ends in any way."""
        try:
            self._places.acquire_nowait()
        except trio.WouldBlock:
            await self._refuse()
            return
        try:
            await super().run()
        except* Exception as group:
            # Only the kind: the exception itself may hold what the client sent.
            log.warning("a connection was closed for a protocol error: %s", type(first_leaf(group)).__name__)
        finally:
            self._places.release()

    async def _read_data(self) -> None:
        """Read until the client ends its side; who waits for it to ask again, as Hypercorn 0.18 does, waits in vain."""
        await super()._read_data()
        self._asks = False
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """Send, or note that the connection is idle: one whose client has ended its side stays so, see above."""
        if isinstance(event, Updated) and event.idle and not self._asks:
            return
        await super().protocol_send(event)

    async def _refuse(self) -> None:
        """One connection too many: say so, where that needs no handshake."""
        with trio.move_on_after(REFUSAL_SECONDS):
            if not isinstance(self.stream, trio.SSLStream):
                with suppress(trio.BrokenResourceError):
                    await self.stream.send_all(TOO_MANY)
                    await self.stream.send_eof()
                    # What is closed with bytes unread is reset, and a client that is reset may not see what was sent.
                    while await self.stream.receive_some():
                        pass
        await trio.aclose_forcefully(self.stream)


async def run_hypercorn(
    app: App,
    config: Config,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run Hypercorn until ``stop`` is set; reports itself started when the port is served. A checkpoint."""
    # Hypercorn has no other way to be given a connection class; it looks this one up by its name.
    places = trio.Semaphore(app.settings.max_connections)
    guarded: Any = partial(GuardedConnection, places)
    hypercorn.trio.run.TCPServer = guarded  # type: ignore[attr-defined]  # not exported, see above
    # Nor to be given protocols.
    hypercorn.protocol.H11Protocol = Http1  # type: ignore[attr-defined]  # as above
    hypercorn.protocol.H2Protocol = Http2  # type: ignore[attr-defined]  # as above
    await hypercorn.trio.serve(app, config, shutdown_trigger=stop.wait, task_status=task_status)


def hypercorn_config(listener: socket.socket, settings: Settings) -> Config:
    """Hypercorn's settings for a ``listener``, whose descriptor becomes Hypercorn's own: it closes it at shutdown."""
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = BACKLOG
    config.keep_alive_timeout = IDLE_CONNECTION_SECONDS
    config.graceful_timeout = settings.shutdown_grace * (1 - FAREWELL_SHARE)
    if settings.tls_cert:
        config.certfile, config.keyfile = settings.tls_cert, settings.tls_key
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("ds4trio.hypercorn")
    config.errorlog.setLevel(logging.WARNING)
    return config
