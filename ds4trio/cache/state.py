"""States of sequences, and where they lie."""

import mmap

__all__ = ["State", "room_for_state"]

State = bytearray | memoryview
"""What llama.cpp says of a sequence: bytes, writable and contiguous."""


def room_for_state(size: int) -> memoryview:
    """Room for a state of so many bytes, all of them zero.

    It is the system's own and goes back to it with the last view. States are of all sizes and ages, and would leave
    holes in a heap: a server grew by 3 MiB in a thousand requests (python -m benchmarks.soak). And the system makes
    zeros when they are looked at; a bytearray does at once, and holds the GIL meanwhile (512 MB: 0.9 s).
    """
    # An empty mapping there is none.
    return memoryview(mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))[:size]
