"""A client on a real socket that notes when each byte came and can leave in every way that clients leave.

It knows no protocol beyond JSON in server-sent events, but for the text and the usage of Chat Completions, which is
what most tests of waiting and sharing look at.
"""

import random
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import h11
import msgspec
import trio

__all__ = ["Arrival", "StreamClient", "StreamEvent", "chat_body", "fresh_prompt", "open_client"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """Bytes of a response body and when they came, in seconds since the request was sent."""

    at: float
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """A JSON event of a stream and when its last byte came, in seconds since the request was sent."""

    at: float
    data: dict[str, Any]


WORDS = ("river", "table", "green", "seven", "cloud", "paper", "music", "stone", "light", "winter", "garden", "train")


FEWEST_WORDS = 10
"""That nobody has ever said in this order."""


def fresh_prompt(tokens: int) -> str:
    """A prompt of about ``tokens`` tokens, template included, that shares no prefix with any other; at least 50."""
    return " ".join(random.choices(WORDS, k=max(FEWEST_WORDS, tokens - 40)))


def chat_body(prompt: str, *, stream: bool = True, **members: Any) -> dict[str, Any]:
    """A chat request with one user message."""
    return {"stream": stream, "messages": [{"role": "user", "content": prompt}], **members}


class StreamClient:
    """One HTTP/1.1 request on its own connection."""

    def __init__(self, stream: trio.SocketStream, connection: h11.Connection) -> None:
        self.stream = stream
        self.status = 0
        self.headers: dict[str, str] = {}
        self.arrivals: list[Arrival] = []
        self.sent_at = trio.current_time()
        self._connection = connection
        self._events: list[StreamEvent] = []
        self._read_events = 0
        self._line = b""

    @property
    def body(self) -> bytes:
        """All bytes of the body so far."""
        return b"".join(arrival.data for arrival in self.arrivals)

    @property
    def longest_silence(self) -> float:
        """Seconds of the longest gap: before the first byte, or between two arrivals."""
        times = [0.0, *(arrival.at for arrival in self.arrivals)]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    @property
    def times_of_beats(self) -> list[float]:
        """When heartbeats came."""
        return [arrival.at for arrival in self.arrivals if arrival.data.startswith((b": ", b" "))]

    @property
    def events(self) -> list[StreamEvent]:
        """The JSON events so far; comments and ``[DONE]`` are none."""
        for arrival in self.arrivals[self._read_events :]:
            *lines, self._line = (self._line + arrival.data).split(b"\n")
            self._events += [
                StreamEvent(arrival.at, msgspec.json.decode(line.removeprefix(b"data: ")))
                for line in lines
                if line.startswith(b"data: {")
            ]
        self._read_events = len(self.arrivals)
        return self._events

    @property
    def pieces(self) -> list[tuple[float, str]]:
        """The pieces of a chat answer's text, and when they came. A piece may be several tokens."""
        return [(event.at, text) for event in self.events if (text := _content(event))]

    @property
    def times_of_tokens(self) -> list[float]:
        """When the pieces of a chat answer's text came.

        About a piece per token: white space may wait for what follows it, unless the request asks for ``logprobs``.
        """
        return [event.at for event in self.events if _content(event) or _logprobs(event)]

    def longest_wait_for_token(self, since: float, until: float) -> float:
        """Seconds of the longest gap between `times_of_tokens` that reaches into this span of Trio's clock.

        A gap that is open at its end counts up to there.
        """
        times = [self.sent_at + at for at in self.times_of_tokens]
        moments = [self.sent_at, *(time for time in times if time < until), until]
        return max(later - earlier for earlier, later in pairwise(moments) if later > since)

    @property
    def text(self) -> str:
        """A chat answer's text so far."""
        return "".join(map(_content, self.events))

    @property
    def usage(self) -> dict[str, Any]:
        """A chat answer's usage, which a stream has if ``stream_options`` ask for it; empty until it has come."""
        return next((event.data["usage"] for event in reversed(self.events) if event.data.get("usage")), {})

    async def read(self) -> Arrival | None:
        """The next piece of the body, None at its end. A checkpoint. Raises ``h11.RemoteProtocolError`` if cut off."""
        while True:
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                self._connection.receive_data(await self.stream.receive_some(65536))
            elif isinstance(event, h11.Response):
                self.status = event.status_code
                self.headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                arrival = Arrival(trio.current_time() - self.sent_at, bytes(event.data))
                self.arrivals.append(arrival)
                return arrival
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
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

    async def wait_for_token(self) -> float:
        """When the first text of a chat answer came; a checkpoint. Raises EOFError if the answer ends without any."""
        while not self.times_of_tokens:
            if await self.read() is None:
                raise EOFError(f"an answer without text: {self.body[-1000:]!r}")
        return self.times_of_tokens[0]

    async def half_close(self) -> None:
        """Say that nothing more will be sent, and keep reading (FIN)."""
        await self.stream.send_eof()

    def reset(self) -> None:
        """Leave with a RST instead of a FIN. Not a checkpoint."""
        linger = struct.pack("ii", 1, 0)
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.stream.socket.close()


def _logprobs(event: StreamEvent) -> bool:
    return any(choice.get("logprobs") for choice in event.data.get("choices", ()))


def _content(event: StreamEvent) -> str:
    """The text of a chat chunk's one choice."""
    return "".join(choice.get("delta", {}).get("content") or "" for choice in event.data.get("choices", ()))


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
    sock = trio.socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await sock.connect((host, port))
    data = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
    connection = h11.Connection(h11.CLIENT)
    fields = {
        "host": f"{host}:{port}",
        "content-type": "application/json",
        "content-length": str(len(data)),
        **(headers or {}),
    }
    request = connection.send(h11.Request(method=method, target=path, headers=list(fields.items()))) or b""
    request += connection.send(h11.Data(data=data)) or b""
    request += connection.send(h11.EndOfMessage()) or b""
    async with trio.SocketStream(sock) as stream:
        await stream.send_all(request)
        yield StreamClient(stream, connection)
