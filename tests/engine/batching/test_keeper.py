"""KV that outlives the process: what is written, what comes back, and that it is never the wrong one."""

import pytest

from ds4trio.cache import MemoryKind
from ds4trio.cache.disk import Match
from ds4trio.engine.base import Phase, Progress
from ds4trio.engine.batching.blocks import BLOCK
from tests.engine.batching import bench as clients
from tests.engine.batching.bench import LEAST_KEPT, Bench, tokens_of
from tests.engine.batching.fake_disk import FakeDisk
from tests.engine.batching.fake_memory import KINDS
from tests.engine.batching.kinds import every_kind, that_roll_back
from tests.engine.batching.machines import gpu

pytestmark = pytest.mark.usefixtures("long_answers")


def left_by(kind: MemoryKind, prompt: list[int]) -> FakeDisk:
    """What a server leaves on disk that has answered a prompt and stopped."""
    disk = FakeDisk()
    bench = Bench(kind, disk=disk)
    bench.ask(prompt)
    bench.run()
    bench.batcher.close()
    return disk


def in_windows(kind: MemoryKind) -> bool:
    return bool(kind.window) and not kind.whole_only


@every_kind
def test_after_a_restart_a_prompt_is_not_computed_again(kind: MemoryKind) -> None:
    prompt = tokens_of(1, 2500)
    disk = left_by(kind, prompt)
    after = Bench(kind, disk=disk)
    again = after.ask(prompt)
    after.run()
    again.check()
    # Where a block is of use as a whole only, its end must be one that the prompt has.
    assert again.cached == (2304 if in_windows(kind) else 2499)
    assert after.computed <= (200 if in_windows(kind) else 10)
    assert not disk.pinned


@that_roll_back
def test_what_a_kill_costs_is_the_block_that_was_being_filled(kind: MemoryKind) -> None:
    disk, prompt = FakeDisk(), tokens_of(1, 2500)
    killed = Bench(kind, disk=disk)
    one = killed.ask(prompt)
    killed.until(lambda: one.request.computed > 1600)
    computed = one.request.computed
    after = Bench(kind, disk=disk)
    again = after.ask(prompt)
    after.run()
    again.check()
    assert again.cached > computed - BLOCK - 128  # a step may end with two blocks of which one is saved


@that_roll_back
def test_the_first_block_of_a_long_prompt_is_kept_as_soon_as_it_is_full(kind: MemoryKind) -> None:
    disk = FakeDisk()
    bench = Bench(kind, disk=disk)
    one = bench.ask(tokens_of(1, 2500))
    bench.until(lambda: one.request.computed >= BLOCK)
    assert one.request.computed < LEAST_KEPT
    assert len(disk.payloads) == 1


@every_kind
def test_a_prefill_that_was_given_up_goes_on_where_it_was(kind: MemoryKind) -> None:
    disk, prompt = FakeDisk(), tokens_of(1, 2500)
    killed = Bench(kind, disk=disk)
    one = killed.ask(prompt)
    killed.until(lambda: one.request.computed > 1600)
    one.request.cancelled = True
    computed = one.request.computed
    killed.run()
    after = Bench(kind, disk=disk)
    again = after.ask(prompt)
    after.run()
    again.check()
    assert again.cached >= computed - 32


@every_kind
def test_a_growing_conversation_is_written_about_once(kind: MemoryKind) -> None:
    disk, said = FakeDisk(), tokens_of(1, 600)
    bench = Bench(kind, cells=20_000, disk=disk)
    for turn in range(10):
        client = bench.ask(said, most=60, turns=(500, len(said) - 5))
        bench.run()
        client.check()
        said = [*said, *clients.answer(said, 60)[0], *tokens_of(2 + turn, 300)]
    at_once = FakeDisk()
    other = Bench(kind, cells=20_000, disk=at_once)
    other.ask(said)
    other.run()
    if not kind.whole_only:
        assert disk.written_bytes <= 1.15 * at_once.written_bytes
    else:
        assert disk.written_bytes <= 2 * max(map(len, at_once.payloads.values()))


