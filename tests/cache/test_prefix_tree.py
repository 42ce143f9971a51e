"""The prefix tree against dicts of lists, and its shape against its own rules."""

import sys
from collections.abc import Callable, Iterator
from itertools import count
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ds4trio.cache import prefix_tree
from ds4trio.cache.prefix_tree import BLOCK, PrefixTree
from tests.cache.naive import naive_prefix

SYSTEM = list(range(1000, 1000 + 3 * BLOCK))
"""A system prompt that is longer than one block of the comparison."""


def tree_of(*sequences: list[int]) -> PrefixTree:
    """A tree in which the keys 0, 1, 2 … hold the sequences, each in its own cells."""
    tree = PrefixTree()
    for key, tokens in enumerate(sequences):
        tree.hold(key, tokens)
    return tree


def nodes(tree: PrefixTree) -> "Iterator[prefix_tree._Node]":
    waiting = [tree._root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children.values())


def edges(tree: PrefixTree) -> list[list[int]]:
    return sorted(list(node.edge) for node in nodes(tree))


def stored(tree: PrefixTree) -> int:
    """How many tokens the tree keeps."""
    return sum(len(node.edge) for node in nodes(tree))


def all_cells(tree: PrefixTree) -> int:
    """The cells of all keys that the tests use."""
    return tree.cells(range(40))


