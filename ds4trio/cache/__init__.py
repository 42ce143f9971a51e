"""What is kept: token prefixes whose KV is still there, states to go back to, and what may be given up.

Pure bookkeeping over token ids. It does not know llama.cpp, threads or HTTP; the engine asks it where a new prompt
should go and tells it what became of every sequence. `prefix_tree` knows which tokens sequences share, `slots` decides
where a prompt goes and what is lost first, `ram` has what rests outside of the context, `disk` what outlives the
process, and `memory_kind` says what a model's memory can do.
"""

from ds4trio.cache.memory_kind import Checkpoint, MemoryKind
from ds4trio.cache.prefix_tree import PrefixTree, common_prefix
from ds4trio.cache.ram import RamStore
from ds4trio.cache.slots import Cut, KvSlot, KvUse, Match, Nearest, Placement, Slot, SlotTable
from ds4trio.cache.state import State, room_for_state

__all__ = [
    "Checkpoint",
    "Cut",
    "KvSlot",
    "KvUse",
    "Match",
    "MemoryKind",
    "Nearest",
    "Placement",
    "PrefixTree",
    "RamStore",
    "Slot",
    "SlotTable",
    "State",
    "common_prefix",
    "room_for_state",
]
