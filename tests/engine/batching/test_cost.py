"""What the cost of a step is believed to be: right soon, right again when the machine changes, and never nonsense."""

from random import Random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.engine.batching.cost import Line, StepCost, work_of
from tests.engine.batching.machines import MACHINES, SMOOTH, Machine, compute_bound, gpu, measured_cpu, memory_bound

BUCKETS = [1, 2, 8, 16, 32, 64, 128, 512]

machines = pytest.mark.parametrize("machine", [pytest.param(machine, id=name) for name, machine in MACHINES.items()])


def measure(cost: StepCost, machine: Machine, tokens: int, position: int, *, times: float = 1.0) -> float:
    """Compute a step, learn from it, and say by which part it took longer than predicted."""
    work = work_of(position, tokens)
    seconds = times * machine(tokens, work)
    predicted = cost.predict(tokens, work)
    cost.learn(tokens, work, seconds)
    return seconds / predicted - 1 if predicted else 1.0


def error(cost: StepCost, machine: Machine, tokens: int, position: int, *, times: float = 1.0) -> float:
    work = work_of(position, tokens)
    return abs(cost.predict(tokens, work) / (times * machine(tokens, work)) - 1)


def experienced(machine: Machine) -> StepCost:
    """A cost that has seen a few steps of every size."""
    cost = StepCost()
    for tokens in BUCKETS:
        for position in (0, 1500, 300, 800, 0):
            measure(cost, machine, tokens, position)
    return cost


def test_the_work_of_a_step_is_the_sum_of_its_positions() -> None:
    assert work_of(1000, 10) == pytest.approx(sum(position + 0.5 for position in range(1000, 1010)))


# --- learning ---------------------------------------------------------------------------------------------------------


def test_before_the_first_step_nothing_is_known() -> None:
    cost = StepCost()
    assert cost.predict(64, 0.0) == 0.0
    assert cost.horizon == 0
    assert not cost.known(64)


@machines
@pytest.mark.parametrize("floor", BUCKETS)
def test_five_steps_of_any_sizes_and_positions_are_enough_on_average(machine: Machine, floor: int) -> None:
    errors = []
    for seed in range(20):
        random, cost = Random(seed), StepCost()
        steps = [(random.randrange(floor, 2 * floor), random.randrange(4000)) for _ in range(6)]
        for step in steps[:5]:
            measure(cost, machine, *step)
        errors.append(error(cost, machine, *steps[5]))
    # One machine is no straight line within a bucket: that stays.
    assert mean(errors) < (0.15 if machine is measured_cpu else 0.10)


@machines
@pytest.mark.parametrize("tokens", [1, 16, 48, 64, 512])
def test_a_prompt_that_goes_on_is_predicted_closely(machine: Machine, tokens: int) -> None:
    cost = StepCost()
    errors = [abs(measure(cost, machine, tokens, step * tokens)) for step in range(100)]
    assert max(errors[5:]) < 0.10
    assert max(errors[20:]) < 0.03


@pytest.mark.parametrize("machine", SMOOTH.values(), ids=SMOOTH)
def test_short_prompts_and_far_positions_in_turns_do_not_confuse_it(machine: Machine) -> None:
    errors = []
    for seed in range(10):
        random, cost = Random(seed), StepCost()
        for step in range(60):
            tokens = random.choice((20, 40, 90)) + random.randrange(10)
            position = random.choice((random.randrange(300), random.randrange(8000)))
            wrong = abs(measure(cost, machine, tokens, position, times=random.uniform(0.95, 1.05)))
            errors += [wrong] if step >= 20 else []
    assert mean(errors) < 0.08


@machines
@pytest.mark.parametrize("tokens", BUCKETS)
def test_a_first_step_that_loads_or_compiles_something_is_forgotten_with_the_second(
    machine: Machine, tokens: int
) -> None:
    cost = StepCost()
    measure(cost, machine, tokens, 0, times=20)
    measure(cost, machine, tokens, 0)
    assert error(cost, machine, tokens, 0) < 0.3
    measure(cost, machine, tokens, 100)
    assert error(cost, machine, tokens, 100) < 0.2


@machines
@pytest.mark.parametrize("tokens", BUCKETS)
def test_a_machine_that_becomes_three_times_slower_is_followed_in_five_steps(machine: Machine, tokens: int) -> None:
    cost = experienced(machine)
    for position in (100, 900, 200, 1200, 600):
        measure(cost, machine, tokens, position, times=3)
    assert error(cost, machine, tokens, 700, times=3) < 0.10


