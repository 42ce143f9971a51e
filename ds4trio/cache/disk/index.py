"""Which blocks of one model there are, which of them continue a prompt, and which is missed least. Pure.

Blocks form a tree, each behind its parent. Nothing is looked up by hash to match a prompt: the way down compares the
tokens themselves, so a prompt is not hashed, and a block may be used in part.

A parent may be missing, since another server gave its file up or it was damaged. What hangs behind it is of no use
until it is written again: it is never matched and is the first to go.

How much a block is in demand is one number, its rank. A use adds 1 to a count that halves every `HALF_LIFE` seconds;
the rank is the moment at which the count was, or will be, exactly 1. So it needs no upkeep while time passes, it fits
into a file's modification time, where it survives restarts and other servers see it, and two ranks compare at any
time as the counts would.
"""

from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import inf, log2

from ds4trio.cache.disk.block import Block
from ds4trio.cache.prefix_tree import common_prefix

__all__ = ["HALF_LIFE", "Entry", "Index", "Match", "believed", "hits", "rank_after_hit"]

HALF_LIFE = 86_400.0
MOST_HALF_LIVES = 20
"""A million uses at once: a rank further in the future comes from a clock that was wrong."""


@dataclass(frozen=True, slots=True)
class Match:
    """What there is of a prompt: ``length`` tokens of it, in blocks that go on from each other (or one that is whole).

    The last block may reach further than the match.
    """

    blocks: tuple[Block, ...] = ()
    length: int = 0


@dataclass(slots=True, eq=False)
class Entry:
    """A block that is there, and how it is used; times are seconds since 1970."""

    block: Block
    rank: float
    used: float

    @property
    def worth(self) -> float:
        """Seconds saved per byte, by how often it is asked for; as a logarithm, and comparable at any one time."""
        seconds = max(self.block.seconds, 1e-9)
        return self.rank / HALF_LIFE + log2(seconds / self.block.size)


def believed(rank: float, now: float) -> float:
    """A rank, or that of one use just now where it cannot be true: such a file must not outlive all others."""
    return rank if rank <= now + MOST_HALF_LIVES * HALF_LIFE else now


def hits(rank: float, now: float) -> float:
    """The decayed count of uses that a rank stands for."""
    return float(2 ** ((believed(rank, now) - now) / HALF_LIFE))


def rank_after_hit(rank: float, now: float) -> float:
    """The rank after one more use."""
    return now + HALF_LIFE * log2(1 + hits(rank, now))


class Index:
    """The blocks of one model, whose first ones have ``root`` as their parent. `add` and `drop` alone change it."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.size = 0
        """Bytes of all files."""
        self._entries: dict[bytes, Entry] = {}
        self._children: dict[bytes, dict[bytes, Block]] = {}
        self._leaves: dict[bytes, Entry] = {}
        self._lost: set[bytes] = set()
        """Parents that are not there but have blocks behind them."""

    def __contains__(self, id: object) -> bool:
        return id in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._entries)

    def get(self, id: bytes) -> Entry | None:
        """The entry of a block, if it is there."""
        return self._entries.get(id)

    @property
    def leaves(self) -> Collection[Entry]:
        """The blocks that no other one is behind."""
        return self._leaves.values()

    def add(self, block: Block, *, rank: float, used: float) -> None:
        """Note that a block is there; one that was known is replaced."""
        self.drop(block.id)
        entry = self._entries[block.id] = Entry(block, rank, used)
        self.size += block.size
        self._children.setdefault(block.parent, {})[block.id] = block
        self._leaves.pop(block.parent, None)
        if block.parent not in self._entries and block.parent != self.root:
            self._lost.add(block.parent)
        if block.id in self._children:
            self._lost.discard(block.id)
        else:
            self._leaves[block.id] = entry

    def drop(self, id: bytes) -> None:
        """Note that a block is not there, if it ever was."""
        entry = self._entries.pop(id, None)
        if entry is None:
            return
        block = entry.block
        self.size -= block.size
        self._leaves.pop(id, None)
        if id in self._children:
            self._lost.add(id)
        siblings = self._children[block.parent]
        del siblings[id]
        if siblings:
            return
        del self._children[block.parent]
        self._lost.discard(block.parent)
        parent = self._entries.get(block.parent)
        if parent is not None:
            # Whoever used a block used those before it too, in memory or from here.
            parent.rank = max(parent.rank, entry.rank)
            parent.used = max(parent.used, entry.used)
            self._leaves[block.parent] = parent

    def hit(self, id: bytes, now: float) -> Entry | None:
        """Count a use of a block."""
        entry = self._entries.get(id)
        if entry is not None:
            entry.rank, entry.used = rank_after_hit(entry.rank, now), now
        return entry

    def chain(self, block: Block) -> tuple[Block, ...]:
        """The blocks from the first to this one; the first is not at 0 where a parent is missing."""
        blocks = [block]
        while (entry := self._entries.get(blocks[-1].parent)) is not None:
            blocks.append(entry.block)
        return tuple(reversed(blocks))

    def match(self, tokens: "array[int]") -> Match:
        """The longest beginning of ``tokens`` that blocks have."""
        best: Block | None = None
        length = 0
        waiting = [(self.root, 0)]  # blocks that match to their ends, and how many tokens that makes
        while waiting:
            parent, position = waiting.pop()
            if position == len(tokens):
                continue
            for block in self._children.get(parent, {}).values():
                if block.whole:
                    if length < block.end <= len(tokens) and _begins(tokens, block):
                        best, length = block, block.end
                    continue
                if block.start != position or block.tokens[0] != tokens[position]:
                    continue
                end = position + common_prefix(block.tokens, tokens, b_from=position)
                if end > length:
                    best, length = block, end
                if end == block.end:
                    waiting.append((block.id, end))
        return Match(self.chain(best), length) if best is not None else Match()

    def superseded_by(self, block: Block) -> list[Block]:
        """The leaves that hold but a beginning of what a block has: where a conversation once ended."""
        if block.whole:
            return []
        return [
            other
            for other in self._children.get(block.parent, {}).values()
            if other.id in self._leaves
            and not other.whole
            and other.end < block.end
            and block.tokens[: len(other.tokens)] == other.tokens
        ]

    def least(self, *, keep: Collection[bytes]) -> tuple[float, Block] | None:
        """The block to give up first and its worth: no other is behind it, and its id is not in ``keep``."""
        for id in self._lost:
            leaf = self._leaf_behind(id)
            if leaf.id not in keep:
                return -inf, leaf
        candidates = (entry for id, entry in self._leaves.items() if id not in keep)
        entry = min(candidates, key=lambda entry: entry.worth, default=None)
        return (entry.worth, entry.block) if entry is not None else None

    def _leaf_behind(self, id: bytes) -> Block:
        while True:
            block = next(iter(self._children[id].values()))
            id = block.id
            if id not in self._children:
                return block


def _begins(tokens: "array[int]", block: Block) -> bool:
    # States of other conversations mostly differ in their last token: they cost one comparison.
    return tokens[block.end - 1] == block.tokens[-1] and common_prefix(block.tokens, tokens) == block.end
