"""One request to an ASGI application in memory, with the time of everything that it sends.

No socket and no thread, so it works under ``trio.testing.MockClock``.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from ds4trio.testing.stream import Arrival, Stream

__all__ = ["AsgiCall", "call_asgi"]


class AsgiCall(Stream):
    """What came of a request so far. Times are seconds since the request was made."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = trio.Event()
        self.reading.set()
        """Clear it (with a new event) and the client takes no further bytes."""
        self._news = trio.Event()
        self._incoming_send, self._incoming = trio.open_memory_channel[dict[str, Any]](10)

    def leave(self) -> None:
        """Hang up. Not a checkpoint."""
        self._over()
        self._incoming_send.send_nowait({"type": "http.disconnect"})

    async def wait_for(self, text: bytes) -> None:
        """Wait until ``text`` has arrived; a checkpoint. Ends with the answer in any case."""
        while text not in self.body and not self.ended.is_set():
            self._news = trio.Event()
            await self._news.wait()

    async def wait_for_headers(self) -> None:
        """Wait until the status has come; a checkpoint."""
        while self.status is None and not self.ended.is_set():
            self._news = trio.Event()
            await self._news.wait()

    async def wait_for_arrivals(self, *, more_than: int) -> None:
        """Wait until there are more arrivals than that, or the answer has ended; a checkpoint."""
        while len(self.arrivals) <= more_than and not self.ended.is_set():
            self._news = trio.Event()
            await self._news.wait()

    async def _receive(self) -> dict[str, Any]:
        return await self._incoming.receive()

    async def _send(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        now = trio.current_time() - self.sent_at
        if message["type"] == "http.response.start":
            self.status, self.started_at = message["status"], now
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            await self.reading.wait()
            if data := message.get("body", b""):
                self.arrivals.append(Arrival(now, data))
            if not message.get("more_body", False):
                self._complete()
        self._news.set()

    def _complete(self) -> None:
        self._over()
        self.ended.set()
        self._news.set()


@asynccontextmanager
async def call_asgi(
    app: Callable[..., Awaitable[None]],
    body: bytes | dict[str, Any] = b"",
    *,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    query: str = "",
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> AsyncGenerator[AsgiCall, None]:
    """Make a request; the block may watch it, leave it, or wait for its end. Leaving the block hangs up."""
    call = AsgiCall()
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    call._incoming_send.send_nowait({"type": "http.request", "body": data, "more_body": False})
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", content_type.encode()),
            *((name.lower().encode(), value.encode()) for name, value in (headers or {}).items()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {},
    }
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await app(scope, call._receive, call._send)
            call._complete()

        nursery.start_soon(run)
        yield call
        if not call.ended.is_set():
            call.leave()
