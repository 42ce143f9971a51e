"""What rests in memory: found again, given up in the right order, never more than allowed."""

from hypothesis import given
from hypothesis import strategies as st

from ds4trio.cache import RamStore
from ds4trio.cache.disk import Block

SIZE = 100


def put(store: RamStore, tokens: list[int], *, length: int = 4, seconds: float = 1.0) -> list[Block]:
    """Keep a conversation in blocks of ``length``; those that were written."""
    parent, written = store.root, []
    for start in range(0, len(tokens), length):
        own = tokens[start : start + length]
        block = store.missing(parent, start, own)
        if block is None:
            parent = next(each.id for each in store.match(tokens).blocks if each.start == start)
            continue
        if not store.write(block, bytearray(SIZE), seconds=seconds):
            break
        written.append(block)
        parent = block.id
    return written


def a_store(blocks: int, times: list[float] | None = None) -> RamStore:
    times = [0.0] if times is None else times
    return RamStore(space_bytes=blocks * SIZE, clock=lambda: times[0])


def test_what_was_kept_is_found_and_read() -> None:
    store = a_store(10)
    blocks = put(store, [*range(10)])
    match = store.match([*range(9), 99])
    assert (match.length, [block.id for block in match.blocks]) == (9, [block.id for block in blocks])
    assert store.read(blocks[0]) == bytearray(SIZE)
    assert store.missing(store.root, 0, [0, 1, 2, 3]) is None


def test_a_longer_end_takes_the_place_of_a_shorter_one() -> None:
    store = a_store(10)
    put(store, [*range(6)])
    put(store, [*range(8)])
    assert store.size == 2 * SIZE


def test_a_beginning_that_is_shared_is_kept_once() -> None:
    store = a_store(10)
    put(store, [*range(8), 50])
    assert len(put(store, [*range(8), 60])) == 1


def test_the_one_that_rested_longest_goes_first_and_its_end_before_its_beginning() -> None:
    times = [0.0]
    store = a_store(4, times)
    put(store, [*range(8)])
    times[0] = 10.0
    put(store, [*range(100, 108)])
    times[0] = 20.0
    put(store, [*range(200, 204)])
    assert [store.match([*range(start, start + 8)]).length for start in (0, 100)] == [4, 8]


def test_what_is_being_read_stays() -> None:
    store = a_store(2)
    blocks = put(store, [*range(8)])
    store.pin(blocks)
    assert put(store, [*range(100, 108)]) == []
    store.unpin(blocks)
    assert len(put(store, [*range(100, 108)])) == 2


def test_what_is_too_large_is_not_taken() -> None:
    store = RamStore(space_bytes=SIZE - 1, clock=lambda: 0.0)
    assert put(store, [1, 2, 3, 4]) == []
    assert store.size == 0


@given(
    conversations=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=20), max_size=12), room=st.integers(1, 8)
)
def test_it_never_takes_more_than_it_may_and_never_finds_what_it_has_not(
    conversations: list[list[int]], room: int
) -> None:
    store = a_store(room)
    for tokens in conversations:
        put(store, tokens)
        assert store.size <= room * SIZE
        match = store.match(tokens)
        assert all(store.read(block) is not None for block in match.blocks)
        assert [token for block in match.blocks for token in block.tokens][: match.length] == tokens[: match.length]
