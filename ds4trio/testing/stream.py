"""An answer as far as it has come: which bytes came when, which events they hold, and how long there were none.

No socket lives here and no clock: `clients` reads from the one, `asgi` from an application in memory. Of the protocols
it knows what tests of waiting and sharing look at: the text and the usage of Chat Completions, Responses and Messages.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import msgspec
import trio

__all__ = ["Arrival", "Gap", "PATHS", "Phase", "Protocol", "Silence", "Stream", "StreamEvent", "gaps", "silence_of"]

Phase = Literal["queue", "prefill", "decode"]
Protocol = Literal["chat", "responses", "messages"]
PATHS: dict[Protocol, str] = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
"""Where a server is asked in each."""


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


class Stream(ABC):
    """The answer to one request. Times are seconds since it was sent, which was at ``sent_at`` on Trio's clock."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.sent_at = trio.current_time()
        self.started_at: float | None = None
        """When the headers came."""
        self.over_at: float | None = None
        """When the answer was complete, or the client left."""
        self.arrivals: list[Arrival] = []
        self.ended = trio.Event()
        """Set once the answer is complete."""
        self._events: list[StreamEvent] = []
        self._read_events = 0
        self._line = b""

    @property
    def body(self) -> bytes:
        """All bytes of the body so far."""
        return b"".join(arrival.data for arrival in self.arrivals)

    @property
    def longest_silence(self) -> float:
        """Seconds of the longest gap: before the first byte of the body, or between two arrivals."""
        times = [0.0, *(arrival.at for arrival in self.arrivals)]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    @property
    def times_of_beats(self) -> list[float]:
        """When heartbeats came."""
        return [arrival.at for arrival in self.arrivals if arrival.data.startswith((b": ", b" "))]

    @property
    def events(self) -> list[StreamEvent]:
        """The JSON events so far; comments and ``[DONE]`` are none. Raises ``msgspec.DecodeError`` for broken ones."""
        for arrival in self.arrivals[self._read_events :]:
            *lines, self._line = (self._line + arrival.data).split(b"\n")
            self._events += [
                StreamEvent(arrival.at, _decoded(data))
                for line in lines
                if line.startswith(b"data:") and (data := line.removeprefix(b"data:").strip()).startswith(b"{")
            ]
        self._read_events = len(self.arrivals)
        return self._events

    @property
    def pieces(self) -> list[tuple[float, str]]:
        """The pieces of the answer's text, and when they came. A piece may be several tokens."""
        return [(event.at, text) for event in self.events if (text := _content(event.data))]

    @property
    def times_of_tokens(self) -> list[float]:
        """When the pieces of the answer's text, reasoning and calls came.

        About a piece per token: white space may wait for what follows it, unless the request asks for ``logprobs``.
        """
        return [event.at for event in self.events if _has_token(event.data)]

    def longest_wait_for_token(self, since: float, until: float) -> float:
        """Seconds of the longest gap between `times_of_tokens` that reaches into this span of Trio's clock.

        A gap that is open at its end counts up to there.
        """
        times = [self.sent_at + at for at in self.times_of_tokens]
        moments = [self.sent_at, *(time for time in times if time < until), until]
        return max(later - earlier for earlier, later in pairwise(moments) if later > since)

    @property
    def text(self) -> str:
        """The answer's text so far, without reasoning and calls."""
        return "".join(_content(event.data) for event in self.events)

    @property
    def usage(self) -> dict[str, Any]:
        """What the events say of the usage, later ones over earlier ones; empty until it has come.

        A stream of Chat Completions has one only if ``stream_options`` ask for it.
        """
        usage: dict[str, Any] = {}
        for event in self.events:
            for holder in (event.data, event.data.get("message"), event.data.get("response")):
                usage |= _object(_object(holder).get("usage"))
        return usage

    @abstractmethod
    async def wait_for_headers(self) -> None:
        """Wait until the status has come, or the answer has ended; a checkpoint."""

    @abstractmethod
    async def wait_for_arrivals(self, *, more_than: int) -> None:
        """Wait until there are more arrivals than that, or the answer has ended; a checkpoint."""

    @abstractmethod
    def leave(self) -> None:
        """Hang up. Not a checkpoint."""

    def _over(self) -> None:
        """Nothing more will come, or nobody is there to hear it. The first call counts."""
        if self.over_at is None:
            self.over_at = trio.current_time() - self.sent_at


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        event: dict[str, Any] = msgspec.json.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
    return event


