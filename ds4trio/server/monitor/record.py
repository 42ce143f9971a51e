"""One request, from its arrival to its end, as anybody may see it: no word of its prompt or answer."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import trio

from ds4trio.api.answer import Delta
from ds4trio.api.errors import ApiError
from ds4trio.engine import Finished, Phase, Progress, TextDelta
from ds4trio.server.monitor.metrics import Metrics
from ds4trio.server.monitor.watcher import Watcher

__all__ = ["Outcome", "Record", "Stage", "tokens_of"]

MOST_STAGES = 200
MOST_BEATS = 200
"""Heartbeats whose time is remembered."""

Stage = Literal["queued", "loading", "prefill", "decode", "withheld"]
Outcome = Literal["", "stop", "length", "cancelled", "failed"]

STAGES: dict[Phase, Stage] = {
    Phase.QUEUED: "queued",
    Phase.LOADING: "loading",
    Phase.PREFILL: "prefill",
    Phase.DECODE: "decode",
}


@dataclass(eq=False, kw_only=True, slots=True)
class Record:
    """The facts of one request. Its lifeline says what happens; ``metrics`` and the ``watchers`` hear of it.

    ``kind`` is the protocol's short name, ``client`` what the client calls itself, ``arrived`` is Trio's clock. All
    other times are seconds since then. ``changed`` is called whenever there is something new to see.
    """

    id: str
    kind: str
    model: str
    client: str
    streams: bool
    key: str = ""
    """The name of the API key that it came with."""
    arrived: float
    arrived_epoch: float = field(init=False)
    """Seconds since 1970."""
    metrics: Metrics
    watchers: Sequence[Watcher] = ()
    changed: Callable[[], None] = lambda: None
    where: Callable[[], Progress] = Progress
    """Where the request is right now."""
    stages: list[tuple[Stage, float]] = field(default_factory=lambda: [("queued", 0.0)])
    """What it went through, and since when. Withheld: it decodes, but the protocol has nothing to say of it yet."""
    beats: list[float] = field(default_factory=list)
    """When they were, the last of them."""
    heartbeats: int = 0
    first_byte: float | None = None
    first_token: float | None = None
    longest_silence: float = 0.0
    """Between two writes, headers included."""
    outcome: Outcome = ""
    cause: str = ""
    """Why it was cancelled or failed."""
    ended: float | None = None
    tokens: Counter[str] = field(default_factory=Counter)
    """What its generations that are over took, as `tokens_of` counts it."""
    _last: Progress = field(default_factory=Progress)
    _written: float = 0.0
    _token_at: float | None = None

    def __post_init__(self) -> None:
        self.arrived_epoch = time.time() - self.now

    @property
    def now(self) -> float:
        """Seconds since it arrived. Not a checkpoint."""
        return trio.current_time() - self.arrived

    @property
    def stage(self) -> Stage:
        """What it goes through now, or went through last."""
        return self.stages[-1][0]

    @property
    def progress(self) -> Progress:
        """Where it is, or where it was when it ended."""
        return self._last if self.ended is not None else self.where()

    @property
    def decode_rate(self) -> float:
        """Tokens per second since the first one, on average, 0 while unknown. Not a checkpoint."""
        if self.first_token is None:
            return 0.0
        seconds = (self.now if self.ended is None else self.ended) - self.first_token
        return max(0, self.progress.output_tokens - 1) / seconds if seconds > 0 else 0.0

    def progressed(self, progress: Progress) -> None:
        """It has left the queue, KV has come from the disk, a chunk of prefill is done, or the first token is there."""
        now, stage = self.now, STAGES[progress.phase]
        if self.stage == "queued" and stage != "queued":
            self.metrics.left_queue(now)
        if stage != self.stage:
            self._enter(stage, now)
        if stage == "decode" and self.first_token is None:
            self.first_token = now
            self.metrics.first_token(now)
        for watcher in self.watchers:
            watcher.progressed(progress)
        self.changed()

    def wrote(self, data: bytes, *, beat: str = "") -> None:
        """Bytes are on their way to the client; ``beat`` says in which form, if they are a heartbeat."""
        now = self.now
        if self.first_byte is None:
            self.first_byte = now
            self.metrics.first_byte(now)
        else:
            self.longest_silence = max(self.longest_silence, now - self._written)
        if beat:
            self.beats = [*self.beats[1 - MOST_BEATS :], now]
            self.heartbeats += 1
            self.metrics.heartbeat(beat)
            if self.stage == "decode":
                self._enter("withheld", max(self._written, self.stages[-1][1]))
            self.changed()
        elif self.stage == "withheld":
            self._enter("decode", now)
        self._written = now
        for watcher in self.watchers:
            watcher.wrote(data, beat=beat)

    def parted(self, data: bytes) -> None:
        """The last word to a client that the server had to cut off; the computation has ended before."""
        for watcher in self.watchers:
            watcher.wrote(data, beat="")

    def _enter(self, stage: Stage, at: float) -> None:
        if len(self.stages) >= MOST_STAGES:
            del self.stages[-2:]  # a stream that stutters: what came first says more than the latest
        self.stages.append((stage, at))

    def sampled(self, choice: int, event: TextDelta) -> None:
        """The engine has more of the text, whether the client gets to see it or not."""
        now = trio.current_time()
        if self._token_at is not None:
            self.metrics.gap(now - self._token_at)
        self._token_at = now
        for watcher in self.watchers:
            watcher.sampled(choice, event)
        self.changed()

    def read(self, choice: int, delta: Delta) -> None:
        """So much of the text has been understood."""
        for watcher in self.watchers:
            watcher.read(choice, delta)

    def computed(self, progress: Progress, output: int) -> None:
        """One of its generations is over, which has computed so many tokens of ``output``."""
        tokens = tokens_of(progress, output)
        self.tokens.update(tokens)
        self.metrics.computed(tokens)

    def finished(self, choice: int, event: Finished) -> None:
        """One of its choices is complete."""
        self.outcome = event.reason
        for watcher in self.watchers:
            watcher.finished(choice, event)

    def cancelled(self, cause: str, seconds: float) -> None:
        """The computation was stopped; ``seconds`` later nothing worked for it any more."""
        progress = self.where()
        self.outcome, self.cause = "cancelled", cause
        self.metrics.cancelled(cause, seconds, self.tokens["computed"] + self.tokens["output"])
        for watcher in self.watchers:
            watcher.cancelled(cause, progress, seconds)

    def failed(self, error: ApiError) -> None:
        """It ended with an error."""
        # What is wrong with a request may quote it.
        self.outcome, self.cause = "failed", error.message if error.servers_fault else f"{error.code}"
        for watcher in self.watchers:
            watcher.failed(self.cause, error)

    def close(self) -> None:
        """Nothing more will come."""
        self._last, self.ended = self.where(), self.now
        self.where = Progress  # what computed it may go
        if self.streams and self.first_byte is not None:
            self.longest_silence = max(self.longest_silence, self.ended - self._written)
            self.metrics.silence(self.longest_silence)
        self.metrics.ended(self.kind, self.outcome or "cancelled")
        for watcher in self.watchers:
            watcher.ended(self)
        self.changed()


def tokens_of(progress: Progress, output: int) -> dict[str, int]:
    """Prompt tokens that were computed, and reused from memory and from disk; and tokens of the output."""
    return {
        "computed": max(0, progress.prefilled_tokens - progress.cached_tokens),
        "memory": max(0, progress.cached_tokens - progress.loaded_tokens),
        "disk": progress.loaded_tokens,
        "output": output,
    }
