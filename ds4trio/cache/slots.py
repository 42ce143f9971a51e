"""The sequences of one context: which run, which are idle, which tokens each holds.

A finished or cancelled request leaves its KV in its slot. A new prompt takes the longest common prefix that any slot
offers. It never destroys another conversation while there is something cheaper to give up: a prefix is copied (with a
unified KV the cells are shared, so a copy costs no memory) unless taking the slot itself loses least.
"""

from dataclasses import dataclass, field

__all__ = ["Placement", "Slot", "SlotTable", "common_prefix"]

BLOCK = 512


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many leading tokens are equal. Compares in C, block by block, so 100,000 tokens take about 2 ms."""
    shorter = min(len(a), len(b))
    for start in range(0, shorter, BLOCK):
        left, right = a[start : start + BLOCK], b[start : start + BLOCK]
        if left != right:
            return start + next(
                (index for index, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]),
                min(len(left), len(right)),
            )
    return shorter


@dataclass(slots=True, eq=False)
class Slot:
    """One sequence of the context. ``tokens`` are those whose KV is in it, first to last."""

    id: int
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    last_used: int = 0
    """Value of the table's use counter when the slot was last given back: higher is younger."""
    first_position: int = 0
    """The oldest position that is still there; above 0 once a sliding window has moved on. Kept by the engine."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a prompt goes: into ``slot``, keeping ``keep`` tokens, copied from ``source`` if that is another slot."""

    slot: Slot
    source: Slot | None
    keep: int


class SlotTable:
    """All slots of a context.

    ``whole_only``: the memory can neither drop a suffix of a sequence nor copy a part of it, so a slot's tokens are
    reused whole and in place, or not at all. ``window`` is the size of the attention window in tokens, 0 for none: a
    sequence can only be cut where the window before the cut is still there.
    """

    def __init__(self, count: int, *, whole_only: bool = False, window: int = 0) -> None:
        self.slots = [Slot(index) for index in range(count)]
        self._whole_only = whole_only
        self._window = window
        self._uses = 0

    def place(self, prompt: list[int]) -> Placement | None:
        """Choose and take a slot for ``prompt``, or None where all are busy.

        At least the last token of the prompt is always left to compute, since its logits are needed. The slot's
        tokens are set to what it keeps.
        """
        free = [slot for slot in self.slots if not slot.busy]
        if not free:
            return None
        sources = free if self._whole_only else self.slots
        source = max(sources, key=lambda slot: (self._reusable(slot, prompt), not slot.busy, slot.last_used))
        keep = self._reusable(source, prompt)
        if self._whole_only and keep:
            target = source
        else:
            target = min(
                free, key=lambda slot: (self._loss(slot, prompt), not keep or slot is not source, slot.last_used)
            )
        target.busy = True
        target.tokens = prompt[:keep]
        return Placement(slot=target, source=source if keep and source is not target else None, keep=keep)

    def release(self, slot: Slot, tokens: list[int]) -> None:
        """Give a slot back with the tokens whose KV stays in it."""
        self._uses += 1
        slot.tokens = tokens
        slot.busy = False
        slot.last_used = self._uses

    def give_up(self) -> Slot | None:
        """The idle slot that rested longest, emptied; None where no idle slot holds any tokens."""
        idle = [slot for slot in self.slots if not slot.busy and slot.tokens]
        if not idle:
            return None
        victim = min(idle, key=lambda slot: slot.last_used)
        victim.tokens = []
        return victim

    def _reusable(self, slot: Slot, prompt: list[int]) -> int:
        keep = min(common_prefix(slot.tokens, prompt), len(prompt) - 1)
        if keep == len(slot.tokens) and not slot.busy:
            return keep
        if self._whole_only:
            return 0
        return keep if slot.first_position <= max(0, keep - self._window) else 0

    def _loss(self, slot: Slot, prompt: list[int]) -> int:
        """Tokens that would be nowhere any more, neither in another slot nor in the prompt's own, without ``slot``."""
        others = (common_prefix(slot.tokens, other.tokens) for other in self.slots if other is not slot)
        return len(slot.tokens) - max(common_prefix(slot.tokens, prompt), *others, 0)
