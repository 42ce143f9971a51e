"""The queue: the urgent first, then order of arrival, a place for each, and nobody waits for one who is gone."""

import math
from dataclasses import dataclass
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.engine import EngineStoppedError, QueueFullError
from ds4trio.engine.admission import FIRST_GUESS, MOST_OVERTAKEN, Admission, Duration, Ticket


async def takes_its_turn(ticket: Ticket) -> bool:
    """Whether the turn has come, found out by one who waits only as long as others have something to do."""
    came: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(note_turn, ticket, "came", came)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return bool(came)


async def note_turn(ticket: Ticket, name: str, order: list[str]) -> None:
    await ticket.turn()
    order.append(name)


# --- order ------------------------------------------------------------------------------------------------------------


async def test_as_many_as_may_run_have_their_turn_at_once() -> None:
    admission = Admission(parallel=2, max_queue=1)
    tickets = [admission.join() for _ in range(3)]
    assert [ticket.position for ticket in tickets] == [0, 0, 1]
    assert [await takes_its_turn(ticket) for ticket in tickets] == [True, True, False]
    assert (admission.running, admission.waiting) == (2, 1)


async def test_turns_come_in_order_of_arrival_whoever_waits_for_them_first() -> None:
    admission = Admission(parallel=1, max_queue=3)
    running = admission.join()
    waiting = {name: admission.join() for name in "abc"}
    order: list[str] = []
    async with trio.open_nursery() as nursery:
        for name in "cab":
            nursery.start_soon(note_turn, waiting[name], name, order)
            await trio.testing.wait_all_tasks_blocked()
        assert order == []
        running.leave()
        for name in "abc":
            await trio.testing.wait_all_tasks_blocked()
            assert order[-1] == name
            waiting[name].leave()
    assert order == ["a", "b", "c"]


async def test_positions_count_from_one_and_move_up() -> None:
    admission = Admission(parallel=1, max_queue=3)
    first, second, third = (admission.join() for _ in range(3))
    assert [ticket.position for ticket in (first, second, third)] == [0, 1, 2]
    first.leave()
    assert [ticket.position for ticket in (first, second, third)] == [0, 0, 1]


async def test_the_more_urgent_pass_those_who_wait_but_not_those_who_run() -> None:
    admission = Admission(parallel=1, max_queue=5)
    running = admission.join(priority=9)
    priorities = {"normal": 0, "late": 1, "soon": -1, "normal too": 0, "at once": -100}
    waiting = {name: admission.join(priority=priority) for name, priority in priorities.items()}
    order = ["at once", "soon", "normal", "normal too", "late"]
    assert [waiting[name].position for name in order] == [1, 2, 3, 4, 5]
    assert running.position == 0
    for name in order:
        running.leave()
        assert await takes_its_turn(waiting[name])
        running = waiting[name]


async def test_a_stream_of_urgent_requests_keeps_no_other_one_out() -> None:
    admission = Admission(parallel=1, max_queue=3)
    running, patient = admission.join(), admission.join()
    passed = 0
    while patient.position:
        urgent = admission.join(priority=-100)
        running.leave()
        running, passed = urgent, passed + 1
        assert passed <= MOST_OVERTAKEN + 1
    assert passed == MOST_OVERTAKEN + 1


async def test_a_turn_is_a_checkpoint_even_when_it_has_come() -> None:
    ticket = Admission(parallel=1, max_queue=0).join()
    with trio.testing.assert_checkpoints():
        await ticket.turn()


# --- leaving ----------------------------------------------------------------------------------------------------------


async def test_one_who_leaves_the_queue_lets_those_behind_move_up_and_starts_nobody() -> None:
    admission = Admission(parallel=1, max_queue=3)
    running, gone, behind = (admission.join() for _ in range(3))
    gone.leave()
    assert behind.position == 1
    assert not await takes_its_turn(behind)
    assert (admission.running, admission.waiting) == (1, 1)
    running.leave()
    assert await takes_its_turn(behind)


async def test_leaving_twice_gives_one_place_back() -> None:
    admission = Admission(parallel=1, max_queue=2)
    running, second, third = (admission.join() for _ in range(3))
    running.leave()
    running.leave()
    assert await takes_its_turn(second)
    assert not await takes_its_turn(third)
    assert (admission.running, admission.waiting) == (1, 1)


