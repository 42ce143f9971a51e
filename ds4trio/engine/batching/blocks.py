"""The blocks in which KV leaves the cells, for the memory beside them and for the disk."""

from ds4trio.cache.disk import Match

__all__ = ["BLOCK", "full_blocks"]

BLOCK = 256
"""Tokens."""


def full_blocks(match: Match) -> list[bytes]:
    """The ids of the blocks that are full and of use as a whole."""
    return [block.id for block in match.blocks if block.end <= match.length and len(block.tokens) == BLOCK]
