"""Batch composition as arithmetic: what a batch may hold, and that nobody waits for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.engine.scheduler import MIXED_CHUNK, compose

# The bounds of the settings: at most 64 parallel requests, and a batch of at least twice as many tokens.
ubatches = st.integers(128, 8192)
lefts = st.lists(st.one_of(st.just(1), st.integers(2, 200), st.integers(2, 100_000)), max_size=64)


def steps_until_everyone_was_served(left: list[int], *, ubatch: int, most: int) -> int:
    """How many steps pass until each sequence had a token; who decodes goes on decoding."""
    left, served = list(left), [False] * len(left)
    for step in range(1, most + 1):
        for index, count in enumerate(compose(left, ubatch=ubatch)):
            served[index] = served[index] or count > 0
            left[index] = max(1, left[index] - count)
        if all(served):
            return step
    pytest.fail(f"after {most} steps {served.count(False)} of {len(left)} sequences had no token at all")


# --- mixed batches ----------------------------------------------------------------------------------------------------


@given(left=lefts, ubatch=ubatches, mixed=st.booleans(), chunk_turn=st.booleans())
def test_a_batch_takes_no_more_than_there_is_and_no_more_than_a_ubatch(
    left: list[int], ubatch: int, mixed: bool, chunk_turn: bool
) -> None:
    take = compose(left, ubatch=ubatch, mixed=mixed, chunk_turn=chunk_turn)
    assert len(take) == len(left)
    assert all(0 <= count <= tokens for count, tokens in zip(take, left, strict=True))
    assert sum(take) <= ubatch


@given(left=lefts.filter(bool), ubatch=ubatches, mixed=st.booleans(), chunk_turn=st.booleans())
def test_a_batch_is_never_empty_while_there_is_something_to_compute(
    left: list[int], ubatch: int, mixed: bool, chunk_turn: bool
) -> None:
    assert sum(compose(left, ubatch=ubatch, mixed=mixed, chunk_turn=chunk_turn)) > 0


@given(left=lefts, ubatch=ubatches)
def test_every_sequence_gets_a_token_in_each_batch_that_has_room_for_all(left: list[int], ubatch: int) -> None:
    assert all(compose(left, ubatch=ubatch))


@given(left=lefts, ubatch=ubatches)
def test_beside_a_decoding_sequence_all_prompts_together_take_a_small_share(left: list[int], ubatch: int) -> None:
    take = compose([1, *left], ubatch=ubatch)
    assert take[0] == 1
    assert sum(count for count, tokens in zip(take[1:], left, strict=True) if tokens > 1) <= MIXED_CHUNK


@given(tokens=st.integers(2, 100_000), ubatch=ubatches, mixed=st.booleans(), chunk_turn=st.booleans())
def test_a_prompt_that_is_alone_takes_a_full_ubatch(tokens: int, ubatch: int, mixed: bool, chunk_turn: bool) -> None:
    assert compose([tokens], ubatch=ubatch, mixed=mixed, chunk_turn=chunk_turn) == [min(tokens, ubatch)]


@given(left=st.lists(st.integers(2, 100_000), min_size=1, max_size=32), ubatch=ubatches)
def test_prompts_among_themselves_fill_the_ubatch(left: list[int], ubatch: int) -> None:
    assert sum(compose(left, ubatch=ubatch)) == min(sum(left), ubatch)


@given(left=st.lists(st.integers(2, 100_000), min_size=2, max_size=32), ubatch=ubatches)
def test_prompts_share_a_step_evenly(left: list[int], ubatch: int) -> None:
    take = compose(left, ubatch=ubatch)
    unfinished = [count for count, tokens in zip(take, left, strict=True) if count < tokens]
    if unfinished:
        assert max(take) <= min(unfinished) + 1


@given(left=st.permutations([1, 1, 5, 40, 3000]), ubatch=ubatches)
def test_shares_do_not_depend_on_the_order_of_the_sequences(left: list[int], ubatch: int) -> None:
    shares = sorted(zip(left, compose(left, ubatch=ubatch), strict=True))
    expected = sorted(zip([1, 1, 5, 40, 3000], compose([1, 1, 5, 40, 3000], ubatch=ubatch), strict=True))
    assert shares == expected


def test_a_short_prompt_is_done_in_one_step_beside_a_long_one() -> None:
    assert compose([100_000, 30], ubatch=512) == [482, 30]
    assert compose([1, 100_000, 30], ubatch=512) == [1, 34, 30]


@pytest.mark.parametrize(
    ("left", "ubatch"),
    [
        pytest.param([1] * 63 + [1000], 128, id="all decode but one"),
        pytest.param([1] * 62 + [20, 1000], 128, id="all decode but two"),
        pytest.param([1] * 64, 128, id="all decode"),
        pytest.param([1000] * 64, 128, id="all prefill"),
        pytest.param([1, *[1000] * 63], 128, id="one decodes, and 63 prompts"),
    ],
)
def test_no_sequence_starves_within_the_bounds_of_the_settings(left: list[int], ubatch: int) -> None:
    assert steps_until_everyone_was_served(left, ubatch=ubatch, most=8) == 1


# --- memories that cannot roll back -----------------------------------------------------------------------------------


@given(left=lefts, ubatch=ubatches, chunk_turn=st.booleans())
def test_unmixed_a_prompt_chunk_travels_alone(left: list[int], ubatch: int, chunk_turn: bool) -> None:
    take = compose(left, ubatch=ubatch, mixed=False, chunk_turn=chunk_turn)
    chunks = [index for index, count in enumerate(take) if count and left[index] > 1]
    if chunks:
        (chunk,) = chunks
        assert take == [min(left[chunk], ubatch) if index == chunk else 0 for index in range(len(left))]


@given(
    decoding=st.integers(1, 16),
    prompts=st.lists(st.integers(2, 100_000), min_size=1, max_size=16),
    ubatch=ubatches,
)
def test_unmixed_chunks_and_decoding_sequences_take_turns(decoding: int, prompts: list[int], ubatch: int) -> None:
    left = [1] * decoding + prompts
    chunk = compose(left, ubatch=ubatch, mixed=False, chunk_turn=True)
    assert chunk[:decoding] == [0] * decoding
    assert any(chunk[decoding:])
    decode = compose(left, ubatch=ubatch, mixed=False, chunk_turn=False)
    assert decode == [1] * decoding + [0] * len(prompts)


@given(prompts=st.lists(st.integers(2, 1000), min_size=1, max_size=8), ubatch=ubatches)
def test_unmixed_a_turn_that_nobody_needs_goes_to_the_others(prompts: list[int], ubatch: int) -> None:
    assert any(compose(prompts, ubatch=ubatch, mixed=False, chunk_turn=False))
    assert compose([1, 1], ubatch=ubatch, mixed=False, chunk_turn=True) == [1, 1]


@given(prompts=st.lists(st.integers(2, 500), min_size=1, max_size=8), ubatch=st.integers(128, 256))
def test_unmixed_every_prompt_is_computed_in_the_end(prompts: list[int], ubatch: int) -> None:
    left = [1, *prompts]
    for step in range(2 * sum(-(-tokens // ubatch) for tokens in prompts)):
        take = compose(left, ubatch=ubatch, mixed=False, chunk_turn=step % 2 == 0)
        left = [max(1, tokens - count) for tokens, count in zip(left, take, strict=True)]
    assert left == [1] * len(left)
