"""What rests in the cells costs those that compute: when it leaves them for the memory beside, and when it comes back.

Theory of operation. Attention looks at idle cells too. So an idle slot is copied out of the context, block by block,
while nobody computes or once computing beside it has cost as much as that; its cells can go then, and its
conversation comes back from the `RamStore` when it is asked for. Only where the memory can be cut at any token, since a
window is gone before its conversation rests.
"""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

from ds4trio.cache import RamStore, Slot, State
from ds4trio.engine.batching.blocks import BLOCK, full_blocks
from ds4trio.engine.batching.cells import Cells

__all__ = ["Resting"]

Row = TypeVar("Row")

WORTH_MOVING = 64
"""Cells of a slot's own: fewer are computed again sooner than copied."""
IDLE_SHARE = 0.2
"""Of a step, what attention over idle cells takes where nearly all are (2 cores, SmolLM2: 0.17 to 0.4)."""
LOOK_EVERY = 0.02
"""Seconds of computing between two looks at what it costs that others rest."""
SMOOTHING = 0.3
COPIED_PER_SECOND = 50_000.0
"""Tokens whose KV can be copied, before that was measured."""


class Resting(Generic[Row]):
    """The idle slots, and the ``store`` beside the ``cells``, of ``space_bytes``. On the thread that computes.

    ``seconds`` says what computing some tokens from a position on would take, 0 while that is unknown.
    """

    def __init__(
        self,
        cells: Cells[Row],
        *,
        space_bytes: int,
        seconds: Callable[[int, int], float],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.store = RamStore(space_bytes=space_bytes, clock=time.time)
        kind = cells.memory.kind
        self._can_move = bool(space_bytes) and not kind.whole_only and not kind.window
        self._cells = cells
        self._slots = cells.slots
        self._seconds = seconds
        self._clock = clock
        self._copies: dict[int, tuple[int, bool]] = {}
        """By slot: when it was used last, and whether all of it was copied then, or nothing more has room."""
        self._save_rate = self._restore_rate = COPIED_PER_SECOND
        self._cost = self._beside = 0.0

    def tidy(self) -> bool:
        """While nobody wants anything: copy a block of what rests, so that its cells cost nobody anything later.

        False: there is nothing to do.
        """
        for slot in self._idle:
            if self._copied(slot) is None:
                self._copy_some(slot)
                return True
        return False

    def make_way(self, position: int, tokens: int) -> None:
        """A prompt of so many ``tokens`` from there on is about to be computed.

        What is copied gives up its cells at once, where that pays.
        """
        gain = self._idle_share * self._seconds(position, tokens)
        for slot in self._idle:
            if self._copied(slot) and (price := self._moving_seconds(slot)) <= gain:
                gain -= price
                if self._still_copied(slot):
                    self._cells.forget(slot)

    def charge(self, seconds: float) -> None:
        """Others have computed: free the cells of what rests once that has cost as much as bringing it back does."""
        self._beside += seconds
        if self._beside < LOOK_EVERY:
            return
        seconds, self._beside = self._beside, 0.0
        idle = [slot for slot in self._idle if self._copied(slot) is not False]
        if not idle:
            self._cost = 0.0
            return
        slot = idle[0]
        self._cost += seconds * self._idle_share
        if self._cost < self._moving_seconds(slot):
            return
        if not self._copied(slot):
            self._copy_some(slot)
        elif self._still_copied(slot):
            self._cells.forget(slot)
            self._cost = 0.0

    def restored(self, tokens: int, seconds: float) -> None:
        """Learn how fast a block went back into the cells."""
        self._restore_rate += SMOOTHING * (tokens / max(seconds, 1e-6) - self._restore_rate)

    def copy(self, slot: Slot, start: int, end: int) -> tuple[State, float]:
        """The KV of some positions, and the seconds that copying them took."""
        began = self._clock()
        payload = self._cells.memory.save_range(slot.id, start, end)
        took = self._clock() - began
        self._save_rate += SMOOTHING * ((end - start) / max(took, 1e-6) - self._save_rate)
        return payload, took

    @property
    def _idle(self) -> list[Slot]:
        """Idle slots that can be moved out of the cells, the one that has rested longest first."""
        return self._slots.resting(WORTH_MOVING) if self._can_move else []

    @property
    def _idle_share(self) -> float:
        """The part of a step that attention over idle cells takes."""
        cells = self._slots.cells
        return IDLE_SHARE * (cells - self._slots.busy_cells) / cells if cells else 0.0

    def _copied(self, slot: Slot) -> bool | None:
        """Whether all of a slot is in the store too; None: not all that has room there (see `_copy_some`)."""
        used, copied = self._copies.get(slot.id, (None, False))
        return copied if used == slot.last_used else None

    def _moving_seconds(self, slot: Slot) -> float:
        """About what it takes to bring a slot back, and before that to copy it, unless that is done."""
        tokens = self._slots.length(slot)
        return tokens / self._restore_rate + (0 if self._copied(slot) else tokens / self._save_rate)

    def _copy_some(self, slot: Slot) -> None:
        """Copy one more block of a slot, and see whether that was the last one."""
        tokens = self._slots.tokens(slot)
        match = self.store.match(tokens)
        if match.length == len(tokens):
            self._copies[slot.id] = slot.last_used, True
            return
        chain = full_blocks(match)
        parent, start = chain[-1] if chain else self.store.root, BLOCK * len(chain)
        own = tokens[start : start + BLOCK]
        block = self.store.missing(parent, start, own)
        if block is not None:
            payload, _ = self.copy(slot, start, block.end)
            if self.store.write(block, payload, seconds=self._seconds(start, len(own))):
                return
        self._copies[slot.id] = slot.last_used, False

    def _still_copied(self, slot: Slot) -> bool:
        """Whether all of a `_copied` slot is there still: what was copied later may have taken its room."""
        tokens = self._slots.tokens(slot)
        if self.store.match(tokens).length == len(tokens):
            return True
        self._copies[slot.id] = slot.last_used, False
        return False
