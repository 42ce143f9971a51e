"""The files of one model: a subdirectory, and the index of it that is kept in step with it.

A file comes by being renamed into place when it is complete, is never changed, and goes by being removed; another
server may do either at any time. The directory's own time of change tells when to look again, and only names that are
new are opened.

A file that is of no use is *idle*: of another version of this program, or unreadable for now. It is left alone while
there is room, since its owner may want it or the disk may recover, and it still counts.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from threading import Lock

from ds4trio.cache.disk.block import ID_BYTES
from ds4trio.cache.disk.files import Files
from ds4trio.cache.disk.format import FIRST_READ, DamagedError, Header, OtherVersionError, decode, header_size
from ds4trio.cache.disk.index import Index, believed
from ds4trio.cache.disk.trouble import RETRY_SECONDS, Trouble
from ds4trio.cache.state import State, room_for_state

__all__ = ["TEMPORARY", "Shelf", "block_name", "id_of_name", "read_block", "read_header"]

log = logging.getLogger("ds4trio.cache.disk")

SUFFIX = ".kv"
TEMPORARY = ".tmp"
SETTLED_SECONDS = 2.0
"""A directory that changed less long ago may change again without its time showing it: it is as coarse as that."""


def block_name(id: bytes) -> str:
    """The file name of a block."""
    return id.hex() + SUFFIX


def id_of_name(name: str) -> bytes | None:
    """The block that a file name stands for, or None for a file that is not ours."""
    digits = name.removesuffix(SUFFIX)
    if not name.endswith(SUFFIX) or len(digits) != 2 * ID_BYTES:
        return None
    try:
        id = bytes.fromhex(digits)
    except ValueError:
        return None
    return id if id.hex() == digits else None


def read_header(files: Files, path: Path, *, root: bytes, id: bytes) -> tuple[Header, float, float]:
    """A block's header, its rank and its last use. Raises `OSError`, `DamagedError` or `OtherVersionError`."""
    handle = files.open(path)
    try:
        status = files.status(handle)
        header = _header(files, handle, status.size, root=root, id=id)
    finally:
        files.close(handle)
    return header, status.modified, status.accessed


def read_block(files: Files, path: Path, *, root: bytes, id: bytes) -> tuple[Header, State]:
    """A block's header and payload, every byte verified. Raises `OSError`, `DamagedError` or `OtherVersionError`."""
    handle = files.open(path)
    try:
        header = _header(files, handle, files.status(handle).size, root=root, id=id)
        payload = _bytes(files, handle, header.size, header.payload_bytes)
    finally:
        files.close(handle)
    header.verify(payload)
    return header, payload


def _header(files: Files, handle: int, file_bytes: int, *, root: bytes, id: bytes) -> Header:
    data = bytes(_bytes(files, handle, 0, min(FIRST_READ, file_bytes)))
    size = header_size(data, file_bytes)
    if size > len(data):
        data += _bytes(files, handle, len(data), size - len(data))
    return decode(data[:size], file_bytes, root=root, id=id)


def _bytes(files: Files, handle: int, offset: int, count: int) -> memoryview:
    data = room_for_state(count)
    done = 0
    while done < count:
        step = files.read(handle, offset + done, data[done:])
        if step == 0:
            raise DamagedError("cut short while it was read")
        done += step
    return data


@dataclass(frozen=True, slots=True)
class _Idle:
    """A file of no use: how much room it takes, and when to try it again."""

    size: int
    retry_at: float


class Shelf:
    """One subdirectory. ``lock`` guards the index and is never held while a file is touched."""

    def __init__(self, path: Path, files: Files, *, lock: Lock, clock: Callable[[], float], trouble: Trouble) -> None:
        self.path = path
        self.index = Index(bytes.fromhex(path.name))
        self._files = files
        self._lock = lock
        self._clock = clock
        self._trouble = trouble
        self._idle: dict[str, _Idle] = {}
        self._seen: int | None = None
        """What `Files.changed` said when all names were known, or None: look in any case."""

    @property
    def size(self) -> int:
        """Bytes of all files that are known. The lock is held."""
        return self.index.size + sum(idle.size for idle in self._idle.values())

    @property
    def idle(self) -> Path | None:
        """A file that is of no use to us, if there is any. The lock is held."""
        name = next((name for name, idle in self._idle.items() if idle.size), None)
        return self.path / name if name is not None else None

    def path_of(self, id: bytes) -> Path:
        """The file of a block."""
        return self.path / block_name(id)

    def look(self, *, alone: bool = False) -> None:
        """Bring the index in step with the directory; cheap where nothing changed.

        ``alone``: the caller has the directory's lock, so a temporary file is one whose writer died. Raises `OSError`
        where the directory cannot be read; one that is not there is empty.
        """
        now = self._clock()
        with self._lock:
            known = {block_name(id) for id in self.index}
            due = {name for name, idle in self._idle.items() if idle.retry_at <= now}
            waiting = self._idle.keys() - due
        try:
            changed = self._files.changed(self.path)
            if changed == self._seen and not due:
                return
            names = set(self._files.names(self.path))
        except FileNotFoundError:
            changed, names = 0, set()
        for name in names - known - waiting:
            self._meet(name, alone=alone, again=name in due)
        with self._lock:
            for name in (known | due | waiting) - names:
                self._forget(name)
        settled = now - changed / 1e9 > SETTLED_SECONDS and not any(name.endswith(TEMPORARY) for name in names)
        self._seen = changed if settled else None

    def remove(self, path: Path) -> None:
        """Remove a file for good. Raises `OSError`; one that is gone already is no error."""
        with suppress(FileNotFoundError):
            self._files.remove(path)
        with self._lock:
            self._forget(path.name)

    def reject(self, name: str, error: OSError | DamagedError | OtherVersionError, size: int) -> None:
        """Take note that a file of ``size`` bytes could not be used, and let the index forget it."""
        path, now = self.path / name, self._clock()
        retry_at = inf
        if isinstance(error, FileNotFoundError):
            log.info("KV block %s is gone: another server gave it up, or somebody removed it", path)
            with self._lock:
                self._forget(name)
            return
        if isinstance(error, OtherVersionError):
            log.warning("KV block %s is not used: %s", path, error)
        elif isinstance(error, DamagedError):
            log.warning("KV block %s is damaged and not used, its tokens are computed instead: %s", path, error)
            try:
                self.remove(path)
            except OSError:
                log.debug("KV block %s cannot be removed either", path)
            else:
                return
        else:
            self._trouble.note(error)
            retry_at = now + RETRY_SECONDS
        with self._lock:
            self._forget(name)
            self._idle[name] = _Idle(size, retry_at)

    def _meet(self, name: str, *, alone: bool, again: bool) -> None:
        """A name that the index does not know."""
        path = self.path / name
        if name.endswith(TEMPORARY):
            if alone:
                self.remove(path)
            return
        id = id_of_name(name)
        if id is None:
            return
        try:
            header, rank, used = read_header(self._files, path, root=self.index.root, id=id)
        except FileNotFoundError:
            return
        except (OSError, DamagedError, OtherVersionError) as error:
            # Its size must be known, or the budget would not hold; if it cannot be, neither can the directory be used.
            self.reject(name, error, self._files.status(path).size)
            return
        with self._lock:
            self._forget(name)
            self.index.add(header.block, rank=believed(rank, self._clock()), used=used)
        if again:
            self._trouble.over()

    def _forget(self, name: str) -> None:
        self._idle.pop(name, None)
        id = id_of_name(name)
        if id is not None:
            self.index.drop(id)
