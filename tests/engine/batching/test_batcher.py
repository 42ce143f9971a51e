"""What the batcher promises, one promise at a time; `test_batcher_machine` keeps all of them at once."""

import pytest

from ds4trio.cache import MemoryKind
from ds4trio.engine.base import EngineError
from ds4trio.engine.batching import Extension, Outcome
from ds4trio.engine.batching.batcher import CHECKPOINT_EVERY, LAST_TURNS, borders
from tests.engine.batching.bench import STALL, Bench, Client, Writer, answer, talkative, tokens_of
from tests.engine.batching.fake_memory import KINDS, WINDOW, Batch, History
from tests.engine.batching.kinds import every_kind, that_roll_back, whole_only
from tests.engine.batching.machines import gpu, measured_cpu, slow_cpu


def outcomes(bench: Bench) -> list[Outcome]:
    return [batch.outcome for batch in bench.batches]


def decoding(bench: Bench, *prompts: list[int], most: int = 40) -> list[Client]:
    """Clients whose answers are being written."""
    clients = [bench.ask(prompt, most=most) for prompt in prompts]
    bench.until(lambda: all(client.writer.sampled for client in clients))
    return clients


def of(client: Client, batch: Batch) -> list[int]:
    """The client's tokens in a batch."""
    slot = client.request.slot
    return [] if slot is None else [*next((span.tokens for span in batch.spans if span.sequence_id == slot.id), [])]


# --- what goes into a step --------------------------------------------------------------------------------------------


@that_roll_back
def test_several_short_prompts_are_computed_in_one_step(kind: MemoryKind) -> None:
    bench = Bench(kind)
    stream = decoding(bench, talkative(0, 20, 40))[0]
    clients = [bench.ask(tokens_of(seed, 12), most=5) for seed in (1, 2, 3)]
    before = len(bench.batches)
    if kind.checkpoint is not None:
        bench.step()  # a checkpoint is due before the last token
    bench.step()
    assert len(bench.batches) == before + 1 + (kind.checkpoint is not None)
    assert len(bench.batches[-1].spans) == 4
    assert all(client.writer.rows for client in (stream, *clients))
    bench.run()
    for client in bench.clients:
        client.check()


@every_kind
def test_no_step_beside_a_stream_takes_longer_than_the_stall(kind: MemoryKind) -> None:
    bench = Bench(kind, machine=measured_cpu)
    decoding(bench, talkative(0, 20, 40))
    bench.ask(tokens_of(1, 900))
    before = len(bench.batches)
    bench.run()
    assert max(batch.seconds for batch in bench.batches[before:]) <= 1.25 * STALL


@every_kind
def test_a_long_prompt_gets_its_share_beside_short_ones_that_never_end(kind: MemoryKind) -> None:
    bench = Bench(kind, cells=20_000, machine=slow_cpu)
    alone = bench.ask(tokens_of(0, 1500))
    bench.run()
    assert alone.finished
    taken = bench.memory.now
    long, seed = bench.ask(tokens_of(1, 1500)), 2
    short = bench.ask(tokens_of(seed, 100))
    while not long.writer.sampled:
        if short.released:
            seed += 1
            short = bench.ask(tokens_of(seed, 100))
        bench.step()
    assert seed > 5, "and the short ones pass"
    assert bench.memory.now - taken < 2.5 * taken


@every_kind
def test_who_is_more_urgent_overtakes(kind: MemoryKind) -> None:
    bench = Bench(kind, machine=slow_cpu)
    normal, urgent = bench.ask(tokens_of(0, 400)), bench.ask(tokens_of(1, 400), priority=-1)
    bench.until(lambda: urgent.writer.sampled)
    assert normal.request.computed < 400
    bench.run()
    normal.check()
    urgent.check()


@every_kind
def test_who_finds_no_slot_waits_for_one(kind: MemoryKind) -> None:
    bench = Bench(kind, slots=2)
    clients = [bench.ask(tokens_of(seed, 50), most=9) for seed in range(5)]
    bench.step()
    assert [client.request.slot is not None for client in clients] == [True, True, False, False, False]
    bench.run()
    for client in clients:
        client.check()


# --- who leaves -------------------------------------------------------------------------------------------------------


