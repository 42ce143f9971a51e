"""Conversations, their blocks and payloads, for the tests of this room."""

from array import array
from collections.abc import Sequence
from hashlib import shake_128
from pathlib import Path

from ds4trio.cache.disk import Block, BlockStore, block_id
from ds4trio.cache.disk.block import TOKEN

__all__ = ["Clock", "blocks_of", "path_of", "payload_of", "read_all", "write_chain"]

BLOCK_TOKENS = 4


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def payload_of(id: bytes, most: int = 200) -> bytes:
    """The one right payload of a block, so that a wrong one shows."""
    return shake_128(id).digest(id[0] * most // 255)


def blocks_of(root: bytes, tokens: Sequence[int], size: int = BLOCK_TOKENS) -> list[Block]:
    """All blocks of a conversation; the last one may be shorter."""
    blocks: list[Block] = []
    parent = root
    for start in range(0, len(tokens), size):
        own = array(TOKEN, tokens[start : start + size])
        id = block_id(parent, own)
        blocks.append(Block(id=id, parent=parent, start=start, tokens=own, whole=False, seconds=len(own) / 100))
        parent = id
    return blocks


def write_chain(store: BlockStore, tokens: Sequence[int], size: int = BLOCK_TOKENS) -> list[Block]:
    """Write what is missing of a conversation; all its blocks."""
    blocks = blocks_of(store.root, tokens, size)
    for block in blocks:
        missing = store.missing(block.parent, block.start, block.tokens)
        if missing is not None:
            assert store.write(missing, payload_of(block.id), words="once upon a time")
    return blocks


def read_all(store: BlockStore, tokens: Sequence[int]) -> int:
    """How many tokens of a prompt can be had; checks that what is had is right."""
    match = store.match(tokens)
    at = 0
    for block in match.blocks:
        assert block.whole or block.start == at
        payload = store.read(block)
        if payload is None:
            return at
        assert bytes(payload) == payload_of(block.id)
        end = min(block.end, match.length)
        assert list(block.tokens[: end - block.start]) == list(tokens[block.start : end])
        at = end
    assert at == match.length
    return at


def path_of(directory: Path, store: BlockStore, block: Block) -> Path:
    return directory / store.root.hex() / f"{block.id.hex()}.kv"
