"""All requests at a glance: those that live, the last that ended, and what the KV holds."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from ds4trio.api.errors import ApiError
from ds4trio.engine import Divergence, KvUse, Phase, Progress
from ds4trio.server.monitor.metrics import Metrics
from ds4trio.server.monitor.record import STAGES, Record, tokens_of

if TYPE_CHECKING:
    from ds4trio.server.lifeline import Lifeline

__all__ = ["Board"]

MOST_ENDED = 100
"""Requests that are shown after their end."""
MOST_ERRORS = 20
LEAST_WAIT = 0.5
"""Seconds between two looks of one who watches."""
MOST_WAIT = 5.0
"""Seconds after which one who watches gets to see the same again."""
MOST_AT_ONCE = 50
"""Requests that are written down before others have the event loop: a millisecond."""

TOTALS = ("ended", "stop", "length", "cancelled", "failed", "computed", "memory", "disk", "output")


class Board:
    """Who lives, by id. ``kv`` says what the engine's memory holds, None while there is no engine."""

    def __init__(self, *, kv: Callable[[], KvUse | None]) -> None:
        self.live: dict[str, Lifeline] = {}
        self.kv = kv
        self.metrics = Metrics(self._gauges)
        self._records: dict[str, Record] = {}
        self._ended: deque[tuple[str, msgspec.Raw]] = deque(maxlen=MOST_ENDED)
        """The key and the document of each: nothing changes any more."""
        self._totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """By key, of those that have ended."""
        self._errors: deque[dict[str, Any]] = deque(maxlen=MOST_ERRORS)
        self._news = trio.Event()

    @contextmanager
    def showing(self, record: Record, lifeline: "Lifeline") -> Iterator[None]:
        """Show a request for the length of the block, and for a while after it as one that has ended."""
        record.changed = self.changed
        self.live[record.id] = lifeline
        self._records[record.id] = record
        self.changed()
        try:
            yield
        finally:
            del self.live[record.id]
            record.close()
            if record.outcome == "failed":
                self._note_error(f"{record.kind} {record.id}", record.cause)
            del self._records[record.id]
            self._ended.append((record.key, _json(_document(record, None))))
            self._totals[record.key].update(record.tokens)
            self._totals[record.key].update(("ended", record.outcome or "cancelled"))
            self.changed()

    def changed(self) -> None:
        """Wake those who watch. Not a checkpoint."""
        news, self._news = self._news, trio.Event()
        news.set()

    @property
    def news(self) -> trio.Event:
        """Set as soon as there is something to see that cannot be seen yet."""
        return self._news

    async def wait(self, news: trio.Event) -> None:
        """Until there is more to see than when these were the `news`; neither too soon nor too long. A checkpoint."""
        await trio.sleep(LEAST_WAIT)
        with trio.move_on_after(MOST_WAIT - LEAST_WAIT):
            await news.wait()

    def refused(self, method: str, path: str, error: ApiError) -> None:
        """Note a request that was answered with an error before anything was computed. Not a checkpoint."""
        self._note_error(f"{method} {path[:80]}", _said(error))
        self.metrics.refused(error.status, error.code or error.kind)
        self.changed()

    def _note_error(self, what: str, message: str) -> None:
        self._errors.append({"at": round(time.time(), 3), "what": what, "message": message})

    @property
    def records(self) -> list[Record]:
        """Of those that live, oldest first."""
        return list(self._records.values())

    def running_of(self, key: str) -> int:
        """How many requests of an API key live. Not a checkpoint."""
        return sum(record.key == key for record in self._records.values())

    def computing(self, key: str | None = None) -> list[tuple[str, Progress]]:
        """The choices that have left the queue, with the ids of their requests; only those of one API key, if given."""
        return [
            (id, progress)
            for id, lifeline in self.live.items()
            if key in (None, lifeline.key)
            for progress in lifeline.running
            if progress.phase is not Phase.QUEUED
        ]

    def errors(self) -> list[dict[str, Any]]:
        """The last errors, latest first, as JSON has them."""
        return list(reversed(self._errors))

    async def view(self, key: str | None = None) -> dict[str, Any]:
        """All requests, as JSON has them; only those of one API key, if it is given.

        ``requests`` are those that live, the oldest first, ``ended`` the last that ended, the latest first. ``totals``
        count since the server's start: those that ended, also by outcome, and tokens. A checkpoint where there are
        more than `MOST_AT_ONCE`.
        """
        blocker = self._oldest_running(key)
        seen: list[tuple[Record, msgspec.Raw]] = []
        for number, record in enumerate(tuple(self._records.values()), 1):
            if key in (None, record.key):
                seen.append((record, _json(_document(record, blocker))))
            if number % MOST_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        # Who has ended meanwhile stands among those that ended.
        live = {record.id: document for record, document in seen if record.ended is None}
        return {
            "requests": list(live.values()),
            "ended": [document for owner, document in reversed(self._ended) if key in (None, owner)],
            "totals": self._counted(key, live),
        }

    def _counted(self, key: str | None, live: Iterable[str]) -> Counter[str]:
        totals = Counter(dict.fromkeys(TOTALS, 0))
        for counts in self._totals.values() if key is None else (self._totals[key],):
            totals.update(counts)
        for id in live:
            record = self._records[id]
            totals.update(record.tokens)
            # Who waits has computed nothing, and there may be a thousand of them.
            for progress in self.live[id].running if record.stage != "queued" else ():
                totals.update(tokens_of(progress, progress.output_tokens))
        return totals

    def _oldest_running(self, key: str | None) -> str | None:
        """Whose place is likely to be free first; None where that is nobody's business."""
        oldest = next((record for record in self._records.values() if record.stage != "queued"), None)
        return oldest.id if oldest is not None and key in (None, oldest.key) else None

    def _gauges(self) -> Iterable[tuple[str, str, str, Mapping[str, float]]]:
        stages = Counter(record.stage for record in self._records.values())
        phases: dict[str, float] = {stage: float(stages[stage]) for stage in (*STAGES.values(), "withheld")}
        yield "live_requests", "Requests that live, by phase", "phase", phases
        kv = self.kv()
        if kv is None:
            return
        running, cached = kv.running_cells, kv.cached_cells
        cells = {"running": running, "cached": cached, "free": kv.cells - running - cached}
        yield "kv_cells", "Cells of the KV, by what they hold", "state", cells
        yield (
            "kv_beside_bytes",
            "Memory beside the KV: checkpoints and conversations that rest",
            "",
            {"": float(kv.beside_bytes)},
        )
        yield "kv_disk_bytes", "KV on disk", "", {"": float(kv.disk_bytes)}


