"""What is computed ahead of an answer that repeats itself: fewer steps, the same answer, and nobody pays for it."""

import pytest

from ds4trio.cache import MemoryKind
from ds4trio.engine.base import EngineError
from ds4trio.engine.batching import Extension, Outcome
from tests.engine.batching.bench import ECHO, Bench, Client, Writer, talkative, tokens_of
from tests.engine.batching.fake_memory import KINDS, History
from tests.engine.batching.kinds import that_roll_back, whole_only
from tests.engine.batching.machines import compute_bound, gpu

MOST = 200


def echoing(count: int, *, seed: int = 0) -> list[int]:
    """A prompt that the answer repeats, in pieces."""
    return [ECHO, *tokens_of(seed, count)]


def answered(bench: Bench, prompt: list[int], *, most: int = MOST) -> Client:
    """A client whose answer is complete and right."""
    client = bench.ask(prompt, most=most)
    bench.run()
    client.check()
    return client


@that_roll_back
@pytest.mark.parametrize("seed", range(8))
def test_an_answer_that_repeats_its_prompt_takes_fewer_steps_and_is_the_same(kind: MemoryKind, seed: int) -> None:
    bench, plain = Bench(kind, machine=gpu, draft=True), Bench(kind, machine=gpu)
    client, alone = answered(bench, echoing(300, seed=seed)), answered(plain, echoing(300, seed=seed))
    assert client.text == alone.text
    assert client.finished is not None
    assert client.finished.accepted <= client.finished.drafted
    assert bench.computed - plain.computed == client.finished.drafted - client.finished.accepted
    assert len(bench.batches) <= len(plain.batches) - client.finished.accepted // MOST
    assert client.writer.rows == alone.writer.rows, "no token is drawn twice"


@that_roll_back
def test_an_answer_that_repeats_itself_takes_half_the_steps(kind: MemoryKind) -> None:
    steps = drawn = 0
    for seed in range(20):
        bench = Bench(kind, machine=gpu, draft=True)
        client = answered(bench, echoing(300, seed=seed))
        steps += sum(any(span.rows for span in batch.spans) for batch in bench.batches)
        drawn += client.writer.rows
    assert steps < 0.55 * drawn


@whole_only
def test_where_the_memory_cannot_roll_back_nothing_is_guessed(kind: MemoryKind) -> None:
    client = answered(Bench(kind, machine=gpu, draft=True), echoing(300))
    assert client.finished is not None
    assert client.finished.drafted == 0


def test_where_each_token_has_its_price_nothing_is_computed_ahead() -> None:
    client = answered(Bench(KINDS["full"], machine=compute_bound, draft=True), echoing(300))
    assert client.finished is not None
    assert client.finished.drafted == 0


@that_roll_back
def test_what_was_guessed_wrong_is_not_left_in_the_memory(kind: MemoryKind) -> None:
    bench = Bench(kind, machine=gpu, draft=True)
    drafted = 0
    client = bench.ask(echoing(300), most=MOST)
    while bench.batcher.sequences:
        bench.step()
        if (slot := client.request.slot) is not None:
            assert bench.memory.history(slot.id) == client.request.tokens[: client.request.computed]
        drafted = client.request.drafted
    assert drafted > client.request.accepted
    # The next turn finds all of it, and nothing else.
    tokens = client.request.tokens
    assert answered(bench, tokens, most=1).cached == len(tokens) - 1


@that_roll_back
def test_who_leaves_within_a_batch_with_guesses_leaves_what_is_certain(kind: MemoryKind) -> None:
    bench = Bench(kind, machine=gpu, draft=True)
    leaver, stays = bench.ask(echoing(300), most=MOST), bench.ask(echoing(200, seed=1), most=MOST)
    bench.until(lambda: leaver.request.drafted and stays.request.drafted)
    bench.memory.cancel_within = leaver.request
    bench.step()
    assert bench.batches[-1].outcome is Outcome.ABORTED
    bench.run()
    stays.check()
    leaver.check()
    assert leaver.released


class Stumbling(Writer):
    """Fails in the middle of what was guessed."""

    def extend(self, row: History) -> Extension:
        extension = super().extend(row)
        if self.rows == 40:
            raise EngineError("no token can follow")
        return extension


@that_roll_back
@pytest.mark.parametrize("seed", range(8))
def test_a_writer_that_fails_in_the_middle_of_a_guess_ends_its_own_request(kind: MemoryKind, seed: int) -> None:
    bench = Bench(kind, machine=gpu, draft=True)
    unlucky, other = bench.ask(echoing(300, seed=seed), most=MOST), bench.ask(echoing(200, seed=1), most=MOST)
    unlucky.writer = Stumbling(MOST)
    bench.run()
    assert unlucky.finished or str(unlucky.error) == "no token can follow"
    assert unlucky.released
    other.check()


def test_a_guess_takes_no_cells_from_anybody() -> None:
    prompt = echoing(300)
    plain = Bench(KINDS["full"], machine=gpu)
    length = len(prompt) + answered(plain, prompt).writer.sampled
    bench = Bench(KINDS["full"], cells=length + 100, machine=gpu, draft=True)
    idle = bench.ask(tokens_of(5, 99), most=1)
    bench.run()
    client = answered(bench, prompt)
    assert client.request.accepted > 0
    assert Outcome.NO_CELLS in [batch.outcome for batch in bench.batches]
    assert answered(bench, idle.prompt, most=1).cached == 98, "what was idle is still there"


def test_two_whose_guesses_find_no_cells_are_not_preempted_for_them() -> None:
    bench = Bench(KINDS["full"], cells=580, machine=gpu, draft=True)
    clients = [bench.ask(echoing(200, seed=seed), most=80) for seed in (3, 4)]
    while bench.batcher.sequences:
        bench.step()
        assert not any(client.request.preempted for client in clients)
    for client in clients:
        client.check()


def test_an_answer_beside_one_that_repeats_itself_is_not_slowed_down() -> None:
    # On this machine ten tokens more make a step a third longer, and the one who guesses three times as fast.
    def machine(tokens: int, work: float) -> float:
        return 0.01 + 0.0003 * tokens

    bench = Bench(KINDS["full"], machine=machine, draft=True)
    copying, other = bench.ask(echoing(300), most=MOST), bench.ask(talkative(1, 30, 100), most=100)
    bench.until(lambda: other.writer.sampled > 5)
    while not (copying.finished or other.finished):
        bench.step()
        if any(span.rows > 1 for span in bench.batches[-1].spans):
            assert bench.batches[-1].seconds < machine(2, 0) / 0.85
    bench.run()
    assert copying.request.accepted > 0
    copying.check()
    other.check()