@that_roll_back
def test_who_leaves_inside_a_mixed_batch_costs_the_others_one_step_that_is_repeated(kind: MemoryKind) -> None:
    bench = Bench(kind)
    others = decoding(bench, talkative(0, 20, 40), talkative(1, 30, 40))
    leaver = bench.ask(tokens_of(2, 500))
    bench.step()
    before, rows = len(bench.batches), [client.writer.rows for client in others]
    bench.memory.cancel_within = leaver.request
    bench.step()
    assert leaver.request.cancelled
    aborted = [of(client, bench.batches[-1]) for client in others]
    assert [client.writer.rows for client in others] == rows
    bench.step()
    assert outcomes(bench)[before:] == [Outcome.ABORTED, Outcome.DONE]
    assert [of(client, bench.batches[-1]) for client in others] == aborted
    assert len(bench.batches[-1].spans) == 2
    assert leaver.released
    bench.run()
    for client in others:
        client.check()


@whole_only
def test_who_leaves_inside_a_batch_of_several_does_not_spoil_it(kind: MemoryKind) -> None:
    bench = Bench(kind)
    stays, leaver = decoding(bench, talkative(0, 20, 40), talkative(1, 30, 40))
    before = len(bench.batches)
    bench.memory.cancel_within = leaver.request
    bench.step()
    bench.step()
    assert leaver.released
    assert outcomes(bench)[before:] == [Outcome.DONE, Outcome.DONE]
    bench.run()
    stays.check()


@every_kind
def test_who_leaves_just_before_a_batch_costs_nothing(kind: MemoryKind) -> None:
    bench = Bench(kind)
    stays, leaver = decoding(bench, talkative(0, 20, 40), talkative(1, 30, 40))
    now = bench.memory.now
    bench.memory.cancel_before = leaver.request
    bench.step()
    assert outcomes(bench)[-1] is Outcome.SKIPPED
    assert bench.memory.now == now
    bench.run()
    stays.check()
    assert leaver.released


@every_kind
def test_a_retry_goes_on_where_the_chunk_began_that_was_aborted(kind: MemoryKind) -> None:
    bench = Bench(kind)
    first = bench.ask(tokens_of(0, 900))
    for _ in range(4):
        bench.step()
    computed = first.request.computed
    assert computed > 100
    bench.memory.cancel_within = first.request
    bench.step()
    assert outcomes(bench)[-1] is Outcome.ABORTED
    again = bench.ask(tokens_of(0, 900))
    bench.run()
    assert again.cached == computed
    again.check()


@whole_only
def test_where_saving_is_dear_a_retry_goes_on_at_the_last_checkpoint(kind: MemoryKind) -> None:
    bench = Bench(kind, save_seconds=1.0)
    prompt = tokens_of(0, 900)
    first = bench.ask(prompt, turns=(300, 890))
    while first.request.computed < 500:
        bench.step()
    bench.memory.cancel_within = first.request
    bench.step()
    again = bench.ask(prompt, turns=(300, 890))
    bench.run()
    assert again.cached == 300
    again.check()


@every_kind
def test_closing_releases_everybody(kind: MemoryKind) -> None:
    bench = Bench(kind)
    clients = [*decoding(bench, talkative(0, 20, 40)), bench.ask(tokens_of(1, 900)), bench.ask(tokens_of(2, 9))]
    bench.batcher.close()
    bench.flush()
    assert all(client.released and client.error is None for client in clients)
    assert clients[0].writer.closed


# --- what fails -------------------------------------------------------------------------------------------------------


@every_kind
def test_a_batch_that_fails_ends_those_who_are_in_it_and_nobody_else(kind: MemoryKind) -> None:
    bench = Bench(kind, slots=2)
    unlucky = decoding(bench, talkative(0, 20, 40), talkative(1, 30, 40))
    waiting = bench.ask(unlucky[0].prompt, most=9)
    bench.memory.fail_next = True
    bench.step()
    assert all(client.error and client.released for client in unlucky)
    bench.run()
    waiting.check()


class Stumbling(Writer):
    """Writes three tokens and fails."""

    def extend(self, row: History) -> Extension:
        if self.sampled >= 3:
            raise EngineError("no token can follow")
        return super().extend(row)


@every_kind
def test_a_writer_that_fails_ends_its_own_request(kind: MemoryKind) -> None:
    bench = Bench(kind)
    unlucky, other = bench.ask(talkative(0, 20, 40), most=40), bench.ask(talkative(1, 30, 40), most=40)
    unlucky.writer = Stumbling(40)
    bench.run()
    assert str(unlucky.error) == "no token can follow"
    assert unlucky.released
    other.check()