def _document(record: Record, blocker: str | None) -> dict[str, Any]:
    progress = record.progress
    queued = record.stage == "queued" and record.ended is None
    return {
        "id": record.id,
        "protocol": record.kind,
        "model": record.model,
        "client": record.client,
        "key": record.key or None,
        "stream": record.streams,
        "phase": "ended" if record.ended is not None else record.stage,
        "since": _epoch(record, record.ended if record.ended is not None else record.stages[-1][1]),
        "arrived": _epoch(record, 0.0),
        "queue_position": progress.queue_position if queued else 0,
        "queue_length": progress.queue_length if queued else 0,
        "blocker": blocker if queued else None,
        "prompt_tokens": progress.prompt_tokens,
        "cached_tokens": progress.cached_tokens,
        "loaded_tokens": progress.loaded_tokens,
        "prefilled_tokens": progress.prefilled_tokens,
        "output_tokens": progress.output_tokens,
        "prefill_rate": round(progress.rate, 1),
        "eta": None if progress.eta is None or record.stage != "prefill" else round(progress.eta, 1),
        "first_byte": _rounded(record.first_byte),
        "first_token": _rounded(record.first_token),
        "heartbeats": record.heartbeats,
        "longest_silence": _rounded(record.longest_silence),
        "stages": [[stage, round(at, 3)] for stage, at in record.stages],
        "beats": [round(at, 3) for at in record.beats],
        "outcome": record.outcome or None,
        "cause": record.cause or None,
        "miss": _miss(progress.divergence),
    }


def _json(document: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(document))


def _said(error: ApiError) -> str:
    """What may be shown of an error: the words of one that is the client's may quote a prompt."""
    return f"{error.status} {error.code or error.kind}" + (f": {error.message}" if error.servers_fault else "")


def _epoch(record: Record, at: float) -> float:
    return round(record.arrived_epoch + at, 3)


def _miss(divergence: Divergence | None) -> dict[str, Any] | None:
    if divergence is None:
        return None
    return {"position": divergence.position, "lost": divergence.lost, "reason": divergence.reason}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
