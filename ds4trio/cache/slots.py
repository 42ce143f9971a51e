"""The sequences of one context: which run, which are idle, which tokens each holds, what it costs to lose them.

A finished or cancelled request leaves its KV in its slot, and there are more slots than requests that run at once, so
conversations stay. A new prompt takes the longest prefix that any slot offers, idle or running. It never destroys
another conversation while there is something cheaper to give up: a prefix is copied (with a unified KV the cells are
shared, so a copy costs no memory) unless taking the slot itself loses least.

What a loss costs is the number of tokens that no other slot has, times the chance that they are asked for again. It
falls as one over the time since (hyperbolic caching, Blankstein et al., USENIX ATC 2017), and time is requests here: so
the end of the conversation that spoke last, however short, is worth more than a longer one that rests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ds4trio.cache.memory_kind import Checkpoint, MemoryKind
from ds4trio.cache.prefix_tree import PrefixTree

__all__ = ["Cut", "KvSlot", "KvUse", "Match", "Nearest", "Placement", "Slot", "SlotTable"]

MOST_CHECKPOINTS = 16
"""Of one slot."""
LEAST_CUT = 256
"""Tokens that are given up at a time, so that a full memory is not cut token by token."""


@dataclass(slots=True, eq=False)
class Slot:
    """One sequence of the context."""

    id: int
    busy: bool = False
    last_used: int = 0
    """Value of the table's use counter when the slot was last given back: higher is younger."""
    first_position: int = 0
    """The oldest position that is still there; above 0 once a sliding window has moved on. Kept by the engine."""
    checkpoints: list[Checkpoint] = field(default_factory=list)
    """Ascending; they may be shared with other slots."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a prompt goes: into ``slot``, with the first ``keep`` of its tokens already computed.

    They are copied from ``source`` where that is another slot, and brought back by ``checkpoint`` where the memory
    cannot be cut there; a whole checkpoint needs no source.
    """

    slot: Slot
    source: Slot | None
    keep: int
    checkpoint: Checkpoint | None = None

    @property
    def from_whole_state(self) -> bool:
        """Whether all that is kept comes out of a saved state."""
        return self.checkpoint is not None and self.checkpoint.whole


@dataclass(frozen=True, slots=True)
class Match:
    """What the slots have of a prompt: of each slot, by its id, how many tokens it shares; and how many of the prompt's
    tokens would not have to be computed if it were placed now."""

    shared: dict[int, int]
    reusable: int


