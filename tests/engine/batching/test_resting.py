"""Conversations that rest: out of the cells when others compute, back when they are asked for, and never wrong."""

import pytest

from ds4trio.cache import MemoryKind
from ds4trio.engine.batching.blocks import BLOCK
from tests.engine.batching.bench import Bench, Client, answer, talkative, tokens_of
from tests.engine.batching.fake_memory import KINDS

ROOM = 2**30


def a_bench(*, cells: int = 4000, rest_bytes: int = ROOM) -> Bench:
    return Bench(KINDS["full"], cells=cells, rest_bytes=rest_bytes)


def answered(bench: Bench, prompt: list[int], *, most: int = 9) -> Client:
    client = bench.ask(prompt, most=most)
    bench.run()
    client.check()
    return client


def test_what_rests_leaves_the_cells_when_another_one_computes() -> None:
    bench = a_bench()
    answered(bench, tokens_of(0, 700))
    used = bench.memory.used
    other = answered(bench, talkative(1, 300, 40), most=40)
    assert used >= 700
    assert bench.memory.used <= 300 + other.writer.sampled


def test_it_stays_where_it_is_while_nobody_computes() -> None:
    bench = a_bench()
    first = answered(bench, tokens_of(0, 700))
    again = answered(bench, [*first.prompt, *answer(first.prompt, first.most)[0], *tokens_of(1, 20)])
    assert bench.memory.ranges == 0
    assert again.cached >= 700


def test_it_comes_back_whole_and_goes_on() -> None:
    bench = a_bench()
    first = answered(bench, tokens_of(0, 700))
    answered(bench, talkative(1, 300, 40), most=40)
    said = [*first.prompt, *answer(first.prompt, first.most)[0]]
    before = bench.computed
    again = answered(bench, [*said, *tokens_of(2, 20)])
    # The token that was sampled last is never computed.
    assert again.cached == len(said) - 1
    assert bench.computed - before <= 21 + again.writer.sampled


def test_an_edited_conversation_comes_back_up_to_the_edit() -> None:
    bench = a_bench()
    first = answered(bench, tokens_of(0, 700))
    answered(bench, talkative(1, 300, 40), most=40)
    assert answered(bench, [*first.prompt[:600], *tokens_of(2, 50)]).cached == 600


def test_conversations_with_a_common_beginning_take_its_room_once() -> None:
    bench = a_bench()
    for seed in (1, 2, 3):
        answered(bench, [*tokens_of(0, 4 * BLOCK), *tokens_of(seed, 100)], most=1)
    for seed in (5, 6):
        answered(bench, talkative(seed, 900, 40), most=40)
    store = bench.batcher._resting.store
    whole = a_bench()
    answered(whole, [*tokens_of(0, 4 * BLOCK), *tokens_of(1, 100)], most=1)
    for seed in (5, 6):
        answered(whole, talkative(seed, 900, 40), most=40)
    assert store.size < 1.5 * whole.batcher._resting.store.size


def test_a_conversation_that_goes_on_is_copied_once() -> None:
    bench = a_bench(cells=20_000)
    said = tokens_of(0, 1000)
    for turn in range(6):
        client = answered(bench, said)
        answered(bench, talkative(100 + turn, 300, 40), most=40)
        said = [*said, *answer(said, client.most)[0], *tokens_of(1 + turn, 100)]
    blocks = len(said) // BLOCK + 1
    assert bench.memory.ranges < blocks + 6 * 2 + 6 * 3, "its own, its ends, and those of the others"


def test_where_there_is_no_room_the_least_valuable_goes() -> None:
    one = a_bench()
    answered(one, tokens_of(0, 700))
    answered(one, talkative(9, 300, 40), most=40)
    size = one.batcher._resting.store.size
    bench = a_bench(cells=20_000, rest_bytes=2 * size)
    for seed in range(6):
        answered(bench, tokens_of(seed, 700))
        answered(bench, talkative(20 + seed, 300, 40), most=40)
        assert bench.batcher._resting.store.size <= 2 * size


def test_without_room_nothing_moves() -> None:
    bench = a_bench(rest_bytes=0)
    answered(bench, tokens_of(0, 700))
    answered(bench, talkative(1, 300, 40), most=40)
    assert bench.memory.ranges == 0
    assert bench.memory.used >= 1000


def test_who_leaves_while_its_conversation_comes_back_leaves_what_has_come() -> None:
    bench = a_bench()
    first = answered(bench, tokens_of(0, 1500))
    answered(bench, talkative(1, 300, 40), most=40)
    leaver = bench.ask(first.prompt)
    bench.until(lambda: leaver.request.loading is not None and leaver.request.computed >= BLOCK)
    leaver.request.cancelled = True
    bench.run()
    assert leaver.released
    assert answered(bench, first.prompt).cached == len(first.prompt) - 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.window or kind.whole_only])
def test_where_a_range_is_not_all_that_there_was_nothing_moves(kind: MemoryKind) -> None:
    bench = Bench(kind, rest_bytes=ROOM)
    answered(bench, tokens_of(0, 700))
    answered(bench, talkative(1, 300, 40), most=40)
    assert bench.memory.ranges == 0


def test_what_was_copied_in_a_quiet_moment_leaves_at_once() -> None:
    bench = a_bench()
    first = answered(bench, tokens_of(0, 700))
    while bench.batcher.tidy():
        pass
    copies, before = bench.memory.ranges, bench.memory.used
    assert copies >= 700 // BLOCK
    assert before >= 700, "nobody computes: it stays"
    other = bench.ask(talkative(1, 300, 40), most=40)
    bench.step()
    assert bench.memory.used <= 300
    assert bench.memory.ranges == copies, "nothing is copied while somebody waits"
    bench.run()
    other.check()
    said = [*first.prompt, *answer(first.prompt, first.most)[0]]
    assert answered(bench, [*said, *tokens_of(2, 20)]).cached == len(said) - 1


def test_what_has_no_room_elsewhere_stays_in_its_cells() -> None:
    bench = a_bench(rest_bytes=1)
    first = answered(bench, tokens_of(0, 700))
    while bench.batcher.tidy():
        pass
    answered(bench, talkative(1, 300, 40), most=40)
    said = [*first.prompt, *answer(first.prompt, first.most)[0]]
    assert answered(bench, [*said, *tokens_of(2, 20)]).cached == len(said) - 1
    assert bench.batcher._resting.store.size == 0
