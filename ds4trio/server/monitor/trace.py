"""The trace: all there is to know of each request, in a file, for bug reports. It holds prompts and answers in full.

Theory of operation. A request's watcher puts what it hears in a queue, as values that are cheap to make. One thread
makes lines of JSON from them and appends these to the file, whole lines in one write: a kill -9 costs what was in the
queue, and at most the last line is torn. The queue is bounded in bytes; what does not fit is left out, and the trace
says how much that was.

Each line is an object with the ``time`` in seconds since 1970, the ``event``, and the ``request`` that it is about:

* ``server``: another run of the server begins (no request);
* ``arrived``: who asks, in which protocol; ``prompt``: one for each prompt, as text and in tokens, and how to sample;
* ``progress``: the phase, and how far it is; ``cache``: what of the prompt was cached, and why no more;
* ``output``: raw text as the engine gave it, and its ids; ``sent``: bytes to the client, and whether they are a beat;
* ``finished``: a choice is complete; ``parsed``: what its text was understood to be;
* ``cancelled`` and ``failed``: why; ``end``: the sum of it; ``refused``: all there is of one that never began;
* ``lost``: events that did not fit (no request).

API keys and headers do not come here, but for the name that a client gives itself.
"""

import json
import logging
import os
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio

from ds4trio import __version__
from ds4trio.api.answer import Delta
from ds4trio.api.errors import ApiError
from ds4trio.api.transcript import Call, Content, Reasoning, Transcript
from ds4trio.config import ConfigError
from ds4trio.engine import Finished, GenerationRequest, Phase, Progress, TextDelta
from ds4trio.server.monitor.record import Record
from ds4trio.server.monitor.watcher import Watcher

__all__ = ["RequestTrace", "TraceFile"]

log = logging.getLogger("ds4trio")

MOST_QUEUED_BYTES = 64 * 2**20
EVENT_BYTES = 500
"""Of an event in the queue, without its texts."""