# --- when cells run short ---------------------------------------------------------------------------------------------


@every_kind
def test_idle_prefixes_go_before_anybody_is_preempted(kind: MemoryKind) -> None:
    bench = Bench(kind, cells=600)
    idle = bench.ask(tokens_of(0, 290))
    bench.run()
    assert bench.memory.used >= 290
    pair = [bench.ask(talkative(seed, 200, 40), most=40) for seed in (1, 2)]
    while not all(client.finished for client in pair):
        bench.step()
        assert not any(sequence.preempted for sequence in bench.batcher.sequences)
    assert Outcome.NO_CELLS in outcomes(bench)
    for client in (idle, *pair):
        client.check()


@every_kind
def test_who_was_preempted_resumes_from_its_saved_state(kind: MemoryKind) -> None:
    # When the second asks for its next chunk there is no room. Once the first has ended there is.
    bench = Bench(kind, cells=480, machine=gpu)
    first = decoding(bench, talkative(0, 250, 60), most=60)[0]
    second = bench.ask(talkative(1, 300, 20), most=20)
    bench.until(lambda: second.request.preempted)
    assert second.request.saved is not None
    position, before = second.request.saved.position, bench.computed
    assert position >= 100
    left = 250 + 60 - 1 - first.request.computed
    bench.run()
    assert bench.computed - before == left + (300 + 20 - 1 - position)
    for client in (first, second):
        client.check()


@every_kind
def test_who_was_preempted_in_its_answer_samples_nothing_twice(kind: MemoryKind) -> None:
    bench = Bench(kind, cells=380)
    first, second = decoding(bench, talkative(0, 200, 60), talkative(1, 100, 60), most=60)
    bench.until(lambda: second.request.preempted)
    assert 0 < second.writer.sampled < 60
    bench.run()
    for client in (first, second):
        client.check()
        assert client.writer.rows == 60


@every_kind
def test_who_was_preempted_and_has_no_state_is_computed_again(kind: MemoryKind) -> None:
    bench = Bench(kind, cells=380, state_bytes=0)
    first, second = decoding(bench, talkative(0, 200, 60), talkative(1, 110, 60), most=60)
    bench.until(lambda: second.request.preempted)
    assert second.request.saved is None
    bench.run()
    for client in (first, second):
        client.check()


@every_kind
def test_the_least_urgent_is_preempted_and_of_those_the_youngest(kind: MemoryKind) -> None:
    bench = Bench(kind, cells=500, slots=6)
    patient = bench.ask(talkative(0, 100, 60), most=60, priority=1)
    clients = [patient, *(bench.ask(talkative(seed, 100, 60), most=60) for seed in (1, 2, 3))]
    expected = [patient, clients[3], clients[2]]
    order: list[Client] = []
    while bench.batcher.sequences and not any(client.finished for client in clients):
        bench.step()
        order += [client for client in clients if client.request.preempted and client not in order]
    assert order == expected[: len(order)]
    assert len(order) >= 1
    bench.run()
    for client in clients:
        client.check()


@every_kind
def test_a_request_that_cannot_fit_fails_and_leaves_room_for_others(kind: MemoryKind) -> None:
    bench = Bench(kind, cells=300)
    large = bench.ask(tokens_of(0, 400))
    bench.run()
    assert large.error is not None
    assert "no room" in str(large.error)
    assert large.released
    assert bench.memory.used == 0
    small = bench.ask(tokens_of(0, 280))
    bench.run()
    small.check()


# --- prefixes ---------------------------------------------------------------------------------------------------------


@every_kind
def test_of_two_equal_prompts_at_once_the_second_takes_what_the_first_computes(kind: MemoryKind) -> None:
    bench = Bench(kind)
    first, second = bench.ask(tokens_of(0, 600), turns=(590,)), bench.ask(tokens_of(0, 600), turns=(590,))
    bench.run()
    assert bench.computed <= 600 + 10 + first.writer.sampled + second.writer.sampled
    for client in (first, second):
        client.check()
    assert second.cached >= 590


