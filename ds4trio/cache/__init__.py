"""What is kept: token prefixes whose KV is still there, and what may be given up.

Pure bookkeeping over token ids. It does not know llama.cpp, threads or HTTP; the engine asks it where a new prompt
should go and tells it what became of every sequence.
"""

from ds4trio.cache.slots import Placement, Slot, SlotTable, common_prefix

__all__ = ["Placement", "Slot", "SlotTable", "common_prefix"]
