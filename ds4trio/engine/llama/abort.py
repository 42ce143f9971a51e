"""Stopping a batch from inside, without Python in the path.

llama.cpp asks its abort callback at every graph node. A Python callback would take the GIL some 500 times a decode
step (10 → 95 ms beside a busy thread), so the callback is C's own ``strlen`` over a two-byte buffer: 0 means go on,
1 means stop. Only the CPU backend polls it (llama.h says so, and Metal's own hook is not reachable from there in
llama-cpp-python 0.3.36): what a GPU has begun runs to the end of its batch.
"""

import ctypes
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import llama_cpp

from ds4trio.engine.batching import Cancellable

__all__ = ["AbortFlag"]


class AbortFlag:
    """Knows whose work is in the running batch, so that an abort never hits somebody else's.

    `cancel` and `make_way` are called by any thread, `batch` by the worker. Both take one lock for a few instructions.
    """

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(b"\0", 2)
        self._strlen = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)
        self._lock = threading.Lock()
        self._owners: Collection[Cancellable] = ()
        self._gives_way_until = 0.0
        self._somebody_came = False
        self._closed = False

    def install(self, context: llama_cpp.llama_context_p) -> None:
        """Make ``context`` ask this flag. The flag must outlive the context."""
        llama_cpp.llama_set_abort_callback(context, self._strlen, ctypes.cast(self._buffer, ctypes.c_void_p))

    def cancel(self, owner: Cancellable) -> None:
        """Mark ``owner`` as cancelled and stop the running batch if it is one of the owner's."""
        with self._lock:
            owner.cancelled = True
            if owner in self._owners:
                self._buffer[0] = b"\1"

    def make_way(self) -> None:
        """Stop the running batch for somebody who is new, if it gives way still: it is computed again with theirs.

        One that is about to begin does not, until the worker has looked who came (`look`).
        """
        with self._lock:
            self._somebody_came = True
            if time.perf_counter() < self._gives_way_until:
                self._buffer[0] = b"\1"

    def look(self) -> None:
        """Say that the worker looks into its mailbox now."""
        with self._lock:
            self._somebody_came = False

    def close(self) -> None:
        """Stop the running batch, whoever owns it, and every later one."""
        with self._lock:
            self._closed = True
            self._buffer[0] = b"\1"

    @contextmanager
    def batch(self, owners: Collection[Cancellable], *, may_abort: bool, gives_way: float = 0.0) -> Iterator[bool]:
        """Publish the owners of a batch while it runs; gives False if one of them was cancelled before.

        With ``may_abort`` false a cancel waits for the end of the batch. Within its first ``gives_way`` seconds it
        stops for newcomers too, and gives False if one has come already.
        """
        with self._lock:
            self._buffer[0] = b"\1" if self._closed else b"\0"
            valid = not self._closed and not any(owner.cancelled for owner in owners)
            valid = valid and not (gives_way and self._somebody_came)
            self._owners = owners if may_abort else ()
            self._gives_way_until = time.perf_counter() + gives_way if gives_way else 0.0
        try:
            yield valid
        finally:
            with self._lock:
                self._owners, self._gives_way_until = (), 0.0
