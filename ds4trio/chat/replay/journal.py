"""The answers of one model on disk: a file that only grows, until it is written anew.

A line that names the format, then records: length and CRC-32 of what follows, four bytes each, and a `Record` as
MessagePack. A process that dies in the middle of one leaves a tail that no reader takes, and the next writer cuts off.
Nothing is synced to the disk on its way: what is lost costs some prefill, no more. Prompts are private, so the file is
its owner's alone.

One process writes a file. A disk that fails or is full is told once, and tried again later.
"""

import fcntl
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock

import msgspec

__all__ = ["RETRY_SECONDS", "Journal", "Record"]

log = logging.getLogger("ds4trio")

_MAGIC = b"ds4trio answers 1\n"
_HEAD = 8
# Below this size nobody minds what is out of date in it.
_SMALL = 1 << 20
RETRY_SECONDS = 30.0


class Record(msgspec.Struct, array_like=True, frozen=True):
    """One answer, see `ds4trio.chat.replay.memory`; ``tokens`` are little-endian, four bytes each."""

    visible: bytes
    digest: bytes
    characters: int
    head: str
    reasoning: str
    tokens: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


class Journal:
    """The file at ``path``, which need not exist; its folder is made when something is written. Thread-safe.

    Everything here blocks, and nothing raises.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._failed_at: float | None = None
        """When the disk failed last, until it works again: by then there are records that it has not."""
        self._good: int | None = None
        """Bytes of the file up to the end of its last whole record, once it is known."""
        self._compact = 0
        """Its size when it was last written anew, or read."""

    def read(self) -> list[Record]:
        """All whole records, the oldest first."""
        with self._lock:
            try:
                return self._read()
            except OSError as error:
                self._fail(error)
                return []

    def append(
        self, records: Iterable[Record], *, everything: Callable[[], Iterable[Record]], last: bool = False
    ) -> None:
        """Add ``records``. A file that has doubled is written anew, with ``everything`` there is and nothing else.

        So is one after a disk has failed, with what is in it, half a minute later at the earliest; or at once if this
        is the ``last`` time.
        """
        with self._lock:
            data = b"".join(map(_framed, records))
            failed_at = self._failed_at
            if failed_at is None and not data:
                return
            if failed_at is not None and not last and time.monotonic() < failed_at + RETRY_SECONDS:
                return
            try:
                if failed_at is not None:
                    # It may hold what could not be read at the start.
                    self._rewrite([*self._read(), *everything()])
                elif self._size() + len(data) > max(_SMALL, 2 * self._compact):
                    self._rewrite(everything())
                else:
                    self._append(data)
            except OSError as error:
                self._fail(error)
                return
            if failed_at is not None:
                self._failed_at = None
                log.warning("answers are kept on disk again")

    def _size(self) -> int:
        if self._good is None:
            self._read()
        return self._good or 0

    def _fail(self, error: OSError) -> None:
        if self._failed_at is None:
            log.warning("answers cannot be kept on disk, tried again every %g s: %s", RETRY_SECONDS, error)
        self._failed_at = time.monotonic()

    def _read(self) -> list[Record]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            data = b""
        records, self._good = [], 0
        for record, end in _records(data):
            records.append(record)
            self._good = end
        self._compact = self._good
        return records

    def _append(self, data: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_size != self._good:
                # Another server has written to it, or somebody has removed it.
                self._read()
            good = self._good or 0
            file.truncate(good)
            file.seek(good)
            file.write(data if good else _MAGIC + data)
            self._good = file.tell()

    def _rewrite(self, records: Iterable[Record]) -> None:
        data = _MAGIC + b"".join(map(_framed, records))
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = self._path.with_name(f"{self._path.name}.new")
        try:
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)  # else the name may be there before the contents are
            scratch.replace(self._path)
        except OSError:
            with suppress(OSError):
                scratch.unlink()
            raise
        self._good = self._compact = len(data)


def _framed(record: Record) -> bytes:
    data = _encoder.encode(record)
    return len(data).to_bytes(4, "little") + zlib.crc32(data).to_bytes(4, "little") + data


def _records(data: bytes) -> Iterator[tuple[Record, int]]:
    """The records, each with the place where it ends, up to the first that is not whole."""
    start = len(_MAGIC) if data.startswith(_MAGIC) else len(data)
    while start + _HEAD <= len(data):
        size, checksum = (int.from_bytes(data[at : at + 4], "little") for at in (start, start + 4))
        body = data[start + _HEAD : start + _HEAD + size]
        if len(body) < size or zlib.crc32(body) != checksum:
            return
        try:
            record = _decoder.decode(body)
        except msgspec.MsgspecError:  # whole, but of somebody else
            return
        start += _HEAD + size
        yield record, start