@every_kind
def test_who_waits_for_a_prefix_waits_no_longer_than_for_that(kind: MemoryKind) -> None:
    bench = Bench(kind, machine=slow_cpu)
    system = tokens_of(0, 200)
    first = bench.ask([*system, *tokens_of(1, 1000)], turns=(200,))
    second = bench.ask([*system, *tokens_of(2, 50)], turns=(200,))
    bench.until(lambda: second.finished)
    assert first.writer.sampled == 0
    assert second.cached >= 200
    second.check()


@every_kind
def test_when_the_one_leaves_that_others_wait_for_they_go_on_themselves(kind: MemoryKind) -> None:
    bench = Bench(kind)
    leader, *followers = (bench.ask(tokens_of(0, 600), turns=(590,)) for _ in range(3))
    for _ in range(3):
        bench.step()
    computed = leader.request.computed
    assert 0 < computed < 590
    assert all(follower.request.slot is None for follower in followers)
    bench.memory.cancel_within = leader.request
    bench.run()
    # The first of them takes what the leader left, and the second waits for the first.
    assert followers[0].cached == computed
    assert followers[1].cached >= 590
    for follower in followers:
        follower.check()


@every_kind
def test_the_next_turn_keeps_what_the_last_one_computed(kind: MemoryKind) -> None:
    bench = Bench(kind)
    prompt, computed = tokens_of(0, 500), 0
    turns: tuple[int, ...] = (200, 490)
    for turn in range(4):
        client = bench.ask(prompt, most=10, turns=turns)
        bench.run()
        client.check()
        assert client.cached == computed
        computed = client.request.computed
        assert computed >= len(prompt)
        prompt = [*prompt, *answer(prompt, 10)[0], *tokens_of(10 + turn, 60)]
        turns = (*turns, len(prompt) - 60, len(prompt) - 5)


@every_kind
def test_an_edited_turn_keeps_what_is_before_it(kind: MemoryKind) -> None:
    bench = Bench(kind)
    system, question = tokens_of(0, 300), tokens_of(1, 200)
    bench.ask([*system, *question, *tokens_of(2, 150)], turns=(300, 500))
    bench.run()
    edited = bench.ask([*system, *question, *tokens_of(3, 150)], turns=(300, 500))
    bench.run()
    assert edited.cached == 500
    edited.check()


def test_copies_of_a_sliding_window_do_not_use_up_its_cells() -> None:
    bench = Bench(KINDS["sliding"], cells=4000, slots=6)
    system = tokens_of(0, 500)
    for seed in range(1, 12):
        bench.ask([*system, *tokens_of(seed, 2 * WINDOW)], turns=(500,))
        bench.run()
    assert set(outcomes(bench)) == {Outcome.DONE}
    assert [client.cached for client in bench.clients] == [0, *[500] * 10]
    for client in bench.clients:
        client.check()


def test_where_a_prompt_parts_from_what_is_cached_is_told_with_its_progress() -> None:
    bench = Bench(KINDS["full"])
    bench.ask(tokens_of(0, 300), turns=(200,))
    bench.run()
    other = bench.ask([*tokens_of(0, 100), *tokens_of(1, 200)], turns=(200,))
    bench.run()
    told = other.progress.divergence
    assert told is not None
    assert (told.position, told.reason) == (100, "another system prompt")
    assert told.lost >= 200


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoints_are_due_at_the_system_prompt_the_last_turns_and_now_and_then() -> None:
    turns = (*range(500, 9500, 1000), 9490)
    every = range(CHECKPOINT_EVERY, 9500, CHECKPOINT_EVERY)
    assert borders(9500, turns) == sorted({500, *turns[-LAST_TURNS:], *every})


def test_without_a_generation_prompt_a_checkpoint_is_due_before_the_last_token() -> None:
    assert borders(100, ()) == [99]
    assert borders(1, ()) == []
    assert borders(900, (300,)) == [300, 899]


@pytest.mark.parametrize("name", ["sliding", "hybrid", "deepseek4"])
def test_chunks_end_where_a_checkpoint_is_due_and_it_is_made(name: str) -> None:
    bench = Bench(KINDS[name], save_seconds=1.0)
    client = bench.ask(tokens_of(0, 700), turns=(77, 301, 695))
    bench.until(lambda: client.writer.sampled)
    assert client.request.slot is not None
    assert [checkpoint.position for checkpoint in client.request.slot.checkpoints] == [77, 301, 695]
    ends = {span.position + len(span.tokens) for batch in bench.done for span in batch.spans}
    assert {77, 301, 695} <= ends


