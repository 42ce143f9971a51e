"""When the KV is full: who waits gets its turn, and waiting costs nobody what he has."""

import pytest

from ds4trio.cache import MemoryKind
from ds4trio.engine.base import EngineError
from ds4trio.engine.batching import Extension
from tests.engine.batching.bench import Bench, Client, Writer, tokens_of
from tests.engine.batching.fake_memory import KINDS, History
from tests.engine.batching.kinds import every_kind, whole_only, with_checkpoints

pytestmark = pytest.mark.usefixtures("long_answers")


def preempted(bench: Bench, client: Client) -> Client:
    bench.until(lambda: client.request.preempted, steps=5000)
    return client


def crowded(bench: Bench, shared: list[int]) -> Client:
    """Three long answers over one long prefix, of which the youngest has to wait."""
    three: list[Client] = []
    for seed in range(3):
        three.append(bench.ask([*shared, *tokens_of(2 + seed, 50)], most=900 - 60 * seed))
        bench.until(lambda: three[-1].writer.sampled > 1)
    return preempted(bench, three[-1])


def test_who_waits_for_cells_is_not_passed_by_newcomers_for_ever() -> None:
    shared = tokens_of(1, 2000)
    bench = Bench(KINDS["full"], cells=4000, slots=10)
    waiting = crowded(bench, shared)
    since, newcomers = bench.memory.now, 0
    live = [client for client in bench.clients if client is not waiting]
    while waiting.finished is None:
        bench.step()
        live = [client for client in live if not client.released]
        while len(live) < 2:
            newcomers += 1
            live.append(bench.ask([*shared, *tokens_of(100 + newcomers, 50)], most=100))
        assert bench.memory.now - since < 60
    waiting.check()


@every_kind
def test_a_state_that_waits_for_cells_takes_no_idle_prefix_before_it_fits(kind: MemoryKind) -> None:
    bench = Bench(kind, cells=4000)
    short = bench.ask(tokens_of(10, 300), most=120)
    bench.until(lambda: short.writer.sampled)
    long = bench.ask(tokens_of(11, 3300), most=200)
    waiting = preempted(bench, bench.ask(tokens_of(12, 900), most=60))
    bench.until(lambda: short.released)
    assert long.finished is None
    bench.step()
    assert waiting.request.slot is None
    assert bench.batcher._slots.match(short.prompt).reusable
    bench.run()
    for client in bench.clients:
        client.check()


@with_checkpoints
def test_who_was_preempted_has_its_checkpoints_again(kind: MemoryKind) -> None:
    bench = Bench(kind, cells=4000)
    first = bench.ask(tokens_of(10, 1500), most=400, turns=(1000,))
    bench.until(lambda: first.writer.sampled)
    system = tokens_of(5, 1000)
    second = preempted(bench, bench.ask([*system, *tokens_of(11, 900)], most=300, turns=(1000,)))
    bench.run()
    edited = bench.ask([*system, *tokens_of(6, 50)], turns=(1000,))
    bench.run()
    assert edited.cached == 1000
    for client in (first, second, edited):
        client.check()


@whole_only
def test_who_leaves_in_the_first_chunk_after_its_state_came_back_leaves_that_state(kind: MemoryKind) -> None:
    bench = Bench(kind, cells=4000)
    first = bench.ask(tokens_of(10, 1500), most=200)
    bench.until(lambda: first.writer.sampled)
    second = preempted(bench, bench.ask(tokens_of(1, 3000)))
    assert second.request.saved is not None
    position = second.request.saved.position
    bench.until(lambda: first.released)
    bench.memory.cancel_within = second.request
    bench.until(lambda: second.released)
    retry = bench.ask(second.prompt)
    bench.run()
    assert retry.cached >= position > 1000
    retry.check()


def test_a_state_for_which_there_is_no_memory_is_not_even_made() -> None:
    bench = Bench(KINDS["full"], cells=480, state_bytes=100)
    bench.ask(tokens_of(10, 250), most=60)
    waiting = preempted(bench, bench.ask(tokens_of(11, 300), most=20))
    assert (waiting.request.saved, bench.memory.saves) == (None, 0)
    bench.run()
    waiting.check()


# --- waiting for another one's prefix ---------------------------------------------------------------------------------


def test_nobody_waits_for_a_prefix_that_does_not_get_on() -> None:
    bench = Bench(KINDS["full"], cells=60_000)
    bench.ask(tokens_of(1, 8000), most=1)
    system = tokens_of(2, 200)
    leader = bench.ask([*system, *tokens_of(3, 20_000)], most=1)
    bench.until(lambda: leader.request.slot)
    title, since = bench.ask([*system, *tokens_of(4, 100)], most=1), bench.memory.now
    bench.until(lambda: title.finished)
    assert leader.request.computed == 0, "it would have been the one to wait for"
    assert bench.memory.now - since < 5
    title.check()


# --- one request's fault ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [EngineError("no such grammar"), ZeroDivisionError("what it was asked")])
def test_whatever_one_answer_raises_ends_that_answer_and_no_other(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Writer:
        raise error

    class Failing(Writer):
        def extend(self, row: History) -> Extension:
            raise error

    bench = Bench(KINDS["full"])
    beginning, going_on, other = (bench.ask(tokens_of(seed, 100)) for seed in range(3))
    beginning.request.begin = fail
    going_on.writer = Failing(4)
    bench.run()
    other.check()
    for client in (beginning, going_on):
        assert client.released
        assert client.error is not None
        assert "asked" not in str(client.error)
    assert "asked" not in caplog.text
    assert not any(slot.busy for slot in bench.batcher._slots.slots)
