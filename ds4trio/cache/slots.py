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
    """The oldest position that attention can still see; above 0 once a sliding window has moved on."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a prompt goes: into ``slot``, keeping ``keep`` tokens, copied from ``source`` if that is another slot."""

    slot: Slot
    source: Slot | None
    keep: int


class SlotTable:
    """All slots of a context.

    ``can_truncate``: the memory can drop a suffix of a sequence (full attention, sliding window). ``can_copy``: it
    can copy a part of a sequence. Without them a slot's tokens are reused only whole. ``window`` is the size of the
    attention window in tokens, 0 for none: a sequence can only be cut where the window before the cut is still there.
    """

    def __init__(self, count: int, *, can_truncate: bool = True, can_copy: bool = True, window: int = 0) -> None:
        self.slots = [Slot(index) for index in range(count)]
        self._can_truncate = can_truncate
        self._can_copy = can_copy
        self._window = window
        self._uses = 0

    def place(self, prompt: list[int]) -> Placement | None:
        """Choose and take a slot for ``prompt``, or None where all are busy.

        At least the last token of the prompt is always left to compute, since its logits are needed.
        """
        free = [slot for slot in self.slots if not slot.busy]
        if not free:
            return None
        sources = self.slots if self._can_copy else free
        source = max(sources, key=lambda slot: (self._reusable(slot, prompt), not slot.busy, slot.last_used))
        keep = self._reusable(source, prompt)
        target = min(free, key=lambda slot: (self._loss(slot, prompt, source, keep), slot.last_used))
        target.busy = True
        return Placement(slot=target, source=source if keep and source is not target else None, keep=keep)

    def release(self, slot: Slot, tokens: list[int], *, first_position: int = 0) -> None:
        """Give a slot back with the tokens whose KV stays in it."""
        self._uses += 1
        slot.tokens = tokens
        slot.busy = False
        slot.last_used = self._uses
        slot.first_position = first_position

    def give_up(self) -> Slot | None:
        """The idle slot whose tokens are cheapest to lose, emptied; None where no idle slot holds any."""
        idle = [slot for slot in self.slots if not slot.busy and slot.tokens]
        if not idle:
            return None
        victim = min(idle, key=lambda slot: (slot.last_used, len(slot.tokens)))
        victim.tokens = []
        return victim

    def _reusable(self, slot: Slot, prompt: list[int]) -> int:
        keep = min(common_prefix(slot.tokens, prompt), len(prompt) - 1)
        if keep == len(slot.tokens):
            return keep if not slot.busy or self._can_truncate else 0
        if not self._can_truncate:
            return 0
        return keep if slot.first_position <= max(0, keep - self._window) else 0

    def _loss(self, slot: Slot, prompt: list[int], source: Slot, keep: int) -> int:
        """Tokens that would have to be computed again, some day, if ``slot`` were taken."""
        if slot is source:
            return len(slot.tokens) - keep
        if not self._can_copy:
            return len(slot.tokens) + keep
        return len(slot.tokens)
