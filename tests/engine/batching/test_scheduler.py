"""What goes into the next step: each rule by itself, and then whole runs on machines made of arithmetic."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4trio.engine.batching.blocks import BLOCK
from ds4trio.engine.batching.cost import StepCost, work_of
from ds4trio.engine.batching.scheduler import (
    AHEAD_STEPS,
    FORCED,
    LEAST,
    LEAST_ALONE,
    LOST_SHARE,
    MOST_AHEAD,
    Scheduler,
    Share,
)
from tests.engine.batching.machines import MACHINES, SMOOTH, Machine, compute_bound, gpu, measured_cpu, slow_cpu

STALL = 0.25

every_machine = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
smooth_machines = pytest.mark.parametrize("machine", SMOOTH.values(), ids=SMOOTH)


@dataclass(slots=True)
class Job:
    """A request: ``left`` tokens of a prompt, then ``answer`` tokens. A checkpoint is due every ``border`` tokens."""

    left: int
    computed: int = 0
    answering: bool = False
    priority: int = 0
    answer: int = 1
    border: int = 1_000_000
    share: Share = field(default_factory=Share)
    likelihoods: Sequence[float] = ()

    @property
    def reach(self) -> int:
        return min(self.left, self.border - self.computed % self.border)

    @property
    def decodes(self) -> bool:
        return self.answering and self.left == 1

    @property
    def done(self) -> bool:
        return self.answering and not self.answer

    def advance(self, count: int) -> None:
        self.computed += count
        self.left -= count
        if not self.left:
            self.left, self.answering = 1, True
            self.answer -= 1


def stream() -> Job:
    """A request whose answer is being written, without an end."""
    return Job(1, computed=100, answering=True, answer=1_000_000)


@dataclass(frozen=True, slots=True)
class Step:
    take: list[int]
    seconds: float
    predicted: float


def execute(scheduler: Scheduler, machine: Machine, jobs: Sequence[Job], cost: StepCost | None = None) -> Step:
    """Plan one step, compute it and learn from it; ``cost`` learns the same, to say what was expected."""
    take = scheduler.plan(jobs)
    tokens = sum(take)
    work = sum(work_of(job.computed, count) for job, count in zip(jobs, take, strict=True))
    seconds, predicted = machine(tokens, work), 0.0
    if cost is not None:
        predicted = cost.predict(tokens, work)
        cost.learn(tokens, work, seconds)
    scheduler.learn(jobs, take, seconds)
    for job, count in zip(jobs, take, strict=True):
        job.advance(count)
    return Step(take, seconds, predicted)


def prefill(scheduler: Scheduler, machine: Machine, prompt: Job, *others: Job) -> Iterator[Step]:
    """Steps until ``prompt``, the last in the order of arrival, has its first token."""
    while not prompt.answering:
        yield execute(scheduler, machine, [*others, prompt])


def experienced(machine: Machine, *, mixed: bool = True, ubatch: int = 512) -> tuple[Scheduler, StepCost]:
    """A scheduler that has seen every size at some positions, and a cost that has seen the same."""
    scheduler, cost = Scheduler(ubatch=ubatch, max_stall=STALL, mixed=mixed), StepCost()
    for tokens in (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512):
        for position in (0, 4000, 1000, 0):
            work = work_of(position, tokens)
            seconds = machine(tokens, work)
            scheduler.learn([Job(tokens, computed=position)], [tokens], seconds)
            cost.learn(tokens, work, seconds)
    return scheduler, cost


# --- alone ------------------------------------------------------------------------------------------------------------


@given(left=st.integers(1, 100_000), ubatch=st.integers(64, 4096), mixed=st.booleans())
def test_the_first_step_of_all_is_a_small_one(left: int, ubatch: int, mixed: bool) -> None:
    scheduler = Scheduler(ubatch=ubatch, max_stall=STALL, mixed=mixed)
    (tokens,) = scheduler.plan([Job(left)])
    assert min(left, LEAST) <= tokens < 2 * LEAST


def test_alone_on_a_gpu_a_prompt_soon_takes_whole_ubatches() -> None:
    scheduler = Scheduler(ubatch=2048, max_stall=STALL)
    sizes = [step.take[0] for step in prefill(scheduler, gpu, Job(50_000))]
    to_the_end_of_a_block = 352
    assert sizes[:13] == [16, 16, 64, 64, 128, 128, 256, 256, to_the_end_of_a_block, 512, 512, 1024, 1024]
    assert set(sizes[13:-1]) == {2048}


@every_machine
@pytest.mark.parametrize("begun", [0, 31, 255, 1000])
def test_alone_a_kill_costs_no_more_than_two_blocks_or_a_step_of_more(machine: Machine, begun: int) -> None:
    scheduler, _ = experienced(machine)
    job = Job(20_000, computed=begun)
    durable = begun // BLOCK * BLOCK
    steps = [step.take[0] for step in prefill(scheduler, machine, job)]
    for taken in steps:
        begun += taken
        assert begun - durable <= max(2 * BLOCK, taken)
        durable = begun // BLOCK * BLOCK
    assert min(steps[:-1]) >= min(max(steps), LEAST_ALONE)


def test_alone_on_a_cpu_a_step_takes_twice_the_stall_at_most() -> None:
    scheduler = Scheduler(ubatch=512, max_stall=STALL)
    steps = list(prefill(scheduler, compute_bound, Job(5000)))
    assert max(step.take[0] for step in steps) == 128
    assert min(step.seconds for step in steps[5:-1]) > 1.5 * STALL
    assert sum(step.seconds > 2.1 * STALL for step in steps) < len(steps) / 10


def test_alone_steps_are_longer_where_a_newcomer_can_stop_them() -> None:
    patient, stoppable = Scheduler(ubatch=512, max_stall=STALL), Scheduler(ubatch=512, max_stall=STALL, stoppable=True)
    for scheduler in (patient, stoppable):
        for step in prefill(scheduler, measured_cpu, Job(6000)):
            assert bool(scheduler.gives_way([Job(10)], step.seconds)) == (
                scheduler is stoppable and step.seconds > STALL
            )
    job = Job(4000)
    assert stoppable.plan([job])[0] >= 2 * patient.plan([job])[0]
    assert stoppable.plan([job], awaited=True)[0] <= patient.plan([job])[0]
    assert stoppable.gives_way([job, stream()], 10.0) == 0.0
    assert stoppable.gives_way([stream()], 10.0) == 0.0


def test_alone_steps_take_four_stalls_after_one_was_lost_and_grow_with_the_time_since() -> None:
    scheduler = Scheduler(ubatch=512, max_stall=STALL, stoppable=True)
    list(prefill(scheduler, compute_bound, Job(6000)))
    scheduler.lost()
    since, longest = 0.0, 0.0
    for step in prefill(scheduler, compute_bound, Job(20_000)):
        assert step.seconds < 1.1 * max(4 * STALL, LOST_SHARE * since)
        since, longest = since + step.seconds, max(longest, step.seconds)
    assert longest > 1.5 * 4 * STALL


@given(since=st.floats(0, 100), seconds=st.floats(STALL + 0.01, 10))
def test_what_newcomers_wait_and_what_is_lost_for_them_is_bounded(since: float, seconds: float) -> None:
    scheduler = Scheduler(ubatch=512, max_stall=STALL, stoppable=True)
    scheduler.lost()
    scheduler.learn([Job(100)], [100], since)
    lost = scheduler.gives_way([Job(1000)], seconds)
    waited = seconds - lost
    assert lost <= max(seconds / 2, LOST_SHARE * since)
    assert waited <= (max(seconds / 2, 2 * STALL) if seconds <= LOST_SHARE * since else seconds / 2)


def test_alone_on_a_cpu_steps_take_about_two_stalls_and_no_fewer_tokens_than_its_kernels_like() -> None:
    scheduler = Scheduler(ubatch=512, max_stall=STALL)
    sizes = [step.take[0] for step in prefill(scheduler, measured_cpu, Job(12_000))]
    assert sum(64 <= size <= 128 for size in sizes) > 0.9 * len(sizes)


def test_alone_on_a_machine_with_costly_steps_they_are_as_large_as_can_be() -> None:
    scheduler = Scheduler(ubatch=512, max_stall=STALL)
    sizes = [step.take[0] for step in prefill(scheduler, lambda tokens, _: 2.0 + 0.002 * tokens, Job(10_000))]
    assert set(sizes[10:-3]) == {512}


def test_alone_sizes_that_seem_cheap_by_chance_are_not_enough_to_keep_a_newcomer_waiting() -> None:
    scheduler, _ = experienced(measured_cpu)
    for _ in range(6):
        for size, chance in ((64, 1.5), (128, 1.0), (256, 0.65)):
            work = work_of(2000, size)
            scheduler.learn([Job(size, computed=2000)], [size], chance * measured_cpu(size, work))
    (tokens,) = scheduler.plan([Job(5000, computed=2000)])
    assert measured_cpu(tokens, work_of(2000, tokens)) < 4 * STALL


def test_alone_a_prompt_leaves_no_crumbs_for_a_step_of_their_own() -> None:
    scheduler, _ = experienced(compute_bound)
    assert scheduler.plan([Job(130)]) == [130]
    assert scheduler.plan([Job(150)])[0] < 140


def test_alone_on_a_slow_machine_no_step_is_larger_than_it_has_to_be() -> None:
    scheduler = Scheduler(ubatch=512, max_stall=STALL)
    sizes = [step.take[0] for step in prefill(scheduler, slow_cpu, Job(20_000))]
    assert max(sizes) < LEAST_ALONE + LEAST


@every_machine
def test_alone_a_step_ends_where_a_checkpoint_is_due(machine: Machine) -> None:
    scheduler, _ = experienced(machine)
    for computed, expected in ((0, {50}), (20, {30})):
        assert set(scheduler.plan([Job(5000, computed=computed, border=50)])) == expected


# --- beside others ----------------------------------------------------------------------------------------------------


def test_who_decodes_gets_one_token_and_nothing_else_happens() -> None:
    assert Scheduler(ubatch=128, max_stall=STALL).plan([stream() for _ in range(64)]) == [1] * 64


def test_nothing_to_compute_is_an_empty_step() -> None:
    assert Scheduler(ubatch=128, max_stall=STALL).plan([]) == []


def test_the_first_step_beside_a_stream_is_a_small_one() -> None:
    assert Scheduler(ubatch=512, max_stall=STALL).plan([stream(), Job(5000)]) == [1, LEAST]


@every_machine
def test_beside_a_stream_a_step_takes_no_longer_than_the_stall(machine: Machine) -> None:
    scheduler, cost = experienced(machine)
    jobs = [stream(), Job(3000)]
    while not jobs[1].answering:
        step = execute(scheduler, machine, jobs, cost)
        if step.take[1] > LEAST:
            assert step.predicted <= STALL
            assert step.seconds <= 1.25 * STALL


@pytest.mark.parametrize("machine", [measured_cpu, compute_bound])
def test_beside_a_stream_a_step_makes_use_of_the_stall(machine: Machine) -> None:
    scheduler, cost = experienced(machine)
    jobs = [stream(), Job(1000)]
    for _ in range(15):
        assert execute(scheduler, machine, jobs, cost).seconds > 0.7 * STALL


def test_two_prompts_keep_each_other_waiting_no_longer_than_the_stall() -> None:
    scheduler, _ = experienced(compute_bound)
    jobs = [Job(2000), Job(2000)]
    for _ in range(50):
        assert execute(scheduler, compute_bound, jobs).seconds <= 1.25 * STALL


def test_where_no_step_is_short_enough_a_prompt_gets_on_in_small_ones() -> None:
    scheduler, _ = experienced(slow_cpu)
    assert scheduler.plan([stream(), Job(5000)]) == [1, LEAST]
    assert scheduler.plan([stream(), Job(5), Job(6), Job(5000)]) == [1, 5, 6, LEAST - 11]


def test_several_short_prompts_share_a_step() -> None:
    scheduler, _ = experienced(compute_bound)
    assert scheduler.plan([stream(), Job(10), Job(12), Job(14)]) == [1, 10, 12, 14]


@given(
    decoding=st.integers(0, 64),
    prompts=st.lists(st.integers(1, 5000), max_size=64),
    machine=st.sampled_from(list(MACHINES.values())),
)
def test_a_step_holds_no_more_than_a_ubatch(decoding: int, prompts: list[int], machine: Machine) -> None:
    scheduler, _ = experienced(machine, ubatch=128)
    jobs = [*(stream() for _ in range(decoding)), *map(Job, prompts)][:64]
    take = scheduler.plan(jobs)
    assert sum(take) <= 128
    assert all(0 <= count <= job.reach for job, count in zip(jobs, take, strict=True))
    assert all(count == 1 for job, count in zip(jobs, take, strict=True) if job.decodes)
    if len(jobs) > decoding:
        assert sum(take) - min(decoding, 64) >= min(LEAST, sum(prompts[: 64 - decoding]))


# --- the order of prompts ---------------------------------------------------------------------------------------------
# On the slow machine the first in order gets the whole step.


def first(*jobs: Job) -> int:
    """Which of them comes first."""
    scheduler, _ = experienced(slow_cpu)
    take = scheduler.plan(jobs)
    (index,) = (index for index, count in enumerate(take) if count and not jobs[index].decodes)
    return index


def test_the_shortest_prompt_comes_first() -> None:
    assert first(stream(), Job(900), Job(100), Job(500)) == 2


def test_of_two_equal_prompts_the_older_one_comes_first() -> None:
    assert first(stream(), Job(900), Job(900)) == 1


def test_the_most_urgent_prompt_comes_first() -> None:
    assert first(Job(100), Job(900, priority=-1), Job(50, priority=1)) == 1


def test_text_that_was_forced_upon_an_answer_comes_first() -> None:
    forced = Job(20, computed=500, answering=True)
    assert first(Job(20, priority=-100, share=Share(waited=10.0)), forced) == 1


def test_an_answer_that_is_computed_again_is_a_prompt_like_any_other() -> None:
    lost = Job(FORCED + 1, answering=True)
    assert first(Job(20), lost) == 0


def test_the_oldest_prompt_comes_first_when_it_had_less_than_its_share() -> None:
    assert first(stream(), Job(900, share=Share(waited=10.0, served=4.9)), Job(100, priority=-1)) == 1
    assert first(stream(), Job(900, share=Share(waited=10.0, served=5.0)), Job(100, priority=-1)) == 2


def test_only_the_oldest_prompt_has_a_share() -> None:
    assert first(Job(900), Job(900, share=Share(waited=10.0)), Job(100)) == 2


def test_the_ledger_of_the_oldest_prompt_has_what_went_to_prompts_and_what_went_to_itself() -> None:
    scheduler, _ = experienced(compute_bound)
    jobs = [*(stream() for _ in range(20)), Job(900), Job(100)]
    scheduler.learn(jobs, [1] * 20 + [10, 30], compute_bound(60, work_of(0, 60)))
    assert jobs[20].share.waited == pytest.approx(40 * 0.004, rel=0.05)
    assert jobs[20].share.served == pytest.approx(10 * 0.004, rel=0.05)
    assert jobs[0].share == jobs[21].share == Share()


def test_the_time_that_a_prompt_was_alone_is_soon_paid_back_to_those_who_come_later() -> None:
    scheduler, _ = experienced(compute_bound)
    long, running, passed = Job(20_000), stream(), 0.0
    for _ in range(200):
        execute(scheduler, compute_bound, [running, long])
    before, short = long.computed, Job(400)
    while long.computed == before:
        passed += execute(scheduler, compute_bound, [running, long, short]).seconds
        short = Job(400) if short.answering else short
    assert passed < (2 * AHEAD_STEPS + 2) * STALL


# --- what is guessed --------------------------------------------------------------------------------------------------


def guessing(*likelihoods: float) -> Job:
    """A stream that guesses what comes next."""
    return replace(stream(), likelihoods=likelihoods)


def surely(tokens: int) -> Job:
    """A stream that is almost certain of its next tokens."""
    return guessing(*(0.99**count for count in range(1, tokens + 1)))


def test_a_guess_that_costs_nothing_is_computed_whole() -> None:
    scheduler, _ = experienced(gpu)
    assert scheduler.plan([surely(60)]) == [61]


def test_where_each_token_has_its_price_guesses_soon_cease() -> None:
    def machine(tokens: int, _: float) -> float:
        return 0.004 * tokens

    scheduler, _ = experienced(machine)
    sizes = [execute(scheduler, machine, [surely(60)]).take for _ in range(100)]
    assert sum(size != [1] for size in sizes) < 10
    assert sizes[-1] == [1]


def test_an_unlikely_guess_is_computed_where_tokens_are_all_but_free() -> None:
    cheap, _ = experienced(gpu)
    dear, _ = experienced(lambda tokens, _: 0.004 + 0.008 * tokens)
    assert cheap.plan([guessing(0.3, 0.1)])[0] > 1
    assert dear.plan([guessing(0.3, 0.1)]) == [1]


def test_before_anything_is_known_nothing_is_computed_ahead() -> None:
    assert Scheduler(ubatch=512, max_stall=STALL).plan([surely(60)]) == [1]


@smooth_machines
def test_guesses_make_answers_faster_by_what_is_expected_of_them_or_are_not_computed(machine: Machine) -> None:
    scheduler, _ = experienced(machine)
    for jobs in ([surely(60)], [guessing(0.7, 0.4, 0.25)], [surely(9), surely(30)], [surely(9), stream(), stream()]):
        take = scheduler.plan(jobs)
        expected = [1 + sum(job.likelihoods[: count - 1]) for job, count in zip(jobs, take, strict=True)]
        plain = machine(len(jobs), sum(work_of(job.computed, 1) for job in jobs))
        slower = machine(sum(take), sum(map(work_of, (job.computed for job in jobs), take))) / plain
        assert sum(expected) / len(jobs) >= slower
        assert min(expected) >= 0.85 * slower, "nobody pays for another one's guess"


def test_no_step_with_guesses_is_longer_than_others_may_be_kept_waiting() -> None:
    def machine(tokens: int, _: float) -> float:
        return 0.05 + 0.01 * tokens

    scheduler, _ = experienced(machine)
    certain = guessing(*[1.0] * 60)
    for jobs in ([certain], [certain, certain]):
        assert 0.7 * STALL < machine(sum(scheduler.plan(jobs)), 0) <= STALL


def test_beside_a_prompt_nothing_is_computed_ahead() -> None:
    scheduler, _ = experienced(gpu)
    assert scheduler.plan([surely(60), Job(1000)])[0] == 1


def test_a_step_with_guesses_holds_no_more_than_a_ubatch() -> None:
    scheduler, _ = experienced(gpu, ubatch=32)
    assert sum(scheduler.plan([surely(60), surely(60)])) == 32


def test_a_step_with_guesses_stays_below_the_size_at_which_results_change() -> None:
    scheduler, _ = experienced(gpu)
    assert sum(scheduler.plan([surely(62), surely(62)])) == MOST_AHEAD


# --- memories that cannot roll back -----------------------------------------------------------------------------------


@every_machine
def test_unmixed_chunks_and_decode_steps_take_turns_and_stay_within_the_stall_together(machine: Machine) -> None:
    scheduler, _ = experienced(machine, mixed=False)
    jobs = [stream(), stream(), Job(600), Job(2000)]
    before, chunk_was_last = 0.0, True
    while not jobs[3].answering:
        prompts = [not job.decodes for job in jobs]
        step = execute(scheduler, machine, jobs)
        chunk = [count for count, prompt in zip(step.take, prompts, strict=True) if prompt and count]
        decode = [count for count, prompt in zip(step.take, prompts, strict=True) if not prompt and count]
        assert (len(chunk), len(decode)) == ((0, len(jobs) - sum(prompts)) if chunk_was_last else (1, 0))
        if sum(chunk) > LEAST:
            assert before + step.seconds <= 1.25 * STALL
        before, chunk_was_last = step.seconds, bool(chunk)


def test_unmixed_a_chunk_waits_for_nobody_where_nobody_decodes() -> None:
    scheduler, _ = experienced(compute_bound, mixed=False)
    jobs = [Job(600), Job(800)]
    for _ in range(10):
        assert sum(count > 0 for count in execute(scheduler, compute_bound, jobs).take) == 1


def test_unmixed_a_chunk_that_was_given_up_is_planned_again() -> None:
    scheduler = Scheduler(ubatch=512, max_stall=STALL, mixed=False)
    jobs = [stream(), Job(600)]
    assert scheduler.plan(jobs) == scheduler.plan(jobs)
    assert scheduler.plan(jobs)[1] > 0


# --- whole runs -------------------------------------------------------------------------------------------------------


@smooth_machines
@pytest.mark.parametrize("mixed", [True, False])
def test_a_long_prompt_under_a_stream_of_short_ones_takes_twice_its_time(machine: Machine, mixed: bool) -> None:
    scheduler, _ = experienced(machine, mixed=mixed, ubatch=64)
    alone = sum(step.seconds for step in prefill(scheduler, machine, Job(3000), stream()))
    long, short, passed = Job(3000), Job(100), 0.0
    running = stream()
    while not long.answering:
        passed += execute(scheduler, machine, [running, long, short]).seconds
        if short.answering:
            short = Job(100)
    assert alone < passed < 2.1 * alone + 2 * STALL


@every_machine
@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("tokens", [10, 60, 150])
def test_a_short_prompt_beside_a_long_one_waits_two_steps_at_most(machine: Machine, mixed: bool, tokens: int) -> None:
    scheduler, _ = experienced(machine, mixed=mixed)
    own = sum(1 for _ in prefill(scheduler, machine, Job(tokens), stream()))
    running, long, short = stream(), Job(100_000), Job(tokens)
    for _ in range(40):
        execute(scheduler, machine, [running, long])
    assert not long.answering
    assert sum(1 for _ in prefill(scheduler, machine, short, running, long)) <= own + 2


@settings(max_examples=60)
@given(
    machine=st.sampled_from(list(MACHINES.values())),
    mixed=st.booleans(),
    ubatch=st.sampled_from([32, 100, 512, 2048]),
    arrivals=st.lists(
        st.tuples(
            st.integers(0, 20),
            st.builds(
                Job,
                left=st.one_of(st.integers(1, 100), st.integers(1, 1500)),
                computed=st.integers(0, 3000),
                answer=st.integers(1, 10),
                priority=st.integers(-2, 2),
                border=st.sampled_from([7, 64, 500, 1_000_000]),
            ),
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_every_request_comes_to_its_end_and_no_step_breaks_a_rule(
    machine: Machine, mixed: bool, ubatch: int, arrivals: list[tuple[int, Job]]
) -> None:
    scheduler = Scheduler(ubatch=ubatch, max_stall=STALL, mixed=mixed)
    # Hypothesis shows the jobs as they were drawn, so it is copies that run.
    coming = [
        (pause, Job(job.left, job.computed, False, job.priority, job.answer, job.border)) for pause, job in arrivals
    ]
    jobs: list[Job] = []
    budget = sum(2 * (job.left // min(LEAST, job.border) + job.answer + pause + 3) for pause, job in coming)
    for _ in range(budget):
        while coming and (not jobs or not coming[0][0]):
            jobs.append(coming.pop(0)[1])
        if not jobs:
            break
        before = [(job.reach, job.decodes) for job in jobs]
        take = execute(scheduler, machine, jobs).take
        assert 0 < sum(take) <= ubatch
        assert all(0 <= count <= reach for count, (reach, _) in zip(take, before, strict=True))
        decoding = [count for count, (_, decodes) in zip(take, before, strict=True) if decodes]
        chunks = [count for count, (_, decodes) in zip(take, before, strict=True) if not decodes and count]
        if mixed:
            assert all(decoding)
        else:
            assert all(decoding) if not chunks else (len(chunks) == 1 and not any(decoding))
        jobs = [job for job in jobs if not job.done]
        if coming:
            coming[0] = (max(0, coming[0][0] - 1), coming[0][1])
    assert not jobs
    assert not coming
