"""The queue: order of arrival, a place for each, and nobody left waiting for one who is gone."""

from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.engine import EngineStoppedError, QueueFullError
from ds4trio.engine.admission import Admission, Ticket


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
    with pytest.raises(QueueFullError, match="2 requests are waiting") as caught:
        admission.join()
    assert caught.value.retry_after >= 1
    assert str(caught.value.retry_after) in str(caught.value)
    assert (admission.running, admission.waiting) == (1, 2)


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


@pytest.mark.parametrize(("parallel", "service"), [(1, 0.0), (1, 12.0), (4, 12.0), (1, 100_000.0)])
async def test_retry_after_follows_the_measured_time_of_service(
    parallel: int, service: float, autojump_clock: trio.testing.MockClock
) -> None:
    admission = Admission(parallel=parallel, max_queue=0)
    for _ in range(60):
        ticket = admission.join()
        await trio.sleep(service)
        ticket.leave()
    for _ in range(parallel):
        admission.join()
    with pytest.raises(QueueFullError) as caught:
        admission.join()
    assert caught.value.retry_after == pytest.approx(min(60, max(1, service / parallel)), abs=1)


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
    moves=st.lists(st.one_of(st.none(), st.integers(0, 6)), max_size=40),
)
def test_any_history_of_joining_and_leaving_keeps_order_and_bounds(
    parallel: int, max_queue: int, moves: list[int | None]
) -> None:
    """None joins, a number lets that one of those inside leave."""
    trio.run(partial(check_history, parallel, max_queue, moves))


async def check_history(parallel: int, max_queue: int, moves: list[int | None]) -> None:
    admission = Admission(parallel=parallel, max_queue=max_queue)
    inside: list[Ticket] = []
    """In order of arrival: those who run come first, since turns do."""
    for move in moves:
        if move is not None:
            if move < len(inside):
                inside.pop(move).leave()
        elif len(inside) == parallel + max_queue:
            with pytest.raises(QueueFullError):
                admission.join()
        else:
            inside.append(admission.join())
        running, waiting = inside[:parallel], inside[parallel:]
        assert [ticket.position for ticket in inside] == [0] * len(running) + list(range(1, len(waiting) + 1))
        assert (admission.running, admission.waiting) == (len(running), len(waiting))
    assert [await takes_its_turn(ticket) for ticket in inside] == [index < parallel for index in range(len(inside))]