@dataclass(frozen=True, slots=True)
class Nearest:
    """The slot that has most of a prompt: its first ``shared`` tokens."""

    slot: Slot
    shared: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Cells to give up: ``slot`` keeps its first ``keep`` tokens."""

    slot: Slot
    keep: int


@dataclass(frozen=True, slots=True)
class _Offer:
    slot: Slot
    keep: int
    checkpoint: Checkpoint | None


@dataclass(frozen=True, slots=True)
class KvSlot:
    """What one conversation has in the KV: ``tokens`` of it, in ``cells`` that no other slot shares."""

    id: int
    tokens: int
    cells: int
    running: bool


@dataclass(frozen=True, slots=True)
class KvUse:
    """What the KV holds, all of it: ``running_cells`` are needed now, ``cached_cells`` may be given up.

    ``beside_bytes`` is memory outside of the cells, for checkpoints and for conversations that rest; ``disk_bytes`` is
    what is kept on disk, of all models.
    """

    cells: int
    running_cells: int
    cached_cells: int
    slots: tuple[KvSlot, ...] = ()
    beside_bytes: int = 0
    disk_bytes: int = 0


class SlotTable:
    """All slots of a context; pure bookkeeping. What it decides, the engine does, and tells it what became of it."""

    def __init__(self, count: int, kind: MemoryKind | None = None, *, checkpoint_bytes: int = 2**31) -> None:
        self.slots = [Slot(index) for index in range(count)]
        self._kind = kind or MemoryKind()
        self._checkpoint_bytes = checkpoint_bytes
        self._tree = PrefixTree()
        self._uses = 0

    def tokens(self, slot: Slot, start: int = 0, end: int | None = None) -> list[int]:
        """The tokens whose KV is in a slot, or some of them."""
        return self._tree.tokens(slot.id, start, end)

    def length(self, slot: Slot) -> int:
        """How many tokens a slot holds."""
        return self._tree.length(slot.id)

    @property
    def cells(self) -> int:
        """Cells of all slots."""
        return self._tree.cells(slot.id for slot in self.slots)

    @property
    def busy_cells(self) -> int:
        """Cells that cannot be given up: those of slots that are in use."""
        return self._tree.cells(slot.id for slot in self.slots if slot.busy)

    def use(self, cells: int) -> KvUse:
        """What the slots hold of so many cells."""
        busy = self.busy_cells
        slots = (
            KvSlot(slot.id, length, self._tree.own_cells(slot.id), slot.busy)
            for slot in self.slots
            if (length := self._tree.length(slot.id))
        )
        return KvUse(cells, busy, self.cells - busy, tuple(slots))

    def resting(self, least: int) -> list[Slot]:
        """The idle slots that have at least so many cells of their own, the one that has rested longest first."""
        idle = (slot for slot in self.slots if not slot.busy and self._tree.own_cells(slot.id) >= least)
        return sorted(idle, key=lambda slot: slot.last_used)

    def own_cells(self, slot: Slot) -> int:
        """Cells of a slot that would be free without it."""
        return self._tree.own_cells(slot.id)

    def match(self, prompt: Sequence[int]) -> Match:
        """What the slots have of a prompt; true until the next change of the table."""
        shared = self._tree.match(prompt)
        best = self._best_offer(shared, len(prompt) - 1)
        return Match(shared, best.keep if best is not None else 0)

    def nearest(self, match: Match) -> Nearest | None:
        """The slot that shares most tokens with a prompt, whether they can be reused or not."""
        shared = match.shared
        if not shared:
            return None
        slot = max((self.slots[key] for key in shared), key=lambda slot: (shared[slot.id], slot.last_used))
        return Nearest(slot, shared[slot.id])

    def place(
        self, prompt: Sequence[int], match: Match, *, saved: Checkpoint | None = None, older: Sequence[Checkpoint] = ()
    ) -> Placement | None:
        """Choose and take a slot for ``prompt``, or None where all are busy.

        At least the last token of the prompt is always left to compute, since its logits are needed. ``saved`` is a
        whole state of this very prompt, if there is one, and ``older`` the checkpoints before it.
        """
        free = [slot for slot in self.slots if not slot.busy]
        if not free:
            return None
        shared = match.shared
        best = self._best_offer(shared, len(prompt) - 1)
        if best is None or (saved is not None and saved.position > best.keep):
            keep = 0 if saved is None else saved.position
            target = self._cheapest(free, shared, source=None)
            self._restored(target, prompt[:keep], older)
            return Placement(target, None, keep, saved)
        source, keep, checkpoint = best.slot, best.keep, best.checkpoint
        in_place = self._kind.whole_only and checkpoint is None  # it is idle and all of it is wanted
        target = source if in_place else self._cheapest(free, shared, source=source)
        if checkpoint is not None and checkpoint.whole:
            self._restored(target, prompt[:keep], source.checkpoints)
            return Placement(target, None, keep, checkpoint)
        target.busy = True
        if target is source:
            self.cut(target, keep)
            return Placement(target, None, keep, checkpoint)
        self._tree.fork(source.id, target.id, keep)
        target.checkpoints = _up_to(keep, source.checkpoints)
        return Placement(target, source, keep, checkpoint)

    def extend(self, slot: Slot, tokens: Sequence[int]) -> None:
        """Note tokens whose KV was added to a slot; others may share them from now on."""
        self._tree.extend(slot.id, tokens)

    def cut(self, slot: Slot, length: int) -> None:
        """Note that a slot holds its first ``length`` tokens only."""
        self._tree.cut(slot.id, length)
        slot.checkpoints = _up_to(length, slot.checkpoints)

    def release(self, slot: Slot) -> None:
        """Give a slot back with what it holds."""
        self._uses += 1
        slot.busy = False
        slot.last_used = self._uses

    def give_up(self, tokens: int) -> Cut | None:
        """Choose which idle tokens to lose so that about ``tokens`` cells come free; None where nothing is idle.

        A cell is a cell, whoever has it: the one that is least likely to be asked for again is in the slot that rested
        longest. The table has noted the cut. It may free fewer cells than asked for, or none: ask again.
        """
        idle = [slot for slot in self.slots if not slot.busy and self.length(slot)]
        if not idle:
            return None
        victim = min(idle, key=lambda slot: (self._tree.own_cells(slot.id) == 0, slot.last_used))
        keep = self.length(victim) - max(tokens, LEAST_CUT)
        # What it shares is kept by the others too, unless they are idle like it: then the next cut is theirs.
        if self._kind.whole_only or keep <= self.length(victim) - self._tree.own_cells(victim.id):
            keep = 0
        self.cut(victim, keep)
        return Cut(victim, keep)

    def note(self, slot: Slot, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint of a slot, and no more of them than there may be; none that is larger than all may be."""
        if len(checkpoint.data) > self._checkpoint_bytes:
            return
        slot.checkpoints = [*(other for other in slot.checkpoints if other.position < checkpoint.position), checkpoint]
        if len(slot.checkpoints) > MOST_CHECKPOINTS:
            _thin(slot)
        # The longest unused lose theirs first, the running last; but what is between the first and the last of a
        # conversation is worth less than any other's beginning.
        by_use = sorted(self.slots, key=lambda other: (other.busy, other.last_used))
        for most in (2, 0):
            for other in by_use:
                while len(other.checkpoints) > most and self.checkpoint_bytes > self._checkpoint_bytes:
                    _thin(other)

    @property
    def checkpoint_bytes(self) -> int:
        """What all checkpoints take; shared ones count once."""
        distinct = {id(checkpoint): checkpoint for slot in self.slots for checkpoint in slot.checkpoints}
        return sum(len(checkpoint.data) for checkpoint in distinct.values())

    def _best_offer(self, shared: dict[int, int], most: int) -> _Offer | None:
        offers = [self._offer(self.slots[key], min(length, most)) for key, length in shared.items()]
        return max(
            (offer for offer in offers if offer.keep),
            key=lambda offer: (offer.keep, offer.checkpoint is None, not offer.slot.busy, offer.slot.last_used),
            default=None,
        )

    def _offer(self, slot: Slot, shared: int) -> _Offer:
        """How many of the first ``shared`` tokens of a slot can be had again."""
        if self._kind.whole_only:
            as_it_is = shared == self.length(slot) and not slot.busy
        else:
            # The next token looks back at the others in its window.
            as_it_is = slot.first_position <= max(0, shared - self._kind.window + 1)
        if as_it_is:
            return _Offer(slot, shared, None)
        fitting = [checkpoint for checkpoint in slot.checkpoints if checkpoint.position <= shared]
        return _Offer(slot, fitting[-1].position, fitting[-1]) if fitting else _Offer(slot, 0, None)

    def _cheapest(self, free: list[Slot], shared: dict[int, int], *, source: Slot | None) -> Slot:
        def loss(slot: Slot) -> float:
            # What the prompt has in common with the slot is not lost: it is kept, or computed again right now.
            own = min(self._tree.own(slot.id), self.length(slot) - shared.get(slot.id, 0))
            return own * self._chance(slot)

        return min(free, key=lambda slot: (loss(slot), source is not None and slot is not source, slot.last_used))

    def _restored(self, slot: Slot, tokens: Sequence[int], checkpoints: Sequence[Checkpoint]) -> None:
        slot.busy = True
        slot.checkpoints = _up_to(len(tokens), checkpoints)
        self._tree.hold(slot.id, tokens)

    def _chance(self, slot: Slot) -> float:
        """That somebody asks again for what is in an idle slot; 1 right after its last use."""
        return 1 / (1 + self._uses - slot.last_used)


def _up_to(length: int, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    return [checkpoint for checkpoint in checkpoints if checkpoint.position <= length]


def _thin(slot: Slot) -> None:
    """Drop the checkpoint that is missed least: where its neighbours are closest, and the first and the last at last.

    The first is the end of the system prompt, which other conversations share; the last is where the next turn begins.
    """
    kept = slot.checkpoints
    if len(kept) <= 2:
        slot.checkpoints = kept[1:]
        return
    index = min(range(1, len(kept) - 1), key=lambda index: kept[index + 1].position - kept[index - 1].position)
    slot.checkpoints = kept[:index] + kept[index + 1 :]