def lines_executed(action: Callable[[], object]) -> int:
    """How many lines of the tree's own code run: work that grows in Python, whatever the machine does meanwhile."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != prefix_tree.__file__:
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return lines


# --- matching ---------------------------------------------------------------------------------------------------------


def test_an_empty_tree_matches_nothing() -> None:
    tree = PrefixTree()
    assert tree.match([1, 2, 3]) == {}
    assert (stored(tree), all_cells(tree)) == (0, 0)


def test_match_tells_for_every_key_how_much_of_the_prompt_it_has() -> None:
    tree = tree_of([*SYSTEM, 1, 2], [*SYSTEM, 1, 2, 3, 4], [*SYSTEM, 5], SYSTEM[:700], [7])
    system = len(SYSTEM)
    assert tree.match([*SYSTEM, 1, 2, 3, 9]) == {0: system + 2, 1: system + 3, 2: system, 3: 700}


def test_a_prompt_that_ends_inside_what_is_held_matches_whole() -> None:
    assert tree_of([1, 2, 3, 4]).match([1, 2]) == {0: 2}


@pytest.mark.parametrize("shared", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_the_first_difference_is_found_on_either_side_of_a_block(shared: int) -> None:
    tree = tree_of([*SYSTEM[:shared], 1, *SYSTEM])
    assert tree.match([*SYSTEM[:shared], 2, *SYSTEM]).get(0, 0) == shared


def test_any_sequence_of_tokens_will_do() -> None:
    tree = PrefixTree()
    tree.hold(0, range(5))
    tree.extend(0, (5, 6))
    assert tree.tokens(0) == [0, 1, 2, 3, 4, 5, 6]
    assert tree.match(range(4)) == {0: 4}


def test_a_number_that_cannot_be_a_token_changes_nothing() -> None:
    tree = tree_of([1, 2**33])
    for change in (tree.hold, tree.extend):
        with pytest.raises(OverflowError):
            change(0, [3, 2**63])
    assert tree.tokens(0) == [1, 2**33]


# --- what would be lost -----------------------------------------------------------------------------------------------


def test_only_what_nobody_else_holds_is_a_keys_own() -> None:
    tree = tree_of([1, 2, 3, 4], [1, 2, 5], [1, 2])
    assert [tree.own(key) for key in range(3)] == [2, 1, 0]


def test_of_two_equal_keys_neither_has_anything_of_its_own() -> None:
    tree = tree_of([1, 2], [1, 2])
    assert (tree.own(0), tree.own(1), stored(tree)) == (0, 0, 2)
    tree.cut(1, 0)
    assert (tree.own(0), stored(tree)) == (2, 2)


# --- cells ------------------------------------------------------------------------------------------------------------


def test_tokens_that_were_copied_share_cells_and_tokens_that_were_computed_twice_do_not() -> None:
    tree = tree_of([1, 2, 3])
    tree.fork(0, 1, 2)
    tree.extend(1, [3])
    assert (stored(tree), all_cells(tree)) == (3, 4)
    assert (tree.own(1), tree.own_cells(1)) == (0, 1)


def test_a_copy_keeps_its_cells_when_what_it_was_copied_from_is_gone() -> None:
    tree = tree_of([1, 2, 3])
    tree.fork(0, 1, 2)
    tree.fork(1, 2, 1)
    tree.cut(0, 0)
    assert all_cells(tree) == 2
    tree.cut(1, 0)
    assert (all_cells(tree), tree.own_cells(2)) == (1, 1)


def test_cells_that_were_cut_off_are_not_shared_again_when_the_same_tokens_come_back() -> None:
    tree = tree_of([1, 2, 3])
    tree.fork(0, 1, 3)
    tree.cut(1, 1)
    tree.extend(1, [2, 3])
    assert (stored(tree), all_cells(tree)) == (3, 5)


# --- the shape --------------------------------------------------------------------------------------------------------


def test_a_conversation_is_one_node_however_it_came_and_wherever_others_end_in_it() -> None:
    tree = PrefixTree()
    for turn in range(100):
        tree.extend(0, [turn] * 3)
        tree.fork(0, 1 + turn, 3 * turn + 1)
    assert len(list(nodes(tree))) == 1


def test_a_branch_that_is_gone_leaves_no_border_behind() -> None:
    tree = tree_of([1, 2, 3, 4], [1, 2, 5])
    assert edges(tree) == [[1, 2], [3, 4], [5]]
    tree.cut(1, 2)
    assert edges(tree) == [[1, 2, 3, 4]]


def test_a_key_that_computes_what_another_holds_walks_along_its_edge_without_breaking_it() -> None:
    tree = tree_of([*SYSTEM, 1])
    for start in range(0, len(SYSTEM), 100):
        tree.extend(1, SYSTEM[start : start + 100])
        assert len(list(nodes(tree))) == 1
    tree.extend(1, [2])
    assert edges(tree) == sorted([SYSTEM, [1], [2]])


def test_conversations_that_grow_from_one_system_prompt_need_two_nodes_each_at_most_for_life() -> None:
    tree = tree_of(SYSTEM)
    for turn in range(50):
        for key in range(1, 9):
            tree.fork(0 if turn % 10 == 0 else key, key, len(SYSTEM) + turn)
            tree.extend(key, [turn, key, turn])
            assert len(list(nodes(tree))) < 2 * 9


def test_a_chain_of_forks_is_walked_however_deep() -> None:
    deep = sys.getrecursionlimit() + 10
    tree = tree_of([0])
    for key in range(1, deep):
        tree.fork(key - 1, key, key)
        tree.extend(key - 1, [1])
        tree.extend(key, [0])
    assert tree.match([0] * deep) == {key: key + 1 for key in range(deep)}
    assert tree.tokens(deep - 1) == [0] * deep
    for key in range(deep):
        tree.cut(key, 0)
    assert edges(tree) == [[]]


# --- the work ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "token"), [(0, 1), (1, 1), (1, 2)], ids=["alone", "along another key", "parting"])
def test_the_next_token_costs_the_same_after_a_hundred_thousand_others_as_after_ten(key: int, token: int) -> None:
    def cost(length: int) -> int:
        tree = tree_of([1] * (length + 10))
        tree.fork(0, 1, length)
        return lines_executed(lambda: tree.extend(key, [token]))

    assert 0 < cost(100_000) == cost(10)


def test_a_prompt_is_compared_once_for_all_keys_that_share_it() -> None:
    prompt = [1] * 100_000

    def cost(keys: int) -> int:
        tree = tree_of(prompt)
        for key in range(1, keys):
            tree.fork(0, key, len(prompt))
            tree.extend(key, [key, 0])
        return lines_executed(lambda: tree.match([*prompt, 0]))

    blocks = len(prompt) // BLOCK
    assert blocks < cost(1) < 10 * blocks
    assert cost(64) - cost(1) < 64 * 20


# --- the whole life of a tree -----------------------------------------------------------------------------------------

keys = st.integers(0, 5)
texts = st.lists(st.integers(0, 2), max_size=8)
lengths = st.integers(0, 20)


class TreeLife(RuleBasedStateMachine):
    """The model keeps every key's tokens as a list, each with the number of the cell it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = PrefixTree()
        self.held: dict[int, list[tuple[int, int]]] = {}
        self.cell = count()

    def content(self, key: int) -> list[int]:
        return [token for token, _ in self.held.get(key, [])]

    def put(self, key: int, held: list[tuple[int, int]]) -> None:
        self.held[key] = held
        if not held:
            del self.held[key]

    def computed(self, tokens: list[int]) -> list[tuple[int, int]]:
        return [(token, next(self.cell)) for token in tokens]

    @rule(key=keys, tokens=texts)
    def hold(self, key: int, tokens: list[int]) -> None:
        self.tree.hold(key, tokens)
        self.put(key, self.computed(tokens))

    @rule(key=keys, tokens=texts)
    def extend(self, key: int, tokens: list[int]) -> None:
        self.tree.extend(key, tokens)
        self.put(key, self.held.get(key, []) + self.computed(tokens))

    @rule(key=keys, other=keys, size=st.integers(1, 4))
    def extend_along(self, key: int, other: int, size: int) -> None:
        """Go on as another key does, so that deep agreement is not left to luck."""
        at = len(self.content(key))
        self.extend(key, self.content(other)[at : at + size])

    @rule(key=keys, length=lengths)
    def cut(self, key: int, length: int) -> None:
        self.tree.cut(key, length)
        self.put(key, self.held.get(key, [])[:length])

    @rule(source=keys, copy=keys, length=lengths)
    def fork(self, source: int, copy: int, length: int) -> None:
        self.tree.fork(source, copy, length)
        self.put(copy, self.held.get(source, [])[:length])

    @rule(key=keys, start=lengths, end=st.none() | lengths)
    def read_a_part(self, key: int, start: int, end: int | None) -> None:
        assert self.tree.tokens(key, start, end) == self.content(key)[start:end]

    @rule(key=keys, length=lengths, tail=texts)
    def match(self, key: int, length: int, tail: list[int]) -> None:
        prompt = self.content(key)[:length] + tail
        shared = {other: naive_prefix(self.content(other), prompt) for other in self.held}
        assert self.tree.match(prompt) == {other: length for other, length in shared.items() if length}

    @invariant()
    def every_key_holds_its_tokens(self) -> None:
        for key in range(6):
            assert self.tree.length(key) == len(self.content(key))
            assert self.tree.tokens(key) == self.content(key)

    @invariant()
    def size_is_the_number_of_distinct_prefixes(self) -> None:
        prefixes = {tuple(self.content(key)[: end + 1]) for key in self.held for end in range(len(self.held[key]))}
        assert stored(self.tree) == len(prefixes)

    @invariant()
    def own_is_what_no_other_key_holds(self) -> None:
        for key in range(6):
            mine = self.content(key)
            elsewhere = max((naive_prefix(mine, self.content(other)) for other in self.held if other != key), default=0)
            assert self.tree.own(key) == len(mine) - elsewhere

    @invariant()
    def cells_are_counted_one_by_one(self) -> None:
        cells = {key: {cell for _, cell in held} for key, held in self.held.items()}
        for some in (range(6), range(0, 6, 2), range(5, 2, -1)):
            assert self.tree.cells(some) == len(set().union(*(cells.get(key, set()) for key in some)))
        for key in range(6):
            others = (other_cells for other, other_cells in cells.items() if other != key)
            assert self.tree.own_cells(key) == len(cells.get(key, set()).difference(*others))

    @invariant()
    def the_shape_follows_the_rules(self) -> None:
        seen = []
        for node in nodes(self.tree):
            assert node.edge or node.parent is None, "an empty node"
            assert len(node.children) != 1, "a border where nothing parts"
            assert all(child.edge[0] == first for first, child in node.children.items())
            assert all(child.parent is node and child.start == node.end for child in node.children.values())
            assert all(holder.node is node for holder in node.ends)
            assert all(node.start < holder.length <= node.end for holder in node.ends)
            if not node.children:
                assert node.end == max((holder.length for holder in node.ends), default=0), "tokens nobody holds"
            seen += [holder.key for holder in node.ends]
        assert sorted(seen) == sorted(self.held)


TreeLife.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestTreeLife = TreeLife.TestCase


@given(sequences=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=12), max_size=12), prompt=texts)
def test_the_order_in_which_sequences_come_does_not_matter(sequences: list[list[int]], prompt: list[int]) -> None:
    forwards, backwards = tree_of(*sequences), tree_of(*reversed(sequences))
    last = len(sequences) - 1
    assert edges(forwards) == edges(backwards)
    assert forwards.match(prompt) == {last - key: length for key, length in backwards.match(prompt).items()}