@machines
def test_a_machine_that_changed_its_speed_did_so_for_all_sizes(machine: Machine) -> None:
    cost = experienced(machine)
    for position in range(0, 320, 64):
        measure(cost, machine, 64, position, times=3)
    for tokens in (16, 32, 128, 512):
        assert error(cost, machine, tokens, 300, times=3) < 0.30


@machines
def test_one_step_that_the_machine_spent_elsewhere_spoils_nothing(machine: Machine) -> None:
    cost = experienced(machine)
    measure(cost, machine, 64, 500)
    measure(cost, machine, 64, 500, times=100)
    assert error(cost, machine, 64, 500) < 0.35
    assert error(cost, machine, 32, 500) < 0.10
    for position in (100, 600, 400):
        measure(cost, machine, 64, position)
    assert error(cost, machine, 64, 500) < 0.10


def test_a_long_step_and_a_short_one_are_two_accidents() -> None:
    cost = experienced(compute_bound)
    measure(cost, compute_bound, 64, 500)
    measure(cost, compute_bound, 64, 500, times=10)
    measure(cost, compute_bound, 64, 500, times=0.1)
    assert error(cost, compute_bound, 32, 500) < 0.05


@pytest.mark.parametrize("machine", SMOOTH.values(), ids=SMOOTH)
def test_hours_of_steps_that_are_all_alike_leave_it_able_to_learn_others(machine: Machine) -> None:
    random, cost = Random(1), StepCost()
    for _ in range(5000):
        measure(cost, machine, 64, 1000, times=random.uniform(0.95, 1.05))
    for tokens, position in ((100, 0), (70, 4000), (120, 2000), (64, 500), (90, 3000)):
        measure(cost, machine, tokens, position, times=random.uniform(0.95, 1.05))
    assert error(cost, machine, 110, 1500) < 0.10


def test_after_hours_of_steps_that_are_all_alike_an_odd_one_says_little_about_other_sizes() -> None:
    random, cost = Random(1), StepCost()
    for _ in range(5000):
        measure(cost, compute_bound, 64, 1000, times=random.uniform(0.95, 1.05))
    measure(cost, compute_bound, 72, 1000, times=1.2)
    assert error(cost, compute_bound, 127, 1000) < 0.13


def test_the_beginning_of_the_next_prompt_is_not_believed_to_be_almost_free() -> None:
    # All that was measured lately, around position 2000, was put down to positions.
    line = Line(per_position=2e-6, depth=2000)
    there = line.seconds(64, work_of(1968, 64))
    assert line.seconds(64, work_of(0, 64)) > 0.6 * there
    assert line.seconds(64, work_of(0, 64)) < line.seconds(64, work_of(1000, 64)) < there
    assert line.seconds(64, work_of(4000, 64)) == pytest.approx(2e-6 * work_of(4000, 64))


def test_a_kernel_that_starts_at_64_tokens_is_learnt_as_such() -> None:
    cost = experienced(measured_cpu)
    for position in (1800, 2000, 2200):
        measure(cost, measured_cpu, 48, position)
        measure(cost, measured_cpu, 64, position)
    assert cost.predict(64, work_of(2000, 64)) < cost.predict(60, work_of(2000, 60))


steps = st.tuples(st.integers(1, 1024), st.integers(0, 200_000), st.floats(1e-4, 1e4))


@given(history=st.lists(steps, max_size=30), tokens=st.integers(1, 1024), position=st.integers(0, 200_000))
def test_whatever_was_measured_more_costs_more_and_nothing_costs_less_than_nothing(
    history: list[tuple[int, int, float]], tokens: int, position: int
) -> None:
    cost = StepCost()
    for measured, at, seconds in history:
        cost.learn(measured, work_of(at, measured), seconds)
    work = work_of(position, tokens)
    predicted = cost.predict(tokens, work)
    assert (predicted > 0) == bool(history)
    assert predicted < 1e13
    assert cost.predict(tokens, 2 * work) >= predicted
    if (tokens + 1).bit_length() == tokens.bit_length():
        assert cost.predict(tokens + 1, work) >= predicted


# --- sizes without a measurement --------------------------------------------------------------------------------------