def _content(event: dict[str, Any]) -> str:
    """The text of one event, in whatever protocol."""
    match event.get("type"):
        case "response.output_text.delta":
            return _text(event.get("delta"))
        case "content_block_delta":
            return _text(_object(event.get("delta")).get("text"))
        case _:
            return "".join(_text(_object(choice.get("delta")).get("content")) for choice in _choices(event))


def _has_token(event: dict[str, Any]) -> bool:
    """Whether the model has written something, be it reasoning or a call."""
    kind = str(event.get("type", ""))
    if kind.startswith("response."):
        return kind.endswith(".delta") and bool(event.get("delta"))
    if kind == "content_block_delta":
        return any(_object(event.get("delta")).get(name) for name in ("text", "thinking", "partial_json"))
    said = ("content", "reasoning_content", "reasoning", "tool_calls")
    return any(
        choice.get("logprobs") or any(_object(choice.get("delta")).get(name) for name in said)
        for choice in _choices(event)
    )


def _choices(event: dict[str, Any]) -> list[dict[str, Any]]:
    choices = event.get("choices")
    return [_object(choice) for choice in choices] if isinstance(choices, list) else []


def _object(value: object) -> dict[str, Any]:
    """Servers send what they like where an object should be."""
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Gap:
    """A silence of ``seconds`` that began ``since`` seconds after the request was sent, and what the server did then.

    A gap is one of ``decode`` if it began with the first token or later, of the ``queue`` if the server said
    (``: queued 2/3``) at one of its ends that the request waits, and else of ``prefill``. So where a server does not
    say that it lets one wait, waiting counts as prefill.
    """

    seconds: float
    since: float
    phase: Phase


@dataclass(frozen=True, slots=True)
class Silence:
    """The longest gap between ``bytes``, headers included, and the longest one between parsed JSON ``events``."""

    bytes: Gap
    events: Gap


def silence_of(stream: Stream) -> Silence:
    """How long a client heard nothing, at most. Not a checkpoint.

    Byte timers (HTTP libraries, proxies) stand the first kind, agents that count events the second. The time from the
    request to the first sign counts, and so does the one from the last sign until the answer was complete or the client
    left, or until now.
    """
    return Silence(
        max(gaps(stream, "bytes"), key=lambda gap: gap.seconds),
        max(gaps(stream, "events"), key=lambda gap: gap.seconds),
    )


def gaps(stream: Stream, between: Literal["bytes", "events"]) -> list[Gap]:
    """All gaps, in order; at least one. Not a checkpoint."""
    until = trio.current_time() - stream.sent_at if stream.over_at is None else stream.over_at
    signs: list[float] = [sign.at for sign in (stream.arrivals if between == "bytes" else stream.events)]
    if between == "bytes" and stream.started_at is not None:
        signs.insert(0, stream.started_at)
    first_token = next(iter(stream.times_of_tokens), until)
    queued = [arrival.at for arrival in stream.arrivals if arrival.data.startswith(b": queued")]
    return list(_gaps([0.0, *signs, max(until, *signs, 0.0)], first_token, queued))


def _gaps(moments: Sequence[float], first_token: float, queued: Sequence[float]) -> Iterator[Gap]:
    for since, until in pairwise(moments):
        phase: Phase = "prefill"
        if since >= first_token:
            phase = "decode"
        elif any(since <= at <= until for at in queued):
            phase = "queue"
        yield Gap(until - since, since, phase)
