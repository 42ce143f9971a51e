"""A listener between a client and a server: it passes every byte on and notes each request and its answer.

HTTP/1.1 events are read from one side and written to the other as they come, so a pause on one side is the same pause
on the other, and so is a closed connection. It judges nothing; what an exchange means is `play`'s business.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import h11
import trio

__all__ = ["Exchange", "Tap", "open_tap"]

# The last event of a stream, in each protocol. Clients may close right behind it, before the body's formal end.
LAST_EVENTS = (b"data: [DONE]", b"event: response.completed", b"event: response.incomplete", b"event: message_stop")


@dataclass(eq=False)
class Exchange:
    """A request and what came back. Times are seconds since the request's head was read."""

    method: str
    path: str
    headers: dict[str, str]
    begun: float
    body: bytes = b""
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    ended: bool = False

    @property
    def answer(self) -> bytes:
        """The body of the answer so far."""
        return b"".join(data for _, data in self.pieces)

    @property
    def whole(self) -> bool:
        """Whether the client stayed until the answer's last event."""
        return self.ended or any(event in self.answer for event in LAST_EVENTS)

    def first(self, text: bytes) -> float | None:
        """When the first piece came that holds ``text``."""
        return next((at for at, data in self.pieces if text in data), None)


@dataclass(eq=False)
class Tap:
    """What was heard, in the order of the requests. ``port`` is where clients connect to."""

    port: int
    exchanges: list[Exchange] = field(default_factory=list)


@asynccontextmanager
async def open_tap(server_port: int) -> AsyncGenerator[Tap, None]:
    """Listen on a free port of the loopback and pass everything on to ``server_port`` until the block is left."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    tap = Tap(listeners[0].socket.getsockname()[1])

    async def connect(client: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", server_port) as server:
            await _Wire(client, server, tap).run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, connect, listeners)
        yield tap
        nursery.cancel_scope.cancel()


class _Wire:
    """One connection of a client and its twin to the server."""

    def __init__(self, client: trio.SocketStream, server: trio.SocketStream, tap: Tap) -> None:
        self._client, self._server, self._tap = client, server, tap
        self._from_client, self._from_server = h11.Connection(h11.SERVER), h11.Connection(h11.CLIENT)

    async def run(self) -> None:
        """Pass on until either side closes; a checkpoint."""
        async with trio.open_nursery() as nursery:

            async def until_closed(pass_on: Callable[[], Awaitable[None]]) -> None:
                # A side that breaks off is what is being watched, not a failure of the watcher.
                with suppress(trio.BrokenResourceError, h11.ProtocolError):
                    await pass_on()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_closed, self._requests)
            nursery.start_soon(until_closed, self._answers)

    async def _requests(self) -> None:
        async for event in _events(self._from_client, self._client):
            if isinstance(event, h11.Request):
                self._exchange = Exchange(
                    event.method.decode(), event.target.decode(), _headers(event), trio.current_time()
                )
                self._tap.exchanges.append(self._exchange)
            elif isinstance(event, h11.Data):
                self._exchange.body += event.data
            await self._server.send_all(self._from_server.send(event) or b"")

    async def _answers(self) -> None:
        async for event in _events(self._from_server, self._server):
            exchange = self._exchange
            data = self._from_client.send(event) or b""
            if isinstance(event, h11.Response):
                exchange.status, exchange.answer_headers = event.status_code, _headers(event)
            elif isinstance(event, h11.Data):
                exchange.pieces.append((trio.current_time() - exchange.begun, bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                exchange.ended = True
                # Before the client hears of the end, or its next request could come first.
                self._from_client.start_next_cycle()
                self._from_server.start_next_cycle()
            await self._client.send_all(data)


async def _events(connection: h11.Connection, stream: trio.SocketStream) -> AsyncGenerator[h11.Event, None]:
    """What one side says, until it closes."""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some())
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return
        else:
            assert isinstance(event, h11.Event)
            yield event


def _headers(event: h11.Request | h11.Response) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in event.headers}
