"""The slot table against simple models of it: what a placement may keep, and what it may cost the others."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from ds4trio.cache import Checkpoint, MemoryKind, Placement, Slot, SlotTable, common_prefix
from ds4trio.cache.slots import LEAST_CUT, MOST_CHECKPOINTS
from tests.cache.naive import naive_prefix

SYSTEM = [9] * 600
"""A system prompt that is longer than one block of the comparison."""

SLIDING = MemoryKind(window=10, checkpoint="part")
HYBRID = MemoryKind(whole_only=True, checkpoint="part")
COMPRESSED = MemoryKind(whole_only=True, checkpoint="whole")
KINDS = [MemoryKind(), SLIDING, HYBRID, COMPRESSED]

whole_only = pytest.mark.parametrize("kind", [HYBRID, COMPRESSED], ids=["hybrid", "compressed"])


def take(table: SlotTable, prompt: list[int], *, saved: Checkpoint | None = None) -> Placement:
    placement = table.place(prompt, table.match(prompt), saved=saved)
    assert placement is not None
    assert table.tokens(placement.slot) == prompt[: placement.keep]
    return placement


def run(table: SlotTable, prompt: list[int]) -> Slot:
    """Place a prompt, compute all of it and give its slot back."""
    placement = take(table, prompt)
    table.extend(placement.slot, prompt[placement.keep :])
    table.release(placement.slot)
    return placement.slot


def filled(*conversations: list[int], slots: int | None = None, kind: MemoryKind | None = None) -> SlotTable:
    """A table whose idle slots hold the conversations, each in its own cells, the first one the oldest."""
    table = SlotTable(slots or len(conversations), kind)
    for slot, tokens in zip(table.slots, conversations, strict=False):
        table.extend(slot, tokens)
        table.release(slot)
    return table


def held(table: SlotTable) -> list[list[int]]:
    return [table.tokens(slot) for slot in table.slots]


def state(position: int, kind: MemoryKind, size: int = 1) -> Checkpoint:
    return Checkpoint(position, bytearray(size), kind.checkpoint == "whole")


def positions(slot: Slot) -> list[int]:
    return [checkpoint.position for checkpoint in slot.checkpoints]


# --- common_prefix ----------------------------------------------------------------------------------------------------

tails = st.lists(st.integers(0, 2), max_size=5)


@given(shared=st.integers(0, 1100), left=tails, right=tails)
def test_common_prefix_is_the_number_of_equal_leading_tokens(shared: int, left: list[int], right: list[int]) -> None:
    a, b = [7] * shared + left, [7] * shared + right
    assert common_prefix(a, b) == naive_prefix(a, b)


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 1024, 1025])
def test_common_prefix_of_a_list_and_its_own_continuation_is_the_shorter_one(length: int) -> None:
    tokens = list(range(2000))
    assert common_prefix(tokens[:length], tokens) == length
    assert common_prefix(tokens, tokens[:length]) == length


# --- placing ----------------------------------------------------------------------------------------------------------


def test_a_table_whose_slots_are_all_busy_places_nothing() -> None:
    table = SlotTable(2)
    first, second = take(table, [1, 2]), take(table, [3, 4])
    assert first.slot is not second.slot
    assert table.place([5, 6], table.match([5, 6])) is None
    table.release(first.slot)
    assert take(table, [5, 6]).slot is first.slot


def test_a_prompt_without_a_known_prefix_keeps_nothing_and_copies_nothing() -> None:
    placement = take(filled([1, 2, 3], slots=2), [4, 5])
    assert (placement.keep, placement.source) == (0, None)


def test_the_last_token_of_a_known_prompt_is_computed_again() -> None:
    assert take(filled([1, 2, 3]), [1, 2, 3]).keep == 2


def test_the_next_turn_of_a_conversation_keeps_all_of_the_last_one() -> None:
    assert take(filled([5, 5, 5], [1, 2, 3], [4]), [1, 2, 3, 4]).keep == 3


def test_the_longest_prefix_that_any_slot_has_is_used() -> None:
    assert take(filled([1, 2, 3], [1, 2, 3, 4, 5], [1, 2]), [1, 2, 3, 4, 9]).keep == 4


def test_a_prefix_is_copied_from_a_busy_slot() -> None:
    table = SlotTable(2)
    busy = take(table, [*SYSTEM, 1]).slot
    table.extend(busy, [*SYSTEM, 1])
    placement = take(table, [*SYSTEM, 2, 3])
    assert placement.source is busy
    assert placement.slot is not busy
    assert placement.keep == len(SYSTEM)


def test_sharing_only_the_system_prompt_copies_it_and_leaves_the_other_conversation_whole() -> None:
    conversation = [*SYSTEM, 1, 2, 3]
    table = filled(conversation, slots=2)
    placement = take(table, [*SYSTEM, 4, 5])
    assert placement.keep == len(SYSTEM)
    assert placement.source is table.slots[0]
    assert placement.slot is table.slots[1]
    assert held(table)[0] == conversation


def test_sharing_only_the_system_prompt_in_a_full_table_takes_the_slot_that_loses_least() -> None:
    long, short = [*SYSTEM, *[1] * 100], [*SYSTEM, *[2] * 10]
    table = filled(long, short)
    placement = take(table, [*SYSTEM, 3, 3])
    assert placement.keep == len(SYSTEM)
    assert placement.slot is table.slots[1]
    assert held(table)[0] == long


def test_a_shared_system_prompt_does_not_count_as_lost_while_another_slot_still_has_it() -> None:
    short, long = [*SYSTEM, *[1] * 10], [*SYSTEM, *[2] * 100]
    table = filled(short, long)
    assert take(table, [*SYSTEM, 3, 3]).slot is table.slots[0]


def test_a_copy_that_another_slot_holds_in_full_is_given_up_before_a_conversation_is() -> None:
    first_turn = [1] * 10
    second_turn = [*first_turn, 2, 2]
    other = [5] * 5
    table = filled(first_turn, second_turn, other)
    take(table, [7, 7, 7])
    assert second_turn in held(table)
    assert other in held(table)


def test_of_conversations_that_are_equally_dear_the_one_that_rested_longest_is_given_up() -> None:
    table = filled([1, 1], [2, 2], [3, 3])
    run(table, [1, 1])
    assert take(table, [4, 4]).slot is table.slots[1]


def test_a_long_conversation_that_nobody_asks_for_any_more_is_given_up_before_a_short_one_that_is_in_use() -> None:
    table = filled([1] * 200, [2] * 60)
    assert take(table, [3, 3]).slot is table.slots[1]
    table = filled([1] * 200, [2] * 60)
    for _ in range(4):
        table.release(table.slots[1])
    assert take(table, [3, 3]).slot is table.slots[0]


def test_the_short_end_of_the_conversation_that_spoke_last_outlives_longer_ones_of_strangers() -> None:
    system = [1] * 50
    strangers = [[stranger] * 40 for stranger in range(100, 110)]
    table = filled(*strangers, [*system, *[2] * 10])
    run(table, [*system, *[3] * 10])
    assert held(table)[10] == [*system, *[2] * 10]


# --- what is nearest --------------------------------------------------------------------------------------------------


def test_nearest_is_the_slot_that_shares_most_whether_it_can_be_reused_or_not() -> None:
    for kind in KINDS:
        table = filled([1, 2, 3, 4], [1, 2, 9], kind=kind)
        nearest = table.nearest(table.match([1, 2, 3, 5]))
        assert nearest is not None
        assert (nearest.slot, nearest.shared) == (table.slots[0], 3)


def test_nothing_is_nearest_where_nothing_is_shared() -> None:
    table = filled([1, 2, 3])
    assert table.nearest(table.match([2, 3])) is None


def test_of_slots_that_share_the_same_the_youngest_is_nearest() -> None:
    table = filled([1, 2, 7], [1, 2, 8])
    nearest = table.nearest(table.match([1, 2, 3]))
    assert nearest is not None
    assert nearest.slot is table.slots[1]


# --- memories with less freedom ---------------------------------------------------------------------------------------


@whole_only
def test_without_truncation_a_whole_conversation_is_continued_in_its_own_slot(kind: MemoryKind) -> None:
    table = filled([1, 2, 3], slots=2, kind=kind)
    placement = take(table, [1, 2, 3, 4])
    assert placement.slot is table.slots[0]
    assert (placement.keep, placement.source, placement.checkpoint) == (3, None, None)


@whole_only
@pytest.mark.parametrize("prompt", [[1, 2, 3], [1, 2], [1, 2, 4, 5]])
def test_without_truncation_a_part_of_a_conversation_is_not_reused(kind: MemoryKind, prompt: list[int]) -> None:
    table = filled([1, 2, 3], slots=2, kind=kind)
    placement = take(table, prompt)
    assert placement.keep == 0
    assert placement.slot is table.slots[1]


@whole_only
def test_nothing_is_taken_whole_from_a_busy_slot(kind: MemoryKind) -> None:
    table = SlotTable(2, kind)
    table.extend(take(table, [1, 2, 3]).slot, [1, 2, 3])
    placement = take(table, [1, 2, 3, 4])
    assert (placement.keep, placement.source) == (0, None)


@given(
    length=st.integers(1, 60),
    first=st.integers(0, 60),
    shared=st.integers(0, 60),
    window=st.integers(2, 20),
)
def test_a_prefix_of_a_sliding_window_is_taken_only_where_its_next_token_finds_all_it_looks_at(
    length: int, first: int, shared: int, window: int
) -> None:
    shared, first = min(shared, length), min(first, length)
    table = filled([1] * length, kind=MemoryKind(window=window, checkpoint="part"))
    table.slots[0].first_position = first
    placement = take(table, [1] * shared + [2])
    # A window includes the token itself.
    needed = range(max(0, shared - window + 1), shared)
    assert placement.keep == (shared if not needed or first <= needed[0] else 0)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SLIDING, HYBRID, COMPRESSED], ids=["sliding", "hybrid", "compressed"])
def test_a_checkpoint_is_the_way_back_to_a_prefix(kind: MemoryKind) -> None:
    table = filled([1] * 100, slots=2, kind=kind)
    slot = table.slots[0]
    slot.first_position = 90
    for position in (20, 40, 60):
        table.note(slot, state(position, kind))
    placement = take(table, [1] * 50 + [2])
    assert placement.keep == 40
    assert placement.checkpoint is slot.checkpoints[1]
    assert positions(placement.slot) == [20, 40]
    assert positions(slot) == [20, 40, 60]
    # A whole state needs no cells of another's.
    assert placement.source is (None if kind is COMPRESSED else slot)


@whole_only
def test_a_checkpoint_of_a_busy_slot_serves_others(kind: MemoryKind) -> None:
    table = SlotTable(2, kind)
    leader = take(table, [1] * 100).slot
    table.extend(leader, [1] * 60)
    table.note(leader, state(50, kind))
    placement = take(table, [1] * 80)
    assert placement.keep == 50
    assert placement.slot is not leader


def test_where_a_sequence_can_be_cut_no_checkpoint_is_needed() -> None:
    table = filled([1] * 100, kind=SLIDING)
    table.note(table.slots[0], state(50, SLIDING))
    table.slots[0].first_position = 20
    placement = take(table, [1] * 50 + [2])
    assert (placement.keep, placement.checkpoint) == (50, None)


def test_checkpoints_beyond_a_cut_are_gone() -> None:
    table = filled([1] * 100, kind=HYBRID)
    slot = table.slots[0]
    for position in (20, 40, 60):
        table.note(slot, state(position, HYBRID))
    table.cut(slot, 40)
    assert positions(slot) == [20, 40]
    table.cut(slot, 0)
    assert positions(slot) == []


def test_a_later_checkpoint_of_the_same_place_takes_the_place_of_the_earlier() -> None:
    table = filled([1] * 100, kind=HYBRID)
    slot = table.slots[0]
    for position in (20, 60, 40):
        table.note(slot, state(position, HYBRID))
    assert positions(slot) == [20, 40]


def test_of_too_many_checkpoints_the_one_goes_whose_neighbours_are_closest() -> None:
    table = filled([1] * 5000, kind=HYBRID)
    slot = table.slots[0]
    even = [100 * index for index in range(1, MOST_CHECKPOINTS)]
    for position in (*even, even[-1] + 10):
        table.note(slot, state(position, HYBRID))
    table.note(slot, state(even[-1] + 500, HYBRID))
    # The pair that is 10 apart lies between neighbours that are 110 and 500 away.
    assert positions(slot) == [*even[:-1], even[-1] + 10, even[-1] + 500]


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=60, unique=True))
def test_thinning_never_takes_the_first_or_the_last_checkpoint(where: list[int]) -> None:
    table = filled([1] * 10_000, kind=HYBRID)
    slot = table.slots[0]
    for position in sorted(where):
        table.note(slot, state(position, HYBRID))
    assert len(slot.checkpoints) == min(len(where), MOST_CHECKPOINTS)
    assert (positions(slot)[0], positions(slot)[-1]) == (min(where), max(where))


def test_checkpoints_take_no_more_memory_than_they_may_and_the_longest_unused_lose_theirs_first() -> None:
    """But of no conversation the first or the last one, while any has others between them."""
    table = SlotTable(3, HYBRID, checkpoint_bytes=100)
    oldest, younger = run(table, [1] * 50), run(table, [2] * 50)
    running = take(table, [3] * 50).slot
    for slot in (younger, oldest, running):
        for position in (10, 20, 30):
            table.note(slot, state(position, HYBRID, size=10))
    assert table.checkpoint_bytes == 90
    table.note(younger, state(40, HYBRID, size=30))
    assert table.checkpoint_bytes == 100
    assert (positions(oldest), positions(younger), positions(running)) == ([10, 30], [10, 30, 40], [10, 20, 30])
    table.note(running, state(40, HYBRID, size=30))
    assert (positions(oldest), positions(younger), positions(running)) == ([10, 30], [10, 40], [10, 40])
    table.note(running, state(50, HYBRID, size=50))
    assert (positions(oldest), positions(younger), positions(running)) == ([], [10, 40], [10, 50])


def test_a_state_that_is_larger_than_all_may_be_takes_nobody_else_s_away() -> None:
    table = SlotTable(2, HYBRID, checkpoint_bytes=100)
    slot, other = run(table, [1] * 50), run(table, [2] * 50)
    table.note(slot, state(10, HYBRID, size=10))
    table.note(other, state(10, HYBRID, size=101))
    assert (positions(slot), positions(other)) == ([10], [])


def test_a_checkpoint_that_slots_share_counts_once() -> None:
    table = filled([1] * 100, slots=2, kind=HYBRID)
    table.note(table.slots[0], state(50, HYBRID, size=10))
    take(table, [1] * 60)
    assert [positions(slot) for slot in table.slots] == [[50], [50]]
    assert table.checkpoint_bytes == 10


# --- saved states -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=["full", "sliding", "hybrid", "compressed"])
def test_a_saved_state_is_used_where_no_slot_offers_more(kind: MemoryKind) -> None:
    saved = Checkpoint(50, bytearray(1), True)
    for known, expected in ((40, saved), (60, None)):
        table = filled([1] * known, slots=2, kind=kind)
        placement = take(table, [1] * 80, saved=saved)
        assert placement.checkpoint is expected
        assert placement.keep == max(known, 50)


# --- giving up --------------------------------------------------------------------------------------------------------


def test_give_up_takes_the_end_of_what_rested_longest() -> None:
    table = filled([1] * 2000, [2] * 1000)
    cut = table.give_up(300)
    assert cut is not None
    assert (cut.slot, cut.keep) == (table.slots[0], 1700)
    assert held(table) == [[1] * 1700, [2] * 1000]


def test_give_up_takes_more_than_a_crumb() -> None:
    table = filled([1] * 1000)
    cut = table.give_up(1)
    assert cut is not None
    assert cut.keep == 1000 - LEAST_CUT


@whole_only
def test_without_truncation_all_of_a_sequence_is_given_up(kind: MemoryKind) -> None:
    table = filled([1] * 1000, kind=kind)
    table.note(table.slots[0], state(500, kind))
    cut = table.give_up(1)
    assert cut is not None
    assert cut.keep == 0
    assert positions(table.slots[0]) == []


def test_what_is_shared_with_others_is_not_cut_but_let_go() -> None:
    # Both have the system prompt in the same cells, so only the end of either is worth a cut.
    table = SlotTable(3)
    first = run(table, [*SYSTEM, *[1] * 100])
    second = take(table, [*SYSTEM, *[2] * 50])
    assert second.source is first
    table.extend(second.slot, [2] * 50)
    table.release(second.slot)
    cut = table.give_up(500)
    assert cut is not None
    assert (cut.slot, cut.keep) == (first, 0)
    assert held(table)[second.slot.id] == [*SYSTEM, *[2] * 50]
    cut = table.give_up(500)
    assert cut is not None
    assert (cut.slot, cut.keep) == (second.slot, 150)


def test_give_up_finds_nothing_where_slots_are_busy_or_empty() -> None:
    table = SlotTable(2)
    busy = take(table, [1, 2]).slot
    table.extend(busy, [1, 2])
    assert table.give_up(1) is None
    assert table.tokens(busy) == [1, 2]


# --- the whole life of a table ----------------------------------------------------------------------------------------


@dataclass(eq=False)
class Owner:
    """A request that runs in a slot, as the engine sees it."""

    prompt: list[int]
    slot: Slot


blocks = st.sampled_from([[0], [1], [2, 2], [3, 3, 3, 3]])
texts = st.lists(blocks, min_size=1, max_size=5).map(lambda parts: [token for part in parts for token in part])
BUDGET = 12


class SlotLife(RuleBasedStateMachine):
    """Requests come, compute, are set back and leave; slots are reclaimed. The table hears what an engine would say.

    The model is a list of tokens for each slot.
    """

    owners = Bundle("owners")

    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable(1)
        self.kind = MemoryKind()
        self.running: list[Owner] = []
        self.held: dict[int, list[int]] = {}

    @initialize(count=st.integers(1, 4), kind=st.sampled_from(KINDS), window=st.sampled_from([1, 3]))
    def open(self, count: int, kind: MemoryKind, window: int) -> None:
        self.kind = kind if kind is not SLIDING else MemoryKind(window=window, checkpoint="part")
        self.table = SlotTable(count, self.kind, checkpoint_bytes=BUDGET)
        self.held = {slot.id: [] for slot in self.table.slots}

    def offer(self, slot: Slot, prompt: list[int]) -> int:
        """How much of a prompt can be had from a slot, said as plainly as possible."""
        tokens = self.held[slot.id]
        shared = naive_prefix(tokens, prompt[:-1])
        possible = {position for position in positions(slot) if position <= shared}
        if self.kind.whole_only:
            if shared == len(tokens) and not slot.busy:
                possible.add(shared)
        elif slot.first_position <= self.oldest_needed(shared):
            possible.add(shared)
        return max(possible, default=0)

    def oldest_needed(self, position: int) -> int:
        """The first position that a token at ``position`` looks at."""
        return max(0, position - self.kind.window + 1) if self.kind.window else 0

    @precondition(lambda self: len(self.running) < len(self.table.slots))
    @rule(target=owners, prompt=texts)
    def place(self, prompt: list[int]) -> Owner:
        idle = [slot for slot in self.table.slots if not slot.busy]
        most = max(self.offer(slot, prompt) for slot in self.table.slots)
        placement = self.table.place(prompt, self.table.match(prompt))
        assert placement is not None

        slot, keep, checkpoint = placement.slot, placement.keep, placement.checkpoint
        assert slot.busy
        assert slot in idle
        assert keep == most
        assert naive_prefix(self.held[(placement.source or slot).id], prompt) >= keep or checkpoint is not None
        if checkpoint is not None:
            assert checkpoint.position == keep
        if self.kind.whole_only and placement.source is not None:
            assert checkpoint is not None
        if any(not self.held[other.id] for other in idle):
            # What the prompt brings again is not lost, its last token included, which is always computed anew.
            tokens = self.held[slot.id]
            others = [held for key, held in self.held.items() if key != slot.id]
            assert any(naive_prefix(tokens, other) == len(tokens) for other in (prompt, *others)), (
                "a conversation was destroyed beside an empty slot"
            )

        self.held[slot.id] = prompt[:keep]
        slot.first_position = self.oldest_needed(keep)
        owner = Owner(prompt, slot)
        self.running.append(owner)
        return owner

    @precondition(lambda self: len(self.running) == len(self.table.slots))
    @rule(prompt=texts)
    def place_in_a_full_table(self, prompt: list[int]) -> None:
        assert self.table.place(prompt, self.table.match(prompt)) is None

    @rule(owner=owners, data=st.data())
    def compute(self, owner: Owner, data: st.DataObject) -> None:
        """A chunk of the prompt, and perhaps a checkpoint after it."""
        tokens = self.held[owner.slot.id]
        end = data.draw(st.integers(len(tokens), len(owner.prompt)), label="computed")
        self.table.extend(owner.slot, owner.prompt[len(tokens) : end])
        tokens += owner.prompt[len(tokens) : end]
        if self.kind.window:
            low = min(owner.slot.first_position, end)
            owner.slot.first_position = data.draw(st.integers(low, max(low, self.oldest_needed(end))), label="first")
        if end and self.kind.checkpoint is not None and data.draw(st.booleans(), label="checkpoint"):
            self.table.note(owner.slot, state(end, self.kind, size=data.draw(st.integers(1, 4), label="size")))

    @rule(owner=owners, data=st.data())
    def set_back(self, owner: Owner, data: st.DataObject) -> None:
        """A batch was aborted, or the KV was cleared."""
        tokens = self.held[owner.slot.id]
        length = data.draw(st.integers(0, len(tokens)), label="length")
        self.table.cut(owner.slot, length)
        del tokens[length:]
        owner.slot.first_position = min(owner.slot.first_position, self.oldest_needed(length))

    @rule(owner=consumes(owners), answer=texts)
    def release(self, owner: Owner, answer: list[int]) -> None:
        """The request ends, or is cancelled in its prefill."""
        if self.held[owner.slot.id] == owner.prompt:
            self.table.extend(owner.slot, answer)
            self.held[owner.slot.id] += answer
        self.table.release(owner.slot)
        self.running.remove(owner)
        assert all(slot.last_used < owner.slot.last_used for slot in self.table.slots if slot is not owner.slot)

    @rule(tokens=st.integers(1, 10))
    def give_up(self, tokens: int) -> None:
        candidates = [slot for slot in self.table.slots if not slot.busy and self.held[slot.id]]
        cut = self.table.give_up(tokens)
        assert (cut is None) == (not candidates)
        if cut is not None:
            assert cut.slot in candidates
            assert cut.keep < len(self.held[cut.slot.id])
            del self.held[cut.slot.id][cut.keep :]

    @invariant()
    def exactly_the_owned_slots_are_busy(self) -> None:
        busy = [slot.id for slot in self.table.slots if slot.busy]
        assert busy == sorted(owner.slot.id for owner in self.running)

    @invariant()
    def the_table_holds_what_it_was_told(self) -> None:
        for slot in self.table.slots:
            assert self.table.tokens(slot) == self.held.get(slot.id, [])
            assert self.table.length(slot) == len(self.held.get(slot.id, []))

    @invariant()
    def checkpoints_are_of_what_is_held_and_within_their_budget(self) -> None:
        for slot in self.table.slots:
            assert positions(slot) == sorted(set(positions(slot)))
            assert all(0 < position <= self.table.length(slot) for position in positions(slot))
        assert self.table.checkpoint_bytes <= BUDGET


SlotLife.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
TestSlotLife = SlotLife.TestCase
