"""All blocks of a directory under one budget, and those of one model to read and write.

Each model has a subdirectory, named by its root id; blocks of other models are known too, since the budget is for all
and the one that is missed least goes first, whoever's it is.

Two locks, never both wanted by one who only asks:

- `BlockStore._lock` guards the index and the counters. It is never held while a file is touched, so that a question
  from another thread does not wait for a disk.
- Whoever adds or gives up files is alone: `BlockStore._writer` keeps the threads of this process apart, the file
  ``lock`` the processes. So the budget holds for all servers together, and a temporary file that anybody finds while
  alone is one whose writer died. The system takes the lock from a process that ends, however it ends.

Reading needs no lock: a file is complete under its name or it is not there.
"""

import logging
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from threading import Lock

from ds4trio.cache.disk.block import ID_BYTES, TOKEN, Block, block_id, root_id
from ds4trio.cache.disk.files import Files, RealFiles
from ds4trio.cache.disk.format import DamagedError, OtherVersionError, Payload, encode
from ds4trio.cache.disk.index import Match
from ds4trio.cache.disk.shelf import TEMPORARY, Shelf, read_block
from ds4trio.cache.disk.trouble import Trouble
from ds4trio.cache.state import State

__all__ = ["LOCK_NAME", "BlockStore", "Counters", "prefill_seconds", "shelf_directories"]

log = logging.getLogger("ds4trio.cache.disk")

LOCK_NAME = "lock"


@dataclass(slots=True)
class Counters:
    """What happened since the start; all but bytes count blocks."""

    written: int = 0
    written_bytes: int = 0
    hits: int = 0
    """Blocks read and found good."""
    read_bytes: int = 0
    misses: int = 0
    """Blocks that were found in the index and could not be had."""
    evicted: int = 0
    errors: int = 0
    """Operations that the file system refused."""


def prefill_seconds(start: int, count: int) -> float:
    """What computing ``count`` tokens from position ``start`` on might take: a guess, good for comparing blocks."""
    return count * (1 + (start + count / 2) / 16_384) / 250