class TraceFile:
    """Appends events to a file that nobody but its owner can read. Opens it at once; `run` writes and closes it.

    Raises `ConfigError` where it cannot be written. Blocks for as long as opening a file takes.
    """

    def __init__(self, path: Path, *, most_queued_bytes: int = MOST_QUEUED_BYTES) -> None:
        self._path = path
        self._descriptor = _open(path)
        self._most = most_queued_bytes
        self._changed = threading.Condition()
        self._queue: list[dict[str, Any]] = []
        self._queued_bytes = 0
        self._lost = 0
        self._closing = False
        self._working = True
        self._whole = _ends_whole(self._descriptor)
        """Whether what is in the file ends with a whole line."""

    async def run(self, settings: Mapping[str, object]) -> None:
        """Write what comes until cancelled, and then what is still queued. A checkpoint.

        ``settings`` are those that the operator chose, no keys among them.
        """
        log.warning(
            "trace: all prompts and answers are written to %(path)s, for whoever can read it",
            {"event": "trace", "path": str(self._path)},
        )
        try:
            self.put("server", {"version": __version__, "settings": settings})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_in_thread)
                try:
                    await trio.sleep_forever()
                finally:
                    with self._changed:
                        self._closing = True
                        self._changed.notify()
        finally:
            os.close(self._descriptor)

    async def _write_in_thread(self) -> None:
        # Else no thread would start, and nothing be written, for one that is cancelled at once.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._write_all)

    def put(self, event: str, fields: Mapping[str, object], *, size: int = 0) -> None:
        """Queue an event, whose texts have about ``size`` bytes. For any thread; not a checkpoint."""
        document = {"time": time.time(), "event": event, **fields}
        with self._changed:
            if self._closing or self._queued_bytes + size > self._most:
                self._lost += 1
                return
            self._queue.append(document)
            self._queued_bytes += size + EVENT_BYTES
            self._changed.notify()

    def _write_all(self) -> None:
        while documents := self._take():
            self._write(documents)
        self._write([])  # what was lost since

    def _write(self, documents: list[dict[str, Any]]) -> None:
        """Write them, and how many were lost before. Those that cannot be written are lost too."""
        with self._changed:
            lost, self._lost = self._lost, 0
        told = [{"time": time.time(), "event": "lost", "events": lost}] if lost else []
        try:
            self._append(b"".join(_line(document) for document in (*documents, *told)))
            self._working = True
        except OSError as error:
            if self._working:
                log.warning("writing the trace fails, going on without it: %s", error.strerror)
            self._working = False
            with self._changed:
                self._lost += lost + len(documents)

    def _take(self) -> list[dict[str, Any]]:
        """What is queued, once there is something; nothing: no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            documents, self._queue, self._queued_bytes = self._queue, [], 0
            return documents

    def _append(self, data: bytes) -> None:
        rest = memoryview(data if self._whole else b"\n" + data)
        self._whole = False
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._whole = True


class RequestTrace(Watcher):
    """Puts what it hears of one request into the trace.

    ``about`` says who asks; ``prompts`` are what is computed, a choice of each, and ``texts`` the same as text.
    """

    def __init__(
        self,
        file: TraceFile,
        id: str,
        *,
        about: Mapping[str, object],
        prompts: Sequence[GenerationRequest],
        texts: Sequence[str],
    ) -> None:
        self._file = file
        self._id = id
        self._cache_told = False
        self._transcripts: dict[int, Transcript] = {}
        self._put("arrived", about)
        for prompt, text in zip(prompts, texts, strict=True):
            told = {
                "tokens": len(prompt.prompt),
                "text": text,
                "max_tokens": prompt.max_tokens,
                "stop": prompt.stop,
                "sampling": prompt.sampling,
                "grammar": prompt.grammar,
                "priority": prompt.priority,
            }
            self._put("prompt", told, size=len(text) + len(prompt.grammar or ""))

    def _put(self, event: str, fields: Mapping[str, object], *, size: int = 0) -> None:
        self._file.put(event, {"request": self._id, **fields}, size=size)

    def progressed(self, progress: Progress) -> None:
        """Where it is, and once, what was cached."""
        if not self._cache_told and progress.phase in (Phase.PREFILL, Phase.DECODE):
            self._cache_told = True
            cache = {
                "prompt_tokens": progress.prompt_tokens,
                "cached_tokens": progress.cached_tokens,
                "loaded_tokens": progress.loaded_tokens,
                "divergence": progress.divergence,
            }
            self._put("cache", cache)
        self._put("progress", {**_where(progress), "rate": progress.rate})

    def sampled(self, choice: int, event: TextDelta) -> None:
        """The raw text."""
        told = {"choice": choice, "text": event.text, "special": event.special, "tokens": event.tokens}
        self._put("output", told, size=len(event.text))

    def read(self, choice: int, delta: Delta) -> None:
        """Collected for the end."""
        self._transcripts.setdefault(choice, Transcript()).add(delta.events)

    def wrote(self, data: bytes, *, beat: str) -> None:
        """The bytes as text."""
        self._put("sent", {"text": data.decode(errors="replace"), "beat": beat or None}, size=len(data))

    def finished(self, choice: int, event: Finished) -> None:
        """The choice, as it was understood."""
        told = {
            "choice": choice,
            "reason": event.reason,
            "stop_sequence": event.stop_sequence,
            "usage": event.usage,
            "prefill_seconds": event.prefill_seconds,
            "decode_seconds": event.decode_seconds,
        }
        self._put("finished", told)
        self._parsed(choice, self._transcripts.pop(choice, Transcript()))

    def cancelled(self, cause: str, progress: Progress, freed_after: float) -> None:
        """Where it was."""
        self._put("cancelled", {"cause": cause, "freed_after": freed_after, **_where(progress)})

    def failed(self, cause: str, error: ApiError) -> None:
        """The whole message."""
        self._put("failed", {"status": error.status, "code": error.code, "message": error.message})

    def ended(self, record: Record) -> None:
        """The sum, behind what was understood of choices that are not complete."""
        for choice, transcript in self._transcripts.items():
            self._parsed(choice, transcript)
        self._transcripts.clear()
        end = {
            "outcome": record.outcome or "cancelled",
            "cause": record.cause or None,
            **_where(record.progress),
            "first_byte": record.first_byte,
            "first_token": record.first_token,
            "longest_silence": record.longest_silence,
            "heartbeats": record.heartbeats,
            "seconds": record.ended,
        }
        self._put("end", end)

    def _parsed(self, choice: int, transcript: Transcript) -> None:
        parts = [_part(item) for item in transcript.items]
        size = sum(len(text) for part in parts for text in part.values())
        self._put("parsed", {"choice": choice, "parts": parts}, size=size)


def _where(progress: Progress) -> dict[str, object]:
    names = ("queue_position", "queue_length", "prompt_tokens", "cached_tokens", "prefilled_tokens", "output_tokens")
    return {"phase": progress.phase.value} | {name: getattr(progress, name) for name in names}


def _part(item: Reasoning | Content | Call) -> dict[str, str]:
    if isinstance(item, Call):
        return {"call": item.name, "arguments": item.arguments, "state": "complete" if item.complete else "cut off"}
    return {"reasoning" if isinstance(item, Reasoning) else "content": item.text}


def _line(document: Mapping[str, object]) -> bytes:
    try:
        return msgspec.json.encode(document) + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, from a file's name say
        return json.dumps(msgspec.to_builtins(document)).encode() + b"\n"


def _open(path: Path) -> int:
    """A descriptor that appends. Not even a pipe without a reader may hold up the start."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"trace = {str(path)!r}: {error.strerror}; give a file that can be written") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(descriptor)
        raise ConfigError(f"trace = {str(path)!r} is no file of yours; give a regular one that belongs to you")
    os.fchmod(descriptor, 0o600)
    return descriptor


def _ends_whole(descriptor: int) -> bool:
    """Whether the file ends with a whole line, as one does that nobody was killed over."""
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
