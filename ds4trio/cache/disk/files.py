"""The few operations on files that the store is made of, so that tests can tear, refuse and crash each of them.

Whatever goes wrong is an `OSError`. A handle is a number that `Files.close` gives back. Nothing here knows what is in
a file.
"""

import fcntl
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple, Protocol

from platformdirs import user_cache_path

__all__ = ["Files", "RealFiles", "Status", "default_directory"]

LOCK_PATIENCE = 2.0
"""Seconds to wait for another process that writes; one block takes a small part of it."""
LOCK_POLL = 0.003


class Status(NamedTuple):
    """What a file system says of a file; times are seconds since 1970."""

    size: int
    accessed: float
    modified: float


class Files(Protocol):
    """What the store does to files; every call may raise `OSError`."""

    def make_directory(self, path: Path) -> None:
        """Let there be a directory that nobody else may enter, made to last, with the parents it lacks."""

    def names(self, directory: Path) -> list[str]:
        """What is in a directory."""

    def changed(self, directory: Path) -> int:
        """A number that is another one once a name came or went: the time of it in ns, as exact as the system is."""

    def lock(self, path: Path) -> int:
        """Be the only one who has this lock until it is closed or the process ends; BlockingIOError: it stays taken."""

    def create(self, path: Path) -> int:
        """A new empty file that only we may read."""

    def write(self, handle: int, data: memoryview) -> int:
        """Append some of ``data``: how many bytes, perhaps not all."""

    def sync(self, handle: int) -> None:
        """Return once what was written survives a power failure."""

    def sync_directory(self, path: Path) -> None:
        """Return once the names in a directory survive a power failure."""

    def rename(self, old: Path, new: Path) -> None:
        """Give a file a name, atomically, in place of what had it."""

    def remove(self, path: Path) -> None:
        """Take a name away."""

    def open(self, path: Path) -> int:
        """Open a file to read it."""

    def read(self, handle: int, offset: int, into: memoryview) -> int:
        """Read some bytes from ``offset`` on: how many, perhaps not all that fit; 0 at the end."""

    def status(self, file: Path | int) -> Status:
        """Size and times of a file, by name or by handle."""

    def set_times(self, path: Path, *, accessed: float, modified: float) -> None:
        """Change the times of a file."""

    def close(self, handle: int) -> None:
        """Give a handle or a lock back."""


class RealFiles:
    """The operating system's files. Directories are 0700, files 0600."""

    def make_directory(self, path: Path) -> None:
        """As `Files.make_directory`; PermissionError where it belongs to another user."""
        for missing in reversed([place for place in (path, *path.parents) if not place.exists()]):
            missing.mkdir(exist_ok=True, mode=0o700)
            self.sync_directory(missing.parent)
        status = path.stat()
        if status.st_uid != os.geteuid():
            # Whoever else may write here could feed llama.cpp any bytes: a checksum is no signature.
            raise PermissionError(f"{path} belongs to another user")
        if status.st_mode & 0o077:
            path.chmod(0o700)

    def names(self, directory: Path) -> list[str]:
        """As `Files.names`."""
        return os.listdir(directory)  # noqa: PTH208 - names, not 2,000 Path objects

    def changed(self, directory: Path) -> int:
        """As `Files.changed`."""
        return directory.stat().st_mtime_ns

    def lock(self, path: Path) -> int:
        """As `Files.lock`, after `LOCK_PATIENCE` seconds at most."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        give_up = time.monotonic() + LOCK_PATIENCE
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() >= give_up:
                        raise
                    time.sleep(LOCK_POLL)
                else:
                    return handle
        except BaseException:
            os.close(handle)
            raise

    def create(self, path: Path) -> int:
        """As `Files.create`."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, handle: int, data: memoryview) -> int:
        """As `Files.write`."""
        return os.write(handle, data)

    def sync(self, handle: int) -> None:
        """As `Files.sync`."""
        if sys.platform == "darwin":
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)  # fsync alone stops at the drive's own cache there
        else:
            os.fsync(handle)

    def sync_directory(self, path: Path) -> None:
        """As `Files.sync_directory`."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        """As `Files.rename`."""
        old.replace(new)

    def remove(self, path: Path) -> None:
        """As `Files.remove`."""
        path.unlink()

    def open(self, path: Path) -> int:
        """As `Files.open`. Looking at a file is not using it: its time of access stays."""
        return os.open(path, os.O_RDONLY | getattr(os, "O_NOATIME", 0))

    def read(self, handle: int, offset: int, into: memoryview) -> int:
        """As `Files.read`."""
        os.lseek(handle, offset, os.SEEK_SET)
        return os.readv(handle, [into])

    def status(self, file: Path | int) -> Status:
        """As `Files.status`."""
        status = os.stat(file)  # noqa: PTH116 - a handle too
        return Status(status.st_size, status.st_atime, status.st_mtime)

    def set_times(self, path: Path, *, accessed: float, modified: float) -> None:
        """As `Files.set_times`."""
        os.utime(path, (accessed, modified))

    def close(self, handle: int) -> None:
        """As `Files.close`."""
        os.close(handle)


def default_directory() -> Path:
    """Where blocks are kept unless somebody says otherwise: the platform's place for caches."""
    return user_cache_path("ds4trio") / "kv"