async def test_one_who_leaves_between_the_grant_and_the_wait_does_not_keep_the_place() -> None:
    admission = Admission(parallel=1, max_queue=1)
    running, granted = admission.join(), admission.join()
    running.leave()
    granted.leave()
    assert (admission.running, admission.waiting) == (0, 0)
    assert await takes_its_turn(admission.join())


async def test_cancelling_a_wait_leaves_the_ticket_in_the_queue_until_it_leaves() -> None:
    admission = Admission(parallel=1, max_queue=2)
    running, cancelled, behind = (admission.join() for _ in range(3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancelled.turn)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (cancelled.position, behind.position) == (1, 2)
    cancelled.leave()
    running.leave()
    assert await takes_its_turn(behind)


# --- a full queue -----------------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    admission = Admission(parallel=1, max_queue=2)
    for _ in range(3):
        admission.join()
    with pytest.raises(QueueFullError, match=r"^2 requests are waiting already, try again in 5 s$") as caught:
        admission.join(priority=-100)
    assert caught.value.retry_after == FIRST_GUESS
    assert (admission.running, admission.waiting) == (1, 2)


async def test_where_there_is_no_queue_the_refusal_does_not_speak_of_one() -> None:
    admission = Admission(parallel=2, max_queue=0)
    for _ in range(2):
        admission.join()
    with pytest.raises(QueueFullError, match=r"^all 2 places are taken, try again in 5 s$"):
        admission.join()


async def test_a_queue_of_no_length_still_lets_in_who_can_run_at_once() -> None:
    admission = Admission(parallel=2, max_queue=0)
    running = [admission.join(), admission.join()]
    with pytest.raises(QueueFullError):
        admission.join()
    running[0].leave()
    assert await takes_its_turn(admission.join())


@pytest.mark.parametrize("gone", [0, 1])
async def test_whoever_leaves_makes_room_in_a_full_queue(gone: int) -> None:
    admission = Admission(parallel=1, max_queue=1)
    tickets = [admission.join(), admission.join()]
    tickets[gone].leave()
    assert admission.join().position == 1


def retry_after(admission: Admission) -> int:
    with pytest.raises(QueueFullError) as caught:
        admission.join()
    return caught.value.retry_after


@pytest.mark.parametrize(("seconds", "told"), [(0.0, 1), (12.0, 12), (100_000.0, 60)])
async def test_one_of_whom_nothing_is_known_takes_as_long_as_others_took(
    seconds: float, told: int, autojump_clock: trio.testing.MockClock
) -> None:
    admission = Admission(parallel=1, max_queue=0)
    for _ in range(60):
        ticket = admission.join()
        await trio.sleep(seconds)
        ticket.leave()
    admission.join()
    assert retry_after(admission) == pytest.approx(told, abs=1)


async def test_the_first_to_end_makes_the_place(autojump_clock: trio.testing.MockClock) -> None:
    admission = Admission(parallel=3, max_queue=0)
    seconds = iter((9.0, 2.1))
    admission.join()
    await trio.sleep(1.5)
    admission.join()
    admission.join(remaining=lambda: next(seconds))
    assert retry_after(admission) == math.ceil(FIRST_GUESS - 1.5)
    assert retry_after(admission) == 3


@pytest.mark.parametrize(
    ("remaining", "told"), [(0.0, 1), (0.3, 1), (7.0, 7), (7.2, 8), (60.5, 60), (math.inf, 60), (None, FIRST_GUESS)]
)
async def test_what_is_known_of_a_request_is_asked_when_somebody_is_refused(remaining: float | None, told: int) -> None:
    known: list[float | None] = []
    admission = Admission(parallel=1, max_queue=1)
    admission.join(remaining=lambda: known[-1])
    admission.join(remaining=lambda: pytest.fail("who waits is not asked"))
    known += [1.0, remaining]
    assert retry_after(admission) == told


async def test_those_who_leave_the_queue_are_not_measured(autojump_clock: trio.testing.MockClock) -> None:
    admission = Admission(parallel=1, max_queue=1)
    running, waiting = admission.join(), admission.join()
    await trio.sleep(FIRST_GUESS)
    waiting.leave()
    running.leave()
    for _ in range(2):
        admission.join()
    assert retry_after(admission) == FIRST_GUESS


def test_a_duration_follows_what_is_measured() -> None:
    duration = Duration()
    assert duration.left(0) == FIRST_GUESS
    for _ in range(40):
        duration.took(20)
    assert duration.left(0) == pytest.approx(20, abs=0.1)
    assert duration.left(15) == pytest.approx(5, abs=0.1)
    duration.took(10)
    assert 10 < duration.left(0) < 20


@given(took=st.lists(st.floats(0, 1e6), max_size=5), elapsed=st.floats(0, 1e6))
def test_what_goes_on_is_expected_to_end_later_but_no_later_than_a_new_one(took: list[float], elapsed: float) -> None:
    duration = Duration()
    for seconds in took:
        duration.took(seconds)
    assert 0 < duration.left(elapsed) <= duration.left(0)


# --- closing ----------------------------------------------------------------------------------------------------------


async def expect_stop(ticket: Ticket, stopped: list[Ticket]) -> None:
    with trio.fail_after(1), pytest.raises(EngineStoppedError):
        await ticket.turn()
    stopped.append(ticket)


async def test_closing_wakes_everyone_who_waits_and_refuses_everyone_who_comes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    admission = Admission(parallel=1, max_queue=2)
    running, *waiting = (admission.join() for _ in range(3))
    stopped: list[Ticket] = []
    async with trio.open_nursery() as nursery:
        for ticket in waiting:
            nursery.start_soon(expect_stop, ticket, stopped)
        await trio.testing.wait_all_tasks_blocked()
        assert not stopped
        admission.close()
    assert set(stopped) == set(waiting)
    assert (admission.running, admission.waiting) == (1, 0)
    assert [ticket.position for ticket in waiting] == [0, 0]
    with pytest.raises(EngineStoppedError):
        admission.join()
    for ticket in (running, *waiting):
        ticket.leave()
    assert (admission.running, admission.waiting) == (0, 0)


async def test_one_who_waits_only_after_the_closing_is_told_too(autojump_clock: trio.testing.MockClock) -> None:
    admission = Admission(parallel=1, max_queue=1)
    running, late = admission.join(), admission.join()
    stopped: list[Ticket] = []
    admission.close()
    await expect_stop(late, stopped)
    running.leave()
    await expect_stop(late, stopped)
    assert stopped == [late, late]


async def test_a_turn_that_came_before_the_closing_is_kept() -> None:
    admission = Admission(parallel=1, max_queue=0)
    ticket = admission.join()
    admission.close()
    assert await takes_its_turn(ticket)
    assert admission.running == 1


# --- any history ------------------------------------------------------------------------------------------------------


@given(
    parallel=st.integers(1, 3),
    max_queue=st.integers(0, 3),
    moves=st.lists(
        st.one_of(st.integers(0, 6).map(lambda gone: (gone, None)), st.tuples(st.none(), st.integers(-1, 1)))
    ),
)
def test_any_history_of_joining_and_leaving_keeps_order_and_bounds(
    parallel: int, max_queue: int, moves: list[tuple[int | None, int | None]]
) -> None:
    """Each move is one of those inside who leaves, or the priority of one who joins."""
    trio.run(partial(check_history, parallel, max_queue, moves))


@dataclass(slots=True)
class Waiting:
    priority: int
    ticket: Ticket
    overtaken: int = 0


async def check_history(parallel: int, max_queue: int, moves: list[tuple[int | None, int | None]]) -> None:
    admission = Admission(parallel=parallel, max_queue=max_queue)
    running: list[Ticket] = []
    waiting: list[Waiting] = []
    for gone, priority in moves:
        if priority is not None and len(running) + len(waiting) == parallel + max_queue:
            with pytest.raises(QueueFullError):
                admission.join(priority=priority)
        elif priority is not None:
            place = len(waiting)
            while place and waiting[place - 1].priority > priority and waiting[place - 1].overtaken < MOST_OVERTAKEN:
                place -= 1
                waiting[place].overtaken += 1
            waiting.insert(place, Waiting(priority, admission.join(priority=priority)))
        elif gone is not None and gone < len(running):
            running.pop(gone).leave()
        elif gone is not None and gone - len(running) < len(waiting):
            waiting.pop(gone - len(running)).ticket.leave()
        while waiting and len(running) < parallel:
            running.append(waiting.pop(0).ticket)
        assert [ticket.position for ticket in running] == [0] * len(running)
        assert [other.ticket.position for other in waiting] == list(range(1, len(waiting) + 1))
        assert (admission.running, admission.waiting) == (len(running), len(waiting))
    assert all([await takes_its_turn(ticket) for ticket in running])
    assert not any([await takes_its_turn(other.ticket) for other in waiting])
