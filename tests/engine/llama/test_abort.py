"""Who may stop a running batch: its owners, a newcomer while it gives way, and the end of the server."""

from dataclasses import dataclass

from ds4trio.engine.llama.abort import AbortFlag

LONG = 60.0


@dataclass(eq=False)
class Owner:
    cancelled: bool = False


def stopped(flag: AbortFlag) -> bool:
    return flag._buffer[0] == b"\1"


def test_a_newcomer_stops_a_batch_that_gives_way_and_no_other_one() -> None:
    flag, owner = AbortFlag(), Owner()
    with flag.batch([owner], may_abort=True, gives_way=LONG) as valid:
        assert valid
        assert not stopped(flag)
        flag.make_way()
        assert stopped(flag)
    flag.look()
    with flag.batch([owner], may_abort=True) as valid:
        flag.make_way()
        assert valid
        assert not stopped(flag)


def test_a_batch_gives_way_for_its_first_part_only() -> None:
    flag, owner = AbortFlag(), Owner()
    with flag.batch([owner], may_abort=True, gives_way=1e-9):
        flag.make_way()
        assert not stopped(flag)


def test_who_comes_between_the_mailbox_and_the_batch_is_seen() -> None:
    flag, owner = AbortFlag(), Owner()
    flag.look()
    flag.make_way()
    with flag.batch([owner], may_abort=True, gives_way=LONG) as valid:
        assert not valid
    with flag.batch([owner], may_abort=True) as valid:
        assert valid, "one that does not give way is nobody's business"
    flag.look()
    with flag.batch([owner], may_abort=True, gives_way=LONG) as valid:
        assert valid


def test_a_cancel_hits_its_own_batch_and_no_later_one() -> None:
    flag, owner, other = AbortFlag(), Owner(), Owner()
    with flag.batch([owner], may_abort=True):
        flag.cancel(other)
        assert not stopped(flag)
        flag.cancel(owner)
        assert stopped(flag)
    with flag.batch([owner], may_abort=True) as valid:
        assert not valid
    with flag.batch([Owner()], may_abort=True) as valid:
        assert valid
        assert not stopped(flag)
