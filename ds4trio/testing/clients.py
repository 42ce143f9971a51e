"""A client on a real socket that notes when each byte came and can leave in every way that clients leave."""

import random
import socket
import struct
import sys
from array import array
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import h11
import msgspec
import trio

from ds4trio.testing.stream import Arrival, Stream

__all__ = ["StreamClient", "chat_body", "fresh_prompt", "open_client", "retry_storm"]

WORDS = ("river", "table", "green", "seven", "cloud", "paper", "music", "stone", "light", "winter", "garden", "train")


FEWEST_WORDS = 10
"""That nobody has ever said in this order."""

SO_ATTACH_FILTER = 26
"""Linux; Python has no name for it."""


def fresh_prompt(tokens: int) -> str:
    """A prompt of about ``tokens`` tokens, template included, that shares no prefix with any other; at least 50."""
    return " ".join(random.choices(WORDS, k=max(FEWEST_WORDS, tokens - 40)))


def chat_body(prompt: str, *, stream: bool = True, **members: Any) -> dict[str, Any]:
    """A chat request with one user message."""
    return {"stream": stream, "messages": [{"role": "user", "content": prompt}], **members}


class StreamClient(Stream):
    """One HTTP/1.1 request on its own connection."""

    def __init__(self, stream: trio.SocketStream, connection: h11.Connection) -> None:
        super().__init__()
        self.stream = stream
        self._connection = connection

    async def read(self, *, most: int = 65536) -> Arrival | None:
        """The next piece of the body, of at most so many bytes with what frames it; None at its end.

        A checkpoint. Raises ``h11.RemoteProtocolError`` if cut off.
        """
        while not self.ended.is_set():
            if (arrival := await self._advance(most)) is not None:
                return arrival
        return None

    async def _advance(self, most: int) -> Arrival | None:
        """Take one thing that comes: bytes, the headers, the end, or a piece of the body, which is returned."""
        event = self._connection.next_event()
        now = trio.current_time() - self.sent_at
        if event is h11.NEED_DATA:
            self._connection.receive_data(await self.stream.receive_some(most))
        elif isinstance(event, h11.Response):
            self.status, self.started_at = event.status_code, now
            self.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        elif isinstance(event, h11.Data):
            arrival = Arrival(now, bytes(event.data))
            self.arrivals.append(arrival)
            return arrival
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            self.ended.set()
            self._over()
        return None

    async def read_all(self) -> bytes:
        """The rest of the body; a checkpoint."""
        while await self.read() is not None:
            pass
        return self.body

    async def read_until(self, text: bytes) -> None:
        """Read until ``text`` has come, or the end; a checkpoint."""
        while text not in self.body and await self.read() is not None:
            pass

    async def read_slowly(self, bytes_per_second: float) -> None:
        """Read to the end, byte by byte, no faster than that; a checkpoint.

        The server only notices once the buffers of both kernels are full: give `open_client` a small
        ``receive_buffer``, and ask for a long answer.
        """
        while True:
            if await self.read(most=1) is None:
                return
            await trio.sleep(1 / bytes_per_second)

    async def wait_for_headers(self) -> None:
        """Read until the status has come, or the end; a checkpoint."""
        while self.status is None and not self.ended.is_set():
            await self._advance(65536)

    async def wait_for_arrivals(self, *, more_than: int) -> None:
        """Read until there are more arrivals than that, or the end; a checkpoint."""
        while len(self.arrivals) <= more_than and await self.read() is not None:
            pass

    async def wait_for_token(self) -> float:
        """When the first of the answer came; a checkpoint. Raises EOFError if the answer ends without any."""
        while not self.times_of_tokens:
            if await self.read() is None:
                raise EOFError(f"status {self.status}, and no text: {self.body[-1000:].decode(errors='replace')}")
        return self.times_of_tokens[0]

    def leave(self) -> None:
        """Close the connection (FIN), as most clients do. Not a checkpoint."""
        self._over()
        self.stream.socket.close()

    async def half_close(self) -> None:
        """Say that nothing more will be sent (FIN by ``shutdown(SHUT_WR)``), and go on reading; a checkpoint."""
        await self.stream.send_eof()

    def reset(self) -> None:
        """Leave with a RST instead of a FIN (SO_LINGER 0), as a process does that is killed. Not a checkpoint."""
        linger = struct.pack("ii", 1, 0)
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.leave()

    def vanish(self) -> None:
        """Be a machine that has lost its power or its network: from now on nothing comes in. Not a checkpoint.

        A packet filter on this socket drops whatever arrives, so the server's bytes are not acknowledged, and neither
        FIN nor RST tells it anything. It needs no root, but Linux: elsewhere it raises ``OSError``. What the kernel
        has taken already can still be read. When the block of `open_client` is left the kernel does send a FIN: stay
        in it for as long as the client is to be gone.
        """
        if sys.platform != "linux":
            raise OSError("a socket can only vanish on Linux: elsewhere use a firewall, or pull a cable")
        drop_all = array("B", struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET: keep 0 bytes of each packet
        address, _ = drop_all.buffer_info()
        self.stream.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, address))
        self._over()


@asynccontextmanager
async def open_client(
    port: int,
    body: dict[str, Any] | bytes | None = None,
    *,
    host: str = "127.0.0.1",
    path: str = "/v1/chat/completions",
    method: str = "POST",
    headers: dict[str, str] | None = None,
    receive_buffer: int | None = None,
) -> AsyncGenerator[StreamClient, None]:
    """Connect and send a request. Leaving the block closes the connection, which is how most clients leave.

    ``receive_buffer`` in bytes: a small one makes the server feel soon that nobody reads.
    """
    sock = trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    async with trio.SocketStream(sock) as stream:
        await sock.connect((host, port))
        data = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        connection = h11.Connection(h11.CLIENT)
        fields = {
            "host": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "content-type": "application/json",
            "content-length": str(len(data)),
            **(headers or {}),
        }
        request = connection.send(h11.Request(method=method, target=path, headers=list(fields.items()))) or b""
        request += connection.send(h11.Data(data=data)) or b""
        request += connection.send(h11.EndOfMessage()) or b""
        await stream.send_all(request)
        client = StreamClient(stream, connection)
        try:
            yield client
        finally:
            client._over()


async def retry_storm(
    port: int,
    body: dict[str, Any],
    *,
    tries: int,
    within: float,
    overlapping: bool = False,
    host: str = "127.0.0.1",
    path: str = "/v1/chat/completions",
    headers: dict[str, str] | None = None,
) -> list[StreamClient]:
    """Send the same request so many times in ``within`` seconds, as an agent with no patience does; a checkpoint.

    Each try hangs up when the next one is sent, unless they are ``overlapping``, as those of several agents are; the
    last one, or all of them then, read to the end. Returns the clients in the order of their tries.
    """
    clients: list[StreamClient] = []

    async def attempt(number: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with open_client(port, body, host=host, path=path, headers=headers) as client:
            clients.append(client)
            task_status.started()
            patient = overlapping or number == tries - 1
            with trio.move_on_after(float("inf") if patient else within / tries):
                await client.read_all()

    async with trio.open_nursery() as nursery:
        for number in range(tries):
            await nursery.start(attempt, number)
            if number < tries - 1:
                await trio.sleep(within / tries)
    return clients
