"""A server that answers as it is told, byte for byte."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

import h11
import trio

Answer = tuple[int, str, bytes]
"""Status, content-type, body."""


@asynccontextmanager
async def answering(answer: Callable[[str, str], Answer]) -> AsyncGenerator[int, None]:
    """Serve ``answer(method, path)`` on the port that the block gets, one request per connection."""

    async def serve(stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Request):
                status, kind, body = answer(event.method.decode(), event.target.decode())
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                return
        headers = [("content-type", kind), ("content-length", str(len(body))), ("connection", "close")]
        await stream.send_all(
            (connection.send(h11.Response(status_code=status, headers=headers)) or b"")
            + (connection.send(h11.Data(data=body)) or b"")
        )

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()
