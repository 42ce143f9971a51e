"""What a model's memory can do with its sequences: decided once at load, since a wrong call kills the process."""

from dataclasses import dataclass
from typing import Literal

from ds4trio.cache.state import State

__all__ = ["Checkpoint", "MemoryKind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryKind:
    """The abilities that matter for keeping prefixes; the default is full attention, which can do everything.

    ``whole_only``: no suffix can be removed and no range copied (recurrent layers, compressed KV). ``window``: the
    attention window of the sliding layers in tokens, 0 for none; a sequence can only be cut where the window before
    the cut is still there. ``checkpoint``: how an earlier state comes back. ``"part"`` is a small state of the layers
    that cannot go back (the window, the recurrent state) and needs the attention cells of its prefix, its own or
    shared ones; ``"whole"`` needs nothing else; ``None``: no state is needed, since a suffix can always be cut off.
    """

    whole_only: bool = False
    window: int = 0
    checkpoint: Literal["part", "whole"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A saved state of a sequence after its first ``position`` tokens. ``whole`` as in `MemoryKind.checkpoint`."""

    position: int
    data: State
    whole: bool
