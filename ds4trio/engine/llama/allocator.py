"""Memory that is given up goes back to the system.

Bodies, prompts and what llama.cpp computes in come and go by the megabyte. glibc asks the system for a block of its own
only from a size on that it raises with each of them that is freed, up to 32 MiB; smaller ones leave holes in its heaps,
of which it makes one for each of many threads, and gives back only what is free at a heap's end. So a server that holds
360 MB grew to 400 MB within minutes, and went on growing (python -m benchmarks.soak). States of sequences have a place
of their own (`cache.state`).
"""

import ctypes

__all__ = ["give_holes_back", "leave_no_holes"]

LARGE = 4 * 2**20
"""Bytes. Larger than the logits of most vocabularies, which come and go with each token."""
HEAPS = 2
# What malloc.h calls M_MMAP_THRESHOLD and M_ARENA_MAX.
MMAP_THRESHOLD, ARENA_MAX = -3, -8


def leave_no_holes() -> None:
    """Have large blocks come from the system and go back to it, in all of this process.

    Does nothing where there is no glibc. Not a checkpoint.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGE)
        mallopt(ARENA_MAX, HEAPS)


def give_holes_back() -> None:
    """Give the system all pages of the heaps that are free now.

    Does nothing where there is no glibc. Blocks: 3 ms for a heap of 90 MB with holes all over, 14 ms where these have
    55 MB to give; whoever wants memory meanwhile may wait as long.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
