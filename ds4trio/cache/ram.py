"""Blocks of conversations that rest: out of the context's cells, and still in this machine's memory.

A cell costs something at every step, whoever it belongs to: llama.cpp's attention goes over all of them. So what nobody
computes on had better be elsewhere, as long as there is room for it. What is named, matched and given up here is what
`ds4trio.cache.disk` names, matches and gives up; only the bytes stay in a dictionary, and go with the process.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from ds4trio.cache.disk.block import TOKEN, Block, block_id, root_id
from ds4trio.cache.disk.index import Index, Match
from ds4trio.cache.state import State

__all__ = ["RamStore"]


class RamStore:
    """At most ``space_bytes`` of blocks; what saves the least time for its size goes first. One thread's own."""

    def __init__(self, *, space_bytes: int, clock: Callable[[], float]) -> None:
        self.root = root_id(b"")
        self._index = Index(self.root)
        self._payloads: dict[bytes, State] = {}
        self._space_bytes = space_bytes
        self._clock = clock
        self._pins: Counter[bytes] = Counter()

    @property
    def size(self) -> int:
        """Bytes of all blocks."""
        return self._index.size

    def match(self, tokens: list[int]) -> Match:
        """The longest beginning of ``tokens`` that is here."""
        return self._index.match(array(TOKEN, tokens))

    def missing(self, parent: bytes, start: int, tokens: list[int]) -> Block | None:
        """The block to put here for these tokens, or None if it is here."""
        own = array(TOKEN, tokens)
        id = block_id(parent, own)
        if id in self._index:
            return None
        return Block(id=id, parent=parent, start=start, tokens=own, whole=False, seconds=0.0)

    def read(self, block: Block) -> State | None:
        """A block's payload, and count its use; None if it is not here."""
        self._index.hit(block.id, self._clock())
        return self._payloads.get(block.id)

    def write(self, block: Block, payload: State, *, seconds: float) -> bool:
        """Keep a block that takes so many ``seconds`` to compute; False where there is no room for it."""
        for other in self._index.superseded_by(block):
            if other.id not in self._pins:
                self._drop(other)
        before = self._index.chain(block)
        keep = {each.id for each in before} | self._pins.keys()
        while self._index.size + len(payload) > self._space_bytes:
            least = self._index.least(keep=keep)
            if least is None:
                return False
            self._drop(least[1])
        now = self._clock()
        self._index.add(replace(block, seconds=seconds, size=len(payload)), rank=now, used=now)
        self._payloads[block.id] = payload
        return True

    def pin(self, blocks: Iterable[Block]) -> None:
        """Keep these until they are unpinned as often."""
        self._pins.update(block.id for block in blocks)

    def unpin(self, blocks: Iterable[Block]) -> None:
        """Undo one `pin` of each."""
        self._pins.subtract(block.id for block in blocks)
        self._pins = +self._pins

    def _drop(self, block: Block) -> None:
        self._index.drop(block.id)
        del self._payloads[block.id]
