"""A client that sends what it is given, right or wrong, and takes any answer."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import h11
import trio

__all__ = ["Heard", "Wire", "open_wire"]

ENDLESS = b"data: "
"""How the events begin of which there is no end."""


@dataclass(slots=True)
class Heard:
    """An answer. ``status`` is 0 where the server hung up without one; ``whole`` where its framing came to an end."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False


class Wire:
    """A connection that is used again while the server lets it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream: trio.SocketStream | None = None
        self._connection = h11.Connection(h11.CLIENT)

    async def ask(self, method: str, request: bytes, *, endless: bool = False) -> Heard:
        """Send a request and take the answer, of an ``endless`` one the beginning. A checkpoint.

        A connection that was closed while it was idle is no answer: then the request is sent on a new one.
        """
        used_before = self._stream is not None
        heard = await self._ask(method, request, endless)
        return heard if heard.status or not used_before else await self._ask(method, request, endless)

    async def _ask(self, method: str, request: bytes, endless: bool) -> Heard:
        if self._stream is None:
            self._stream = await trio.open_tcp_stream("127.0.0.1", self._port)
            self._connection = h11.Connection(h11.CLIENT)
        # What h11 is told was sent only says how to read the answer.
        method = method if method in ("HEAD", "CONNECT") else "GET"
        self._connection.send(h11.Request(method=method, target="/", headers=[("host", "localhost")]))
        self._connection.send(h11.EndOfMessage())
        heard = Heard()
        with suppress(trio.BrokenResourceError, h11.RemoteProtocolError):
            # The server may have said no before it has read all.
            with suppress(trio.BrokenResourceError):
                await self._stream.send_all(request)
            await self._hear(self._stream, heard, endless)
        if heard.whole and not endless and self._connection.their_state is h11.DONE:
            self._connection.start_next_cycle()
        else:
            await self.close()
        return heard

    async def leave(self, request: bytes, seconds: float) -> None:
        """Send a request and hang up after a while. A checkpoint."""
        await self.close()
        with suppress(trio.BrokenResourceError), trio.move_on_after(seconds):
            async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
                await stream.send_all(request)
                await trio.sleep_forever()

    async def close(self) -> None:
        """Hang up. A checkpoint."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await trio.aclose_forcefully(stream)

    async def _hear(self, stream: trio.SocketStream, heard: Heard, endless: bool) -> None:
        pieces = []
        try:
            while True:
                event = self._connection.next_event()
                if event is h11.NEED_DATA:
                    self._connection.receive_data(await stream.receive_some(65536))
                elif isinstance(event, h11.Response):
                    heard.status = event.status_code
                    heard.headers = {name.decode(): value.decode("latin1") for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    pieces.append(bytes(event.data))
                    if endless and pieces[0].startswith(ENDLESS):
                        heard.whole = True
                        return
                elif isinstance(event, h11.EndOfMessage):
                    heard.whole = True
                    return
                elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                    return
        finally:
            heard.body = b"".join(pieces)


@asynccontextmanager
async def open_wire(port: int) -> AsyncGenerator[Wire, None]:
    """A wire that is closed at the end of the block."""
    wire = Wire(port)
    try:
        yield wire
    finally:
        with trio.CancelScope(shield=True):
            await wire.close()
