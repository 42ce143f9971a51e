"""A disk that is a table: what was written is there at once, and what is read comes when the test says so."""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from ds4trio.cache import State
from ds4trio.cache.disk import Block, Match, block_id, root_id
from ds4trio.cache.disk.block import TOKEN
from ds4trio.cache.disk.index import Index

__all__ = ["FakeDisk"]


@dataclass(slots=True)
class FakeDisk:
    """Implements `Disk`. While it is ``full`` it takes nothing; while it is ``slow`` reads wait for `deliver`."""

    root: bytes = field(default_factory=lambda: root_id(b"a fake model"))
    full: bool = False
    slow: bool = False
    payloads: dict[bytes, bytes] = field(default_factory=dict)
    written_bytes: int = 0
    pinned: list[bytes] = field(default_factory=list)
    reads: list[tuple[Block, Callable[[State | None], None]]] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    index: Index = field(init=False)

    def __post_init__(self) -> None:
        self.index = Index(self.root)

    def match(self, tokens: list[int]) -> Match:
        return self.index.match(array(TOKEN, tokens))

    def missing(self, parent: bytes, start: int, tokens: list[int], *, whole: bool = False) -> Block | None:
        own = array(TOKEN, tokens)
        id = block_id(parent, own, whole=whole)
        if id in self.payloads:
            return None
        return Block(id=id, parent=parent, start=start, tokens=own, whole=whole, seconds=1.0)

    def read(self, block: Block, then: Callable[[State | None], None]) -> None:
        self.asked.append(block.id)
        self.reads.append((block, then))
        if not self.slow:
            self.deliver()

    def deliver(self) -> None:
        """Let the first read be answered."""
        block, then = self.reads.pop(0)
        payload = self.payloads.get(block.id)
        then(bytearray(payload) if payload is not None else None)

    def has_room(self, size: int) -> bool:
        return not self.full

    def write(self, block: Block, payload: State, words: str) -> bool:
        if self.full:
            return False
        self.payloads[block.id] = bytes(payload)
        self.written_bytes += len(payload)
        self.index.add(replace(block, size=len(payload)), rank=0.0, used=0.0)
        return True

    def lose(self, block: Block) -> None:
        """Let a block be damaged: it is known, and cannot be had."""
        del self.payloads[block.id]

    def pin(self, blocks: Iterable[Block]) -> None:
        self.pinned += [block.id for block in blocks]

    def unpin(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            self.pinned.remove(block.id)