def test_a_larger_size_is_predicted_at_the_cost_per_token_of_a_smaller_one() -> None:
    cost = StepCost()
    measure(cost, compute_bound, 127, 0)
    assert error(cost, compute_bound, 256, 0) < 0.05


def test_a_smaller_size_is_predicted_to_have_the_base_of_a_larger_one() -> None:
    cost = StepCost()
    for tokens in (64, 127, 90, 110, 70):
        measure(cost, memory_bound, tokens, 0)
    assert error(cost, memory_bound, 32, 0) < 0.05


def test_a_size_that_was_measured_at_one_position_takes_others_from_its_neighbour() -> None:
    cost = StepCost()
    for position in (0, 4000, 1000, 3000, 2000):
        measure(cost, memory_bound, 64, position)
    measure(cost, memory_bound, 128, 1000)
    assert error(cost, memory_bound, 128, 4000) < 0.10


@machines
def test_a_size_that_was_not_measured_is_predicted_from_its_neighbours(machine: Machine) -> None:
    cost = StepCost()
    for tokens in (16, 128):
        for position in (0, 600, 100, 300, 500):
            measure(cost, machine, tokens, position)
    for tokens in (8, 32, 48, 64, 256):
        assert error(cost, machine, tokens, 300) < 0.6
    assert not cost.known(64)
    assert cost.horizon == 256


def test_a_size_is_known_after_two_steps_and_for_sure_near_their_position_and_for_some_time() -> None:
    cost = StepCost()
    cost.learn(64, work_of(0, 64), 0.2)
    assert not cost.known(64)
    assert not cost.sure(64, work_of(0, 64))
    cost.learn(64, work_of(64, 64), 0.2)
    assert cost.known(127)
    assert cost.sure(127, work_of(300, 127))
    assert not cost.sure(64, work_of(5000, 64))
    for _ in range(200):
        cost.learn(16, work_of(0, 16), 0.1)
    assert not cost.sure(64, work_of(0, 64))
    assert cost.known(64)
    assert not cost.known(128)


@pytest.mark.parametrize("bad_steps", [1, 2])
def test_a_size_is_not_avoided_for_ever_because_of_a_bad_day(bad_steps: int) -> None:
    cost = StepCost()
    for _ in range(bad_steps):
        cost.learn(32, work_of(0, 32), 5.0)
    for _ in range(200):
        cost.learn(16, work_of(0, 16), 0.1)
    assert cost.predict(32, work_of(0, 32)) < 0.25


# --- what the scheduler asks ------------------------------------------------------------------------------------------


@given(
    machine=st.sampled_from(list(MACHINES.values())),
    position=st.integers(0, 5000),
    most=st.integers(0, 600),
    seconds=st.floats(0.0, 3.0),
    beside=st.integers(0, 40),
)
def test_what_fits_is_the_largest_that_is_expected_to(
    machine: Machine, position: int, most: int, seconds: float, beside: int
) -> None:
    cost, held = experienced(machine), (beside, 100.0 * beside)
    expected = max(
        (
            tokens
            for tokens in range(1, most + 1)
            if cost.predict(held[0] + tokens, held[1] + work_of(position, tokens)) <= seconds
        ),
        default=0,
    )
    assert cost.fit(position, most, seconds, beside=held) == expected


def test_sixty_four_tokens_may_fit_where_sixty_do_not() -> None:
    cost = experienced(measured_cpu)
    seconds = cost.predict(64, work_of(1500, 64))
    assert cost.predict(60, work_of(1500, 60)) > seconds
    assert cost.fit(1500, 64, seconds) == 64
    assert cost.fit(1500, 63, seconds) < 60


@machines
def test_the_parts_of_a_step_are_what_its_spans_cost(machine: Machine) -> None:
    cost = experienced(machine)
    near, far, nothing, long = cost.parts(
        [(10, work_of(0, 10)), (10, work_of(2000, 10)), (0, 0.0), (40, work_of(0, 40))], 1.0
    )
    assert nothing == 0.0
    assert 0 < near <= far
    assert long > 3 * near
    assert near + far + long == pytest.approx(1.0)


def test_who_is_far_has_no_part_in_the_base() -> None:
    cost = experienced(gpu)
    near, far = cost.parts([(30, work_of(0, 30)), (30, work_of(4000, 30))], 1.0)
    assert far < 1.06 * near
