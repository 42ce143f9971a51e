"""The index against the plainest way to say it: what matches a prompt, what goes first, how uses count."""

from array import array
from dataclasses import replace
from math import isclose

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ds4trio.cache.disk import Block, block_id, root_id
from ds4trio.cache.disk.block import TOKEN
from ds4trio.cache.disk.index import HALF_LIFE, Index, believed, hits, rank_after_hit
from tests.cache.disk.blocks import blocks_of
from tests.cache.naive import naive_prefix

ROOT = root_id(b"model")
TOKENS = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=12)


def sized(block: Block) -> Block:
    return replace(block, size=100)


def state_of(tokens: list[int]) -> Block:
    own = array(TOKEN, tokens)
    return Block(id=block_id(ROOT, own, whole=True), parent=ROOT, start=0, tokens=own, whole=True, seconds=1, size=100)


class Blocks(RuleBasedStateMachine):
    """Blocks come and go in any order; the model is a dictionary of all that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index(ROOT)
        self.there: dict[bytes, Block] = {}
        self.texts: dict[bytes, list[int]] = {}
        """For each block ever seen, the tokens from 0 to its end."""

    @rule(tokens=TOKENS, size=st.sampled_from([3, 4]), rank=st.integers(0, 5))
    def add(self, tokens: list[int], size: int, rank: int) -> None:
        block = sized(blocks_of(ROOT, tokens, size)[-1])
        self.put(block, tokens, rank)

    @rule(tokens=TOKENS, rank=st.integers(0, 5))
    def add_state(self, tokens: list[int], rank: int) -> None:
        self.put(state_of(tokens), tokens, rank)

    def put(self, block: Block, tokens: list[int], rank: int) -> None:
        self.index.add(block, rank=rank * HALF_LIFE, used=rank)
        self.there[block.id], self.texts[block.id] = block, tokens

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        if self.texts:
            id = data.draw(st.sampled_from(list(self.texts)))
            self.index.drop(id)
            self.there.pop(id, None)

    @rule(prompt=st.lists(st.sampled_from([1, 2]), max_size=14))
    def match(self, prompt: list[int]) -> None:
        match = self.index.match(array(TOKEN, prompt))
        assert match.length == max((self.usable(block, prompt) for block in self.there.values()), default=0)
        if match.length:
            assert match.length == self.usable(match.blocks[-1], prompt)
            assert match.blocks == tuple(self.chain(match.blocks[-1]))
        else:
            assert match.blocks == ()

    def usable(self, block: Block, prompt: list[int]) -> int:
        same = naive_prefix(self.texts[block.id], prompt)
        if block.whole:
            return same if same == block.end else 0
        # In part it is of use only from its own tokens on, and only if all before it is there.
        return same if same > block.start and self.chain(block)[0].start == 0 else 0

    def chain(self, block: Block) -> list[Block]:
        blocks = [block]
        while blocks[0].parent in self.there:
            blocks.insert(0, self.there[blocks[0].parent])
        return blocks

    @rule(data=st.data())
    def least(self, data: st.DataObject) -> None:
        leaves = [block for block in self.there.values() if not any(b.parent == block.id for b in self.there.values())]
        keep = data.draw(st.sets(st.sampled_from([block.id for block in leaves]))) if leaves else set()
        free = [block for block in leaves if block.id not in keep]
        offer = self.index.least(keep=keep)
        assert (offer is None) == (not free)
        if offer is None:
            return
        worth, block = offer
        assert block in free
        if worth == float("-inf"):
            assert self.chain(block)[0].parent != ROOT
        else:
            assert worth == min(self.worth(block) for block in free)
            lost = [block for block in leaves if self.chain(block)[0].parent != ROOT]
            assert not lost or keep, "what can never be used goes first"

    def worth(self, block: Block) -> float:
        entry = self.index.get(block.id)
        assert entry is not None
        return entry.worth

    @invariant()
    def counts(self) -> None:
        assert set(self.index) == set(self.there)
        assert self.index.size == 100 * len(self.there)


TestBlocks = Blocks.TestCase


def test_a_block_goes_on_only_where_it_begins() -> None:
    index = Index(ROOT)
    first, second = (sized(block) for block in blocks_of(ROOT, range(8)))
    index.add(first, rank=0, used=0)
    index.add(replace(second, start=5), rank=0, used=0)
    assert index.match(array(TOKEN, range(8))).length == 4


@given(uses=st.lists(st.floats(0, 10 * HALF_LIFE), min_size=1, max_size=20), later=st.floats(0, 10 * HALF_LIFE))
def test_a_rank_counts_uses_that_halve(uses: list[float], later: float) -> None:
    uses.sort()
    rank = uses[0]
    for now in uses[1:]:
        rank = rank_after_hit(rank, now)
    now = uses[-1] + later
    assert isclose(hits(rank, now), sum(0.5 ** ((now - used) / HALF_LIFE) for used in uses), rel_tol=1e-6)


def test_a_rank_from_a_clock_that_was_wrong_is_bounded() -> None:
    assert hits(1e300, 0) == 1
    assert believed(1e300, 5) == 5
    assert believed(rank_after_hit(0, 5), 5) == rank_after_hit(0, 5)
    assert hits(-1e300, 0) == 0.0


def test_what_saves_least_time_per_byte_goes_first() -> None:
    index = Index(ROOT)
    cheap, dear, large = (state_of([n]) for n in range(3))
    for block, seconds, size in ((cheap, 1.0, 100), (dear, 3.0, 100), (large, 3.0, 400)):
        index.add(replace(block, seconds=seconds, size=size), rank=0, used=0)
    assert order(index) == [large.id, cheap.id, dear.id]


def test_uses_outweigh_size_and_age_outweighs_uses() -> None:
    index = Index(ROOT)
    used, fresh = state_of([1]), state_of([2])
    for block in (used, fresh):
        index.add(block, rank=0, used=0)
    index.hit(used.id, 0)
    assert order(index)[0] == fresh.id
    index.hit(fresh.id, 3 * HALF_LIFE)
    assert order(index)[0] == used.id


def test_a_use_of_a_block_is_one_of_those_before_it() -> None:
    index = Index(ROOT)
    shared, own = (sized(block) for block in blocks_of(ROOT, range(8)))
    other = sized(blocks_of(ROOT, range(4, 8))[0])
    for block in (shared, own, other):
        index.add(block, rank=0, used=0)
    index.hit(other.id, 0)
    index.hit(own.id, 1)
    index.hit(own.id, 1)
    index.drop(own.id)
    assert order(index) == [other.id, shared.id]


def order(index: Index) -> list[bytes]:
    entries = sorted(index.leaves, key=lambda entry: entry.worth)
    offer = index.least(keep=())
    assert offer is not None
    assert offer[1] is entries[0].block
    return [entry.block.id for entry in entries]