@every_kind
def test_two_conversations_share_the_blocks_of_what_they_have_in_common(kind: MemoryKind) -> None:
    disk, system = FakeDisk(), tokens_of(1, 1024)
    bench = Bench(kind, cells=20_000, disk=disk)
    for seed in (2, 3):
        bench.ask([*system, *tokens_of(seed, 300)], turns=(1024,))
        bench.run()
    after = Bench(kind, cells=20_000, disk=disk)
    third = after.ask([*system, *tokens_of(4, 300)], turns=(1024,))
    after.run()
    third.check()
    assert third.cached == 1024
    if not kind.whole_only:
        assert len(disk.payloads) == 4 + 3


@every_kind
def test_an_edited_prompt_takes_what_is_before_the_edit(kind: MemoryKind) -> None:
    disk, prompt = FakeDisk(), tokens_of(1, 2000)
    before = Bench(kind, disk=disk)
    before.ask(prompt, turns=(900,))
    before.run()
    after = Bench(kind, disk=disk)
    edited = after.ask([*prompt[:1000], *tokens_of(2, 500)], turns=(900,))
    after.run()
    edited.check()
    assert edited.cached == (900 if kind.whole_only else 768 if in_windows(kind) else 1000)


@every_kind
def test_a_block_that_cannot_be_had_is_computed(kind: MemoryKind) -> None:
    prompt = tokens_of(1, 2000)
    disk = left_by(kind, prompt)
    blocks = disk.match(prompt).blocks
    disk.lose(blocks[len(blocks) // 2])
    after = Bench(kind, disk=disk)
    again = after.ask(prompt)
    after.run()
    again.check()
    assert again.cached == (0 if kind.whole_only else BLOCK * (len(blocks) // 2))
    assert not disk.pinned


@every_kind
def test_while_a_prompt_comes_from_the_disk_others_are_computed(kind: MemoryKind) -> None:
    prompt = tokens_of(1, 2000)
    disk = left_by(kind, prompt)
    disk.slow = True
    after = Bench(kind, disk=disk)
    again, other = after.ask(prompt), after.ask(tokens_of(2, 100))
    after.until(lambda: other.released)
    assert again.request.loading is not None
    assert again.request.computed == 0
    while disk.reads:
        disk.deliver()
        after.step()
    after.run()
    again.check()
    assert again.cached == (1792 if in_windows(kind) else 1999)


@that_roll_back
def test_large_steps_are_kept_as_a_whole(kind: MemoryKind) -> None:
    disk, prompt = FakeDisk(), tokens_of(1, 8000)
    bench = Bench(kind, cells=9000, ubatch=2048, machine=gpu, disk=disk)
    one = bench.ask(prompt)
    bench.until(lambda: one.request.computed > 6000)
    computed = one.request.computed
    assert disk.match(prompt).length > computed - BLOCK


def test_a_queue_that_is_full_costs_no_copies() -> None:
    bench = Bench(KINDS["full"], disk=FakeDisk(full=True))
    bench.ask(tokens_of(1, 2000), most=50)
    bench.run()
    assert bench.memory.ranges == 0


def test_a_block_that_the_memory_refuses_costs_nobody_his_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, prompt = FakeDisk(), tokens_of(1, 2000)
    before = Bench(KINDS["full"], disk=disk)
    before.ask(prompt)
    before.run()
    after = Bench(KINDS["full"], disk=disk)
    other = after.ask(tokens_of(2, 300))
    after.run()
    monkeypatch.setattr(after.memory, "append", lambda *_: False)
    again = after.ask(prompt)
    after.run()
    again.check()
    assert again.cached == 0
    assert after.batcher._slots.match(other.prompt).reusable >= 299
    reads = len(disk.asked)
    after.ask([*prompt, *tokens_of(3, 300)])
    after.run()
    assert len(disk.asked) == reads, "it is not read again"


def test_a_disk_that_was_slow_once_is_asked_again_one_day() -> None:
    disk, prompt = FakeDisk(), tokens_of(1, 2000)
    before = Bench(KINDS["full"], cells=100_000, disk=disk, machine=gpu)
    before.ask(prompt)
    before.run()
    after = Bench(KINDS["full"], cells=100_000, disk=disk, machine=gpu)
    assert after.batcher._keeper is not None
    after.batcher._keeper._bytes_per_second = 1.0
    for number in range(200):
        again = after.ask([*prompt[: 2000 - number], *tokens_of(9, 10)])
        after.run()
        after.batcher._slots.give_up(10**6)
        for slot in after.batcher._slots.slots:
            after.batcher._cells.forget(slot)
        if again.cached:
            return
    raise AssertionError("never")


def test_what_comes_from_the_disk_is_told_as_such_and_is_no_miss() -> None:
    prompt = tokens_of(1, 2000)
    disk = left_by(KINDS["full"], prompt)
    after = Bench(KINDS["full"], disk=disk)
    after.ask([*prompt[:100], *tokens_of(2, 700)])  # from here on the prompt differs, as far as memory goes
    after.run()
    again = after.ask(prompt)
    after.run()
    told = [update for update in again.updates if isinstance(update, Progress)]
    loading = [progress for progress in told if progress.phase is Phase.LOADING]
    assert [progress.prefilled_tokens for progress in loading] == [100, *range(BLOCK, 1999, BLOCK)]
    assert told[len(loading)].cached_tokens == 1999
    assert all(progress.divergence is None for progress in told[len(loading) :])


@every_kind
def test_who_leaves_while_its_prompt_comes_from_the_disk_leaves_what_has_come(kind: MemoryKind) -> None:
    prompt = tokens_of(1, 2000)
    disk = left_by(kind, prompt)
    disk.slow = True
    after = Bench(kind, disk=disk)
    leaving = after.ask(prompt)
    after.step()
    if not kind.whole_only:
        disk.deliver()
        after.step()
    leaving.request.cancelled = True
    after.run()
    assert not disk.pinned
    disk.slow = False
    while disk.reads:
        disk.deliver()  # nobody waits for it any more
    again = after.ask(prompt)
    after.run()
    again.check()


@pytest.mark.parametrize("kind", [KINDS["full"], KINDS["hybrid"]], ids=["full", "hybrid"])
def test_a_full_queue_is_offered_the_same_blocks_again(kind: MemoryKind) -> None:
    disk, prompt = FakeDisk(full=True), tokens_of(1, 2000)
    bench = Bench(kind, disk=disk)
    one = bench.ask(prompt)
    bench.until(lambda: one.request.computed > 1500)
    assert not disk.payloads
    disk.full = False
    bench.run()
    bench.batcher.close()
    assert disk.match(prompt).length >= 1999


@every_kind
def test_a_full_kv_makes_room_for_what_comes_from_the_disk(kind: MemoryKind) -> None:
    prompt = tokens_of(1, 2000)
    disk = left_by(kind, prompt)
    after = Bench(kind, disk=disk, cells=2500)
    after.ask(tokens_of(2, 1500))
    after.run()
    again = after.ask(prompt)
    after.run()
    again.check()
    assert again.cached == (1792 if in_windows(kind) else 1999)


@every_kind
def test_a_short_prompt_is_not_kept(kind: MemoryKind) -> None:
    disk = FakeDisk()
    bench = Bench(kind, disk=disk)
    bench.ask(tokens_of(1, clients.LEAST_KEPT - 100), most=50)
    bench.run()
    bench.batcher.close()
    assert not disk.payloads


def test_the_end_of_a_conversation_is_kept_although_a_block_before_it_is_still_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk, prompt = FakeDisk(), tokens_of(1, 1000)
    bench = Bench(KINDS["full"], disk=disk)
    bench.ask(prompt)
    bench.run()
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(FakeDisk, "match", lambda *_: Match())
        bench.batcher.close()
    assert disk.match(prompt).length == 1000
