"""A file system in memory that refuses, tears and forgets: what a disk may do to the store, at any operation.

It keeps two versions of everything, as a machine with a page cache does: what processes see, and what a power failure
leaves. Between them lie contents that were not synced and names whose directory was not synced, and each of those may
be lost, kept, or (contents) torn, independently of the others.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ds4trio.cache.disk.files import Status

__all__ = ["Crash", "Fault", "FaultyFiles", "Node"]

Choose = Callable[[int], int]
"""A number from 0 to below the one given."""


class Crash(BaseException):
    """The process is no more. Not an `Exception`: no code of the store may handle it."""


@dataclass(frozen=True)
class Fault:
    """What happens to one operation: an error, or with ``errno`` None the end of the process; ``late``: once done."""

    errno: int | None
    late: bool = False


@dataclass(eq=False)
class Node:
    """A file, whatever its name."""

    modified: float
    accessed: float
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass(eq=False)
class Directory:
    changed: int
    seen: dict[str, Node] = field(default_factory=dict)
    synced: dict[str, Node] = field(default_factory=dict)
    pending: list[tuple[str, str, Node]] = field(default_factory=list)
    """Changes that are not synced: the name that goes (or ""), the name that comes (or ""), the file."""

    def change(self, gone: str, come: str, node: Node) -> None:
        self._apply(self.seen, gone, come, node)
        self.pending.append((gone, come, node))

    def sync(self) -> None:
        self.synced = dict(self.seen)
        self.pending.clear()

    def lose(self, choose: Choose) -> None:
        for gone, come, node in self.pending:
            if choose(2):
                self._apply(self.synced, gone, come, node)
        self.seen = dict(self.synced)
        self.pending.clear()

    @staticmethod
    def _apply(names: dict[str, Node], gone: str, come: str, node: Node) -> None:
        names.pop(gone, None)
        if come:
            names[come] = node


class FaultyFiles:
    """Implements `ds4trio.cache.disk.files.Files`. ``clock`` dates what is made; ``most`` bytes go in one operation."""

    def __init__(self, clock: Callable[[], float], *, most: int = 1 << 30) -> None:
        self.clock = clock
        self.most = most
        self.operations = 0
        self.faults: dict[int, Fault] = {}
        """By the number that `operations` will have."""
        self.dead = False
        self.directories: dict[Path, Directory] = {}
        self._handles: dict[int, Node | Path] = {}
        self._next_handle = 3

    # What a test does to it.

    def fail(self, fault: Fault, *, after: int = 0) -> None:
        """Let this happen to the operation after the next ``after`` ones."""
        self.faults[self.operations + after + 1] = fault

    def kill(self) -> None:
        """The processes are killed; the system lives on."""
        self.dead = False
        self.faults.clear()
        self._handles.clear()

    def lose_power(self, choose: Choose) -> None:
        """The machine stops and starts again."""
        self.kill()
        for directory in self.directories.values():
            directory.lose(choose)
            for node in directory.seen.values():
                if bytes(node.data) != node.synced:
                    node.data = _torn(node, choose)
                    node.synced = bytes(node.data)

    @property
    def all_files(self) -> dict[Path, Node]:
        """Every file that a process sees."""
        return {
            path / name: node for path, directory in self.directories.items() for name, node in directory.seen.items()
        }

    @property
    def open_handles(self) -> int:
        """How many files and locks somebody has open."""
        return len(self._handles)

    def is_durable(self, path: Path) -> bool:
        """Whether a file outlives any power failure as it is."""
        directory = self.directories[path.parent]
        node = directory.seen[path.name]
        return directory.synced.get(path.name) is node and node.synced == bytes(node.data)

    # What the store does with it.

    def make_directory(self, path: Path) -> None:
        with self._operation():
            self.directories.setdefault(path.parent, Directory(self._now_ns()))
            self.directories.setdefault(path, Directory(self._now_ns()))

    def names(self, directory: Path) -> list[str]:
        with self._operation():
            inner = [path.name for path in self.directories if path.parent == directory]
            return inner + list(self._directory(directory).seen)

    def changed(self, directory: Path) -> int:
        with self._operation():
            return self._directory(directory).changed

    def lock(self, path: Path) -> int:
        with self._operation():
            if path in self._handles.values():
                raise BlockingIOError(errno.EAGAIN, "locked", str(path))
            return self._handle(path)

    def create(self, path: Path) -> int:
        with self._operation():
            if path.name in self._directory(path.parent).seen:
                raise FileExistsError(errno.EEXIST, "there", str(path))
            node = Node(self.clock(), self.clock())
            self._change(path.parent, "", path.name, node)
            return self._handle(node)

    def write(self, handle: int, data: memoryview) -> int:
        with self._operation(torn=lambda: self._node(handle).data.extend(data[: len(data) // 2])):
            step = min(self.most, len(data))
            self._node(handle).data += data[:step]
            return step

    def sync(self, handle: int) -> None:
        with self._operation():
            node = self._node(handle)
            node.synced = bytes(node.data)

    def sync_directory(self, path: Path) -> None:
        with self._operation():
            self._directory(path).sync()

    def rename(self, old: Path, new: Path) -> None:
        with self._operation():
            self._change(old.parent, old.name, new.name, self._named(old))

    def remove(self, path: Path) -> None:
        with self._operation():
            self._change(path.parent, path.name, "", self._named(path))

    def open(self, path: Path) -> int:
        with self._operation():
            return self._handle(self._named(path))

    def read(self, handle: int, offset: int, into: memoryview) -> int:
        with self._operation():
            data = self._node(handle).data[offset : offset + min(self.most, len(into))]
            into[: len(data)] = data
            return len(data)

    def status(self, file: Path | int) -> Status:
        with self._operation():
            node = self._node(file) if isinstance(file, int) else self._named(file)
            return Status(len(node.data), node.accessed, node.modified)

    def set_times(self, path: Path, *, accessed: float, modified: float) -> None:
        with self._operation():
            node = self._named(path)
            node.accessed, node.modified = accessed, modified

    def close(self, handle: int) -> None:
        with self._operation(torn=lambda: self._handles.pop(handle)):
            self._handles.pop(handle, None)

    @contextmanager
    def _operation(self, torn: Callable[[], object] = lambda: None) -> Iterator[None]:
        """``torn``: the part of it that happens even if it fails."""
        if self.dead:
            raise Crash
        self.operations += 1
        fault = self.faults.pop(self.operations, None)
        if fault is not None and not fault.late:
            torn()
            self._strike(fault)
        last_handle = self._next_handle
        yield
        if fault is not None:
            self._handles.pop(self._next_handle if self._next_handle > last_handle else 0, None)  # nobody got it
            self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        if fault.errno is None:
            self.dead = True
            raise Crash
        raise OSError(fault.errno, os.strerror(fault.errno))

    def _now_ns(self) -> int:
        return int(self.clock() * 1e9)

    def _directory(self, path: Path) -> Directory:
        if path not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "no directory", str(path))
        return self.directories[path]

    def _change(self, path: Path, gone: str, come: str, node: Node) -> None:
        directory = self._directory(path)
        directory.change(gone, come, node)
        directory.changed = self._now_ns()

    def _named(self, path: Path) -> Node:
        node = self._directory(path.parent).seen.get(path.name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no file", str(path))
        return node

    def _handle(self, thing: Node | Path) -> int:
        self._next_handle += 1
        self._handles[self._next_handle] = thing
        return self._next_handle

    def _node(self, handle: int) -> Node:
        node = self._handles[handle]
        assert isinstance(node, Node)
        return node


def _torn(node: Node, choose: Choose) -> bytearray:
    """What may be left of a file that was not synced: all, nothing, a part, or the length with holes in it."""
    whole = bytes(node.data)
    at = choose(len(whole) + 1)
    left = [whole, node.synced, whole[:at], whole[:at] + bytes(len(whole) - at), bytes(at) + whole[at:]]
    return bytearray(left[choose(len(left))])
