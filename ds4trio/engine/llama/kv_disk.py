"""The disk of an open model: which KV on it fits this model, and the thread that reads and writes it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

from ds4trio.cache import State
from ds4trio.cache.disk import Block, BlockStore, DiskThread, Match
from ds4trio.engine.llama.context import ContextOptions
from ds4trio.engine.split import model_parts

__all__ = ["DiskOptions", "ModelDisk", "fingerprint"]

# A model's file may be hundreds of gigabytes. Its head has all that is said of it, and two models of one kind and size
# differ everywhere else.
HEAD_BYTES = 16 * 2**20
SAMPLES = 64
SAMPLE_BYTES = 64 * 2**10
TWO_ROPES = b"rope.scaling.original_context_length"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOptions:
    """Where KV is kept, how much of it, and how fast it may be written; no prompt of fewer than ``least_tokens``.

    When the engine is closed, what is still to be written has ``closing_seconds``; most of it was written before.
    """

    directory: Path
    space_bytes: int
    bytes_per_second: float
    least_tokens: int
    closing_seconds: float = 1.0


def fingerprint(path: Path, options: ContextOptions, *, n_gpu_layers: int) -> bytes:
    """A hash of all that makes the KV of a model unfit for another.

    That is its file, or files, the adapters and their scales, the cache's types, llama.cpp's version, and what may
    decide how the cache is laid out.
    Models with two sets of rope factors choose one by the context's length. Reads about 20 MB of each file. Blocks;
    raises `OSError`.
    """
    digest = blake2b(digest_size=16)
    layout = (version("llama-cpp-python"), options.kv_type_k, options.kv_type_v, options.flash_attention, n_gpu_layers)
    digest.update(repr(layout).encode())
    for adapter in options.adapters:
        digest.update(repr(adapter.scale).encode())
    for part in [*model_parts(path), *(adapter.path for adapter in options.adapters)]:
        with part.open("rb") as file:
            size = part.stat().st_size
            head = file.read(HEAD_BYTES)
            digest.update(size.to_bytes(8, "little") + head)
            if TWO_ROPES in head:
                digest.update(options.context_length.to_bytes(8, "little"))
            for sample in range(SAMPLES):
                file.seek(max(0, (sample + 1) * size // SAMPLES - SAMPLE_BYTES))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.digest()


class ModelDisk:
    """Implements `Disk`: questions are answered here, reads and writes by the thread that calls `run`."""

    def __init__(self, options: DiskOptions, *, model: str, fingerprint: bytes) -> None:
        self._store = BlockStore(
            options.directory, fingerprint=fingerprint, space_bytes=options.space_bytes, model=model
        )
        self._thread = DiskThread(self._store, bytes_per_second=options.bytes_per_second)
        self._closing_seconds = options.closing_seconds
        self.root = self._store.root

    @property
    def size(self) -> int:
        """Bytes on disk, those of other models too."""
        return self._store.size

    def open(self) -> None:
        """Learn what is there. Blocks."""
        self._store.open()

    def run(self) -> None:
        """Read and write until `close`. Blocks; call it once, in a thread of its own."""
        self._thread.run()

    def close(self) -> None:
        """Let `run` end soon: what is queued is still written, as far as there is time. Does not block."""
        self._thread.close(deadline=self._closing_seconds)

    def set_idle(self, idle: bool) -> None:
        """Say whether nothing is being computed, which is when writing disturbs least."""
        self._thread.set_idle(idle)

    def match(self, tokens: list[int]) -> Match:
        """See `Disk.match`."""
        return self._store.match(tokens)

    def missing(self, parent: bytes, start: int, tokens: list[int], *, whole: bool = False) -> Block | None:
        """See `Disk.missing`."""
        return self._store.missing(parent, start, tokens, whole=whole)

    def read(self, block: Block, then: Callable[[State | None], None]) -> None:
        """See `Disk.read`."""
        self._thread.read(block, then)

    def has_room(self, size: int) -> bool:
        """See `Disk.has_room`."""
        return self._thread.has_room(size)

    def write(self, block: Block, payload: State, words: str) -> bool:
        """See `Disk.write`."""
        return self._thread.write(block, payload, words)

    def pin(self, blocks: Iterable[Block]) -> None:
        """See `Disk.pin`."""
        self._store.pin(blocks)

    def unpin(self, blocks: Iterable[Block]) -> None:
        """See `Disk.unpin`."""
        self._store.unpin(blocks)