class BlockStore:
    """The blocks of one model in a directory. Thread-safe; a method that touches files says that it blocks.

    ``fingerprint`` is all that makes KV unfit for another model or another setting of it; ``space_bytes`` is the budget
    of the whole directory; ``model`` is a name for people; ``seconds`` says what computing some tokens from a position
    on would take. ``clock`` gives seconds since 1970, like the files' own times.
    """

    def __init__(
        self,
        directory: Path,
        *,
        fingerprint: bytes,
        space_bytes: int,
        model: str = "",
        seconds: Callable[[int, int], float] = prefill_seconds,
        files: Files | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = root_id(fingerprint)
        """The parent of blocks that begin at 0."""
        self._directory = directory
        self._space_bytes = space_bytes
        self._model = model
        self._seconds = seconds
        self._files = files if files is not None else RealFiles()
        self._clock = clock
        self._lock = Lock()
        self._writer = Lock()
        self._writing = Trouble(f"writing KV to {directory}", clock)
        self._reading = Trouble(f"reading KV from {directory}", clock)
        self._own = self._shelf(self.root.hex())
        self._shelves = {self._own.path.name: self._own}
        self._announced: set[bytes] = set()
        self._pins: Counter[bytes] = Counter()
        self._counters = Counters()

    @property
    def size(self) -> int:
        """Bytes of all files in the directory, those of other models too."""
        with self._lock:
            return self._size()

    @property
    def counters(self) -> Counters:
        """A copy of the counters."""
        with self._lock:
            return replace(self._counters)

    def open(self) -> None:
        """Learn what is there, remove what dead writers left, keep the budget. Blocks.

        A directory that cannot be used costs one warning; the store then has nothing, and tries again after a while.
        """
        try:
            with self._alone():
                self._look_around()
                self._make_room(0)
        except OSError as error:
            self._failed(self._writing, error)
            self._look()

    def match(self, tokens: Sequence[int]) -> Match:
        """The longest beginning of ``tokens`` that can be read. Touches the directory, but no more than it must.

        Leave out the last token of a prompt: its logits have to be computed in any case.
        """
        wanted = array(TOKEN, tokens)
        self._look()
        with self._lock:
            return self._own.index.match(wanted)

    def missing(self, parent: bytes, start: int, tokens: Sequence[int], *, whole: bool = False) -> Block | None:
        """The block to write for these tokens at ``start``, or None if it is there or on its way.

        ``parent`` is the id of the block before it, `root` for the first. The id of a block that is there: `block_id`.
        """
        own = array(TOKEN, tokens)
        id = block_id(parent, own, whole=whole)
        with self._lock:
            if id in self._own.index or id in self._announced:
                return None
        seconds = self._seconds(start, len(own))
        return Block(id=id, parent=parent, start=start, tokens=own, whole=whole, seconds=seconds)

    def announce(self, block: Block) -> bool:
        """Say that a block will be written: `missing` does not offer it until `withdraw`. False: somebody has."""
        with self._lock:
            if block.id in self._own.index or block.id in self._announced:
                return False
            self._announced.add(block.id)
            return True

    def withdraw(self, block: Block) -> None:
        """Take an announcement back, whether the block was written or not."""
        with self._lock:
            self._announced.discard(block.id)

    def pin(self, blocks: Iterable[Block]) -> None:
        """Never evict these until they were unpinned as often. Another server may."""
        with self._lock:
            self._pins.update(block.id for block in blocks)

    def unpin(self, blocks: Iterable[Block]) -> None:
        """Undo one `pin` of each."""
        with self._lock:
            for block in blocks:
                self._pins[block.id] -= 1
                if self._pins[block.id] <= 0:
                    del self._pins[block.id]

    def write(self, block: Block, payload: Payload, *, words: str = "") -> bool:
        """Keep a block: True once it survives a power failure, or was there. Blocks.

        False: there is no room that may be used, or the disk refuses, which the log has. ``words`` are the first of the
        prompt, for `ds4trio cache ls`; kept only with a block that begins at 0.
        """
        if self._writing.pausing:
            return False
        words = words if block.start == 0 else ""
        header = encode(block, payload, root=self.root, created=self._clock(), model=self._model, words=words)
        try:
            with self._alone():
                self._look_around()
                with self._lock:
                    there = block.id in self._own.index
                if there:
                    # Its writer may have died before this.
                    self._files.sync_directory(self._own.path)
                    return True
                if not self._make_room(len(header) + len(payload), keep=block.parent):
                    return False
                self._put(block, header, payload)
        except OSError as error:
            self._failed(self._writing, error)
            return False
        self._writing.over()
        return True

    def read(self, block: Block) -> State | None:
        """The payload of a block, every byte verified, or None if it cannot be had (any more). Blocks."""
        path = self._own.path_of(block.id)
        try:
            _, payload = read_block(self._files, path, root=self.root, id=block.id)
        except (OSError, DamagedError, OtherVersionError) as error:
            refused = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
            with self._lock:
                self._counters.misses += 1
                self._counters.errors += refused
            self._own.reject(path.name, error, block.size)
            return None
        with self._lock:
            self._counters.hits += 1
            self._counters.read_bytes += len(payload)
            entry = self._own.index.hit(block.id, self._clock())
        if entry is not None:
            with suppress(OSError):  # a read-only directory serves as well
                self._files.set_times(path, accessed=entry.used, modified=entry.rank)
        return payload

    def _size(self) -> int:
        return sum(shelf.size for shelf in self._shelves.values())

    def _shelf(self, name: str) -> Shelf:
        path = self._directory / name
        return Shelf(path, self._files, lock=self._lock, clock=self._clock, trouble=self._reading)

    def _look(self) -> None:
        try:
            self._own.look()
        except OSError as error:
            self._failed(self._writing, error)

    def _look_around(self) -> None:
        """Bring all shelves in step with the directory; the caller is alone in it."""
        for name in shelf_directories(self._files, self._directory):
            if name not in self._shelves:
                shelf = self._shelf(name)
                with self._lock:
                    self._shelves[name] = shelf
        for shelf in self._shelves.values():
            shelf.look(alone=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only one who adds and removes files, of all threads and processes. Raises `OSError`."""
        with self._writer:
            self._files.make_directory(self._own.path)
            handle = self._files.lock(self._directory / LOCK_NAME)
            try:
                yield
            finally:
                self._files.close(handle)

    def _make_room(self, size: int, *, keep: bytes = b"") -> bool:
        """Give up blocks until ``size`` more bytes fit, but not the block ``keep``. Raises `OSError`."""
        if size > self._space_bytes:
            return False
        while True:
            with self._lock:
                if self._size() + size <= self._space_bytes:
                    return True
                victim = self._least(keep)
            if victim is None:
                return False
            shelf, path = victim
            shelf.remove(path)
            with self._lock:
                self._counters.evicted += 1

    def _least(self, keep: bytes) -> tuple[Shelf, Path] | None:
        """The file to give up first: one that is of no use, or the block that is missed least."""
        for shelf in self._shelves.values():
            if (path := shelf.idle) is not None:
                return shelf, path
        kept = self._pins.keys() | {keep}
        offers = [(offer, shelf) for shelf in self._shelves.values() if (offer := shelf.index.least(keep=kept))]
        if not offers:
            return None
        (_, block), shelf = min(offers, key=lambda item: item[0][0])
        return shelf, shelf.path_of(block.id)

    def _put(self, block: Block, header: bytes, payload: Payload) -> None:
        """Make the file of a block. Raises `OSError`, and then nothing half-made stays."""
        shelf = self._own
        temporary = shelf.path / f"{block.id.hex()}-{token_hex(4)}{TEMPORARY}"
        try:
            handle = self._files.create(temporary)
            try:
                self._write_all(handle, header)
                self._write_all(handle, payload)
                self._files.sync(handle)
            finally:
                self._files.close(handle)
            self._files.rename(temporary, shelf.path_of(block.id))
            self._files.sync_directory(shelf.path)
        except OSError:
            with suppress(OSError):
                self._files.remove(temporary)
            raise
        now, size = self._clock(), len(header) + len(payload)
        with self._lock:
            shelf.index.add(replace(block, size=size), rank=now, used=now)
            self._counters.written += 1
            self._counters.written_bytes += size
            superseded = [other for other in shelf.index.superseded_by(block) if other.id not in self._pins]
        for other in superseded:
            with suppress(OSError):  # it is evicted in its turn
                shelf.remove(shelf.path_of(other.id))

    def _write_all(self, handle: int, data: Payload) -> None:
        view = memoryview(data)
        while view:
            view = view[self._files.write(handle, view) :]

    def _failed(self, trouble: Trouble, error: OSError) -> None:
        with self._lock:
            self._counters.errors += 1
        trouble.note(error)


def shelf_directories(files: Files, directory: Path) -> list[str]:
    """The names of the models' subdirectories. Raises `OSError`."""
    return sorted(name for name in files.names(directory) if _is_id(name))


def _is_id(name: str) -> bool:
    return len(name) == 2 * ID_BYTES and not set(name) - set("0123456789abcdef")
