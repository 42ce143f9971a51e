"""The KV and the table of what is in it, changed together: what a slot should hold, it holds.

Idle prefixes are what makes room. Whoever brings something back asks for cells here first, since llama.cpp would say in
the log, as an error, that it has none.
"""

from typing import Generic, TypeVar

from ds4trio.cache import Placement, Slot, SlotTable
from ds4trio.engine.batching.memory import Memory

__all__ = ["Cells"]

Row = TypeVar("Row")


class Cells(Generic[Row]):
    """A ``memory`` and the ``slots`` of its sequences. On the thread that computes."""

    def __init__(self, memory: Memory[Row], slots: SlotTable) -> None:
        self.memory = memory
        self.slots = slots
        self._kind = memory.kind

    @property
    def free(self) -> int:
        """Cells that hold nothing; negative while the table promises more than there are."""
        return self.memory.cells - self.slots.cells

    def make_room(self, cells: int) -> None:
        """Have so many free, as far as idle slots can give them."""
        while (missing := cells - self.free) > 0 and self.give_up(missing):
            pass

    def give_up(self, cells: int) -> bool:
        """Give some idle cells back, about as many as that; False: there are none."""
        cut = self.slots.give_up(cells)
        if cut is None:
            return False
        if cut.keep:
            self.memory.truncate(cut.slot.id, cut.keep)
        else:
            self.memory.clear(cut.slot.id)
        return True

    def forget(self, slot: Slot) -> None:
        """Empty a slot."""
        self.memory.clear(slot.id)
        self.slots.cut(slot, 0)

    def look_at_windows(self) -> None:
        """Note what slots have left of their windows.

        Cells that left the window of one sequence, idle or not, are free to be overwritten by any other, and placing
        one may do so.
        """
        if self._kind.window:
            for slot in self.slots.slots:
                slot.first_position = self._first_position(slot)

    def _first_position(self, slot: Slot) -> int:
        """The oldest position of a slot's window; the end of it all where nothing of the window is left."""
        if self.memory.end_position(slot.id) == 0:
            return self.slots.length(slot)
        return self.memory.first_position(slot.id)

    def bring_back(self, placement: Placement) -> bool:
        """`bring`, and idle prefixes make room for a whole state that has none; False if that does not help."""
        if placement.from_whole_state:
            self.make_room(0)
        while not self.bring(placement):
            self.memory.clear(placement.slot.id)
            if not placement.from_whole_state or not self.give_up(placement.keep):
                return False
        return True

    def bring(self, placement: Placement) -> bool:
        """Make a slot hold what it should; False if it does not."""
        memory, slot, keep, checkpoint = self.memory, placement.slot, placement.keep, placement.checkpoint
        if checkpoint is not None and checkpoint.whole:
            memory.clear(slot.id)
            return memory.restore(slot.id, checkpoint.data, whole=True) and memory.end_position(slot.id) == keep
        if keep == 0:
            memory.clear(slot.id)
        elif placement.source is not None:
            memory.copy(placement.source.id, slot.id, keep)
        if checkpoint is not None:
            # The layers that cannot go back first: only then may the others be cut.
            if not memory.restore(slot.id, checkpoint.data, whole=False):
                return False
            memory.truncate(slot.id, keep)
        elif keep and not self._kind.whole_only:
            memory.truncate(slot.id, keep)
            if placement.source is not None and self._kind.window:
                # A copy shares all cells of the sliding layers, also those that left the window, and shared ones are
                # never reused: soon no sequence would find any. A saved state has no more than the window.
                memory.restore(slot.id, memory.save(slot.id, whole=False), whole=False)
        return memory.end_position(slot.id) == keep