@whole_only
def test_the_state_is_saved_after_each_chunk_where_that_is_cheap(kind: MemoryKind) -> None:
    for save_seconds, expected in ((0.0, True), (1.0, False)):
        bench = Bench(kind, save_seconds=save_seconds)
        bench.ask(tokens_of(0, 900), turns=(890,))
        bench.run()
        assert (bench.memory.saves > 3) == expected


def test_full_attention_needs_no_states() -> None:
    bench = Bench(KINDS["full"])
    bench.ask(tokens_of(0, 900), turns=(100, 890))
    bench.run()
    assert bench.memory.saves == 0


# --- what went wrong once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sliding", "hybrid", "deepseek4"])
def test_an_answer_that_is_computed_again_comes_past_a_border_one_token_at_a_time(name: str) -> None:
    # The prompt's last border is one token after the first chunk.
    bench = Bench(KINDS[name], cells=370, machine=gpu, state_bytes=0)
    first, second = decoding(bench, talkative(0, 200, 60), talkative(1, 130, 60), most=60)
    bench.until(lambda: second.request.preempted)
    assert second.writer.sampled
    bench.run()
    for client in (first, second):
        client.check()


@every_kind
def test_idle_prefixes_go_before_a_saved_state_does(kind: MemoryKind) -> None:
    bench = Bench(kind, cells=380)
    first, second = decoding(bench, talkative(0, 200, 60), talkative(1, 100, 60), most=60)
    bench.until(lambda: second.request.preempted)
    assert second.request.saved is not None
    position, before = second.request.saved.position, bench.computed
    left = 200 + 60 - 1 - first.request.computed
    bench.run()
    assert bench.computed - before == left + (100 + 60 - 1 - position)


@every_kind
def test_a_saved_state_waits_until_it_fits(kind: MemoryKind) -> None:
    bench = Bench(kind, cells=385)
    brief, long, saved = decoding(bench, talkative(0, 5, 60), talkative(1, 200, 60), talkative(2, 150, 60), most=60)
    bench.until(lambda: saved.request.preempted)
    bench.until(lambda: long.writer.sampled > 50)
    brief.request.cancelled = True  # too few cells come free
    bench.step()
    assert brief.released
    assert saved.request.saved is not None
    position = saved.request.saved.position
    bench.run()
    assert saved.request.kept == position
    for client in (long, saved):
        client.check()


def test_what_is_left_of_an_idle_sequence_is_no_prefix_where_its_window_is_gone() -> None:
    bench = Bench(KINDS["sliding"], cells=900, slots=8, ubatch=120, machine=gpu)
    idle = bench.ask(tokens_of(0, 600), turns=(590,))
    bench.run()
    # Two chunks take cells that left the window of the idle sequence, for the third it is cut shortly behind them.
    bench.ask(tokens_of(1, 400), turns=(390,))
    bench.run()
    again = bench.ask([*idle.prompt[:400], *tokens_of(2, 20)])
    bench.run()
    again.check()


@pytest.mark.parametrize("name", ["sliding", "hybrid", "deepseek4"])
def test_a_prefix_that_cannot_be_had_is_no_reason_not_to_wait(name: str) -> None:
    bench = Bench(KINDS[name])
    bench.ask(tokens_of(0, 700), turns=(690,))
    bench.run()
    before = bench.computed
    # No checkpoint of the first is before the place where these part from it.
    prompt = [*tokens_of(0, 300), *tokens_of(1, 40)]
    pair = [bench.ask(prompt, turns=(150, 330)) for _ in range(2)]
    bench.run()
    assert bench.computed - before <= 340 + 10 + sum(client.writer.sampled for client in pair)


def test_who_is_placed_second_in_a_step_knows_what_the_first_has_changed() -> None:
    bench = Bench(KINDS["sliding"])
    idle = bench.ask(tokens_of(0, 600), turns=(590,))
    bench.run()
    # The neighbour's tokens take cells of the idle sequence, up to about position 440.
    bench.ask(tokens_of(1, 160), turns=(150,))
    bench.run()
    # The first copies the window that it needs, and the second needs some of what was before that.
    pair = [bench.ask([*idle.prompt[:shared], *tokens_of(2 + shared, 20)]) for shared in (500, 480)]
    bench.run()
    for client in pair:
        client.check()
