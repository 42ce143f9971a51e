"""The slot table against simple models of it: what a placement may keep, and what it may cost the others."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from ds4trio.cache import Placement, Slot, SlotTable, common_prefix

SYSTEM = [9] * 600
"""A system prompt that is longer than one block of the comparison."""


def naive_prefix(a: list[int], b: list[int]) -> int:
    length = 0
    for left, right in zip(a, b, strict=False):
        if left != right:
            break
        length += 1
    return length


def take(table: SlotTable, prompt: list[int]) -> Placement:
    """Place a prompt and book in the slot what the engine would have in it."""
    placement = table.place(prompt)
    assert placement is not None
    placement.slot.tokens = prompt[: placement.keep]
    return placement


def filled(*conversations: list[int], slots: int | None = None, **kind: bool | int) -> SlotTable:
    """A table whose idle slots hold the conversations, the first one the oldest."""
    table = SlotTable(slots or len(conversations), **kind)  # type: ignore[arg-type]
    for slot, tokens in zip(table.slots, conversations, strict=False):
        table.release(slot, list(tokens))
    return table


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
    assert table.place([5, 6]) is None
    table.release(first.slot, [1, 2])
    again = table.place([5, 6])
    assert again is not None
    assert again.slot is first.slot


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
    busy.tokens = [*SYSTEM, 1]
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
    assert table.slots[0].tokens == conversation


def test_sharing_only_the_system_prompt_in_a_full_table_takes_the_slot_that_loses_least() -> None:
    long, short = [*SYSTEM, *[1] * 100], [*SYSTEM, *[2] * 10]
    table = filled(long, short)
    placement = take(table, [*SYSTEM, 3, 3])
    assert placement.keep == len(SYSTEM)
    assert placement.slot is table.slots[1]
    assert table.slots[0].tokens == long


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
    held = [slot.tokens for slot in table.slots]
    assert second_turn in held
    assert other in held


def test_of_conversations_that_are_equally_cheap_the_one_that_rested_longest_is_given_up() -> None:
    table = filled([1, 1], [2, 2], [3, 3])
    table.release(table.slots[0], [1, 1])
    assert take(table, [4, 4]).slot is table.slots[1]


# --- memories with less freedom ---------------------------------------------------------------------------------------


def test_without_truncation_a_whole_conversation_is_continued_in_its_own_slot() -> None:
    table = filled([1, 2, 3], slots=2, whole_only=True)
    placement = take(table, [1, 2, 3, 4])
    assert placement.slot is table.slots[0]
    assert (placement.keep, placement.source) == (3, None)


@pytest.mark.parametrize("prompt", [[1, 2, 3], [1, 2], [1, 2, 4, 5]])
def test_without_truncation_a_part_of_a_conversation_is_not_reused(prompt: list[int]) -> None:
    table = filled([1, 2, 3], slots=2, whole_only=True)
    placement = take(table, prompt)
    assert placement.keep == 0
    assert placement.slot is table.slots[1]


def test_nothing_is_taken_whole_from_a_busy_slot() -> None:
    table = SlotTable(2, whole_only=True)
    take(table, [1, 2, 3]).slot.tokens = [1, 2, 3]
    placement = take(table, [1, 2, 3, 4])
    assert (placement.keep, placement.source) == (0, None)


conversations = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=8), min_size=1, max_size=4)
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=10)


@given(held=conversations, spare=st.integers(0, 2), prompt=prompts)
def test_whole_conversations_are_reused_in_place_or_not_at_all(
    held: list[list[int]], spare: int, prompt: list[int]
) -> None:
    table = filled(*held, slots=len(held) + spare, whole_only=True)
    before = [list(slot.tokens) for slot in table.slots]
    placement = take(table, prompt)
    assert placement.source is None
    assert placement.keep in {0, len(before[placement.slot.id])}
    assert before[placement.slot.id][: placement.keep] == prompt[: placement.keep]


@given(
    length=st.integers(1, 60),
    first=st.integers(0, 60),
    shared=st.integers(0, 60),
    window=st.integers(1, 20),
)
def test_a_sliding_window_is_cut_only_where_all_of_it_is_still_there(
    length: int, first: int, shared: int, window: int
) -> None:
    shared, first = min(shared, length), min(first, length)
    table = SlotTable(1, window=window)
    table.release(table.slots[0], [1] * length)
    table.slots[0].first_position = first
    placement = take(table, [1] * shared + [2])
    cut = shared < length
    window_start = max(0, shared - window)
    assert placement.keep == (0 if cut and first > window_start else shared)


# --- giving up --------------------------------------------------------------------------------------------------------


def test_give_up_empties_the_idle_slot_that_rested_longest() -> None:
    table = filled([1], [2, 2], [3])
    oldest = table.slots[0]
    assert table.give_up() is oldest
    assert oldest.tokens == []
    assert [slot.tokens for slot in table.slots[1:]] == [[2, 2], [3]]


def test_give_up_finds_nothing_where_slots_are_busy_or_empty() -> None:
    table = SlotTable(2)
    busy = take(table, [1, 2]).slot
    busy.tokens = [1, 2]
    assert table.give_up() is None
    assert busy.tokens == [1, 2]


# --- the whole life of a table ----------------------------------------------------------------------------------------


@dataclass
class Owner:
    """A request that runs in a slot, as the engine sees it."""

    prompt: list[int]
    slot: Slot


blocks = st.sampled_from([[0], [1], [2, 2], [3, 3, 3, 3]])
texts = st.lists(blocks, min_size=1, max_size=5).map(lambda parts: [token for part in parts for token in part])


class SlotLife(RuleBasedStateMachine):
    """Requests come, compute and leave; slots are reclaimed. The table is told what an engine would tell it."""

    owners = Bundle("owners")

    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable(1)
        self.running: list[Owner] = []
        self.window = 0
        self.whole_only = False

    @initialize(count=st.integers(1, 4), whole_only=st.booleans(), window=st.sampled_from([0, 0, 1, 3]))
    def open(self, count: int, whole_only: bool, window: int) -> None:
        self.whole_only = whole_only
        self.window = 0 if whole_only else window
        self.table = SlotTable(count, whole_only=whole_only, window=self.window)

    @precondition(lambda self: len(self.running) < len(self.table.slots))
    @rule(target=owners, prompt=texts)
    def place(self, prompt: list[int]) -> Owner:
        before = {slot.id: (list(slot.tokens), slot.first_position) for slot in self.table.slots}
        idle = [slot for slot in self.table.slots if not slot.busy]
        placement = self.table.place(prompt)
        assert placement is not None

        slot, keep = placement.slot, placement.keep
        assert slot.busy
        assert slot in idle
        assert all(owner.slot is not slot for owner in self.running)

        origin = placement.source or slot
        tokens, first_position = before[origin.id]
        assert 0 <= keep < len(prompt)
        assert keep <= naive_prefix(tokens, prompt)
        if keep < len(tokens):
            assert keep == 0 or first_position <= max(0, keep - self.window)
            assert keep == 0 or not self.whole_only

        if any(not before[other.id][0] for other in idle):
            # What the prompt brings again is not lost, its last token included, which is always computed anew.
            held = before[slot.id][0]
            lost = held[naive_prefix(held, prompt) :]
            assert not lost, "a conversation was destroyed beside an empty slot"

        slot.tokens = prompt[:keep]
        owner = Owner(prompt, slot)
        self.running.append(owner)
        return owner

    @precondition(lambda self: len(self.running) == len(self.table.slots))
    @rule(prompt=texts)
    def place_in_a_full_table(self, prompt: list[int]) -> None:
        assert self.table.place(prompt) is None

    @rule(owner=consumes(owners), data=st.data())
    def release(self, owner: Owner, data: st.DataObject) -> None:
        """The request ends, is cancelled in its prefill, or has its KV cleared."""
        computed = data.draw(st.integers(0, len(owner.prompt)), label="computed")
        answer = data.draw(texts, label="answer") if computed == len(owner.prompt) else []
        tokens = owner.prompt[:computed] + answer
        oldest = max(0, len(tokens) - self.window) if self.window else 0
        first = data.draw(st.integers(0, oldest), label="first_position")
        self.table.release(owner.slot, tokens)
        owner.slot.first_position = first
        self.running.remove(owner)
        assert not owner.slot.busy
        assert owner.slot.tokens == tokens
        assert all(slot.last_used < owner.slot.last_used for slot in self.table.slots if slot is not owner.slot)

    @rule()
    def give_up(self) -> None:
        before = {slot.id: list(slot.tokens) for slot in self.table.slots}
        victim = self.table.give_up()
        candidates = [slot for slot in self.table.slots if not slot.busy and before[slot.id]]
        assert (victim is None) == (not candidates)
        if victim is not None:
            assert victim in candidates
            assert not victim.tokens
        for slot in self.table.slots:
            if slot is not victim:
                assert slot.tokens == before[slot.id]

    @invariant()
    def exactly_the_owned_slots_are_busy(self) -> None:
        busy = [slot.id for slot in self.table.slots if slot.busy]
        assert busy == sorted(owner.slot.id for owner in self.running)


SlotLife.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
TestSlotLife = SlotLife.TestCase
