"""The store on real files: what it keeps, shares and gives up, and how fast it finds it."""

import logging
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ds4trio.cache.disk import BlockStore, block_id
from ds4trio.cache.disk.format import encode
from tests.cache.disk.blocks import Clock, blocks_of, path_of, payload_of, read_all, write_chain


def opened(
    directory: Path, *, fingerprint: bytes = b"model", space: int = 1 << 20, clock: Clock | None = None
) -> BlockStore:
    store = BlockStore(
        directory, fingerprint=fingerprint, space_bytes=space, model="tiny", clock=clock if clock else time.time
    )
    store.open()
    return store


def file_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def test_what_was_written_is_found_by_the_next_server(tmp_path: Path) -> None:
    store = opened(tmp_path / "kv")
    write_chain(store, range(10))
    assert store.match(range(10)).length == 10
    assert store.match([*range(7), 99]).length == 7
    assert store.match([99]).length == 0
    again = opened(tmp_path / "kv")
    assert read_all(again, range(20)) == 10
    assert again.size == store.size == file_bytes(tmp_path)
    assert again.counters.hits == 3
    assert store.counters.written == 3


def test_only_what_is_not_there_is_missing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first = blocks_of(store.root, range(8))[0]
    block = store.missing(store.root, 0, range(4))
    assert block is not None
    assert block.id == first.id == block_id(store.root, first.tokens)
    assert store.announce(block)
    assert not store.announce(block)
    assert store.missing(store.root, 0, range(4)) is None
    store.withdraw(block)
    assert store.missing(store.root, 0, range(4)) is not None
    assert store.write(block, b"kv")
    assert store.missing(store.root, 0, range(4)) is None
    assert store.missing(first.id, 4, range(4, 8)) is not None
    assert store.missing(store.root, 0, range(4), whole=True) is not None


def test_a_state_is_used_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for length in (3, 6):
        block = store.missing(store.root, 0, range(length), whole=True)
        assert block is not None
        assert store.write(block, payload_of(block.id))
    assert [store.match(range(length)).length for length in (2, 3, 5, 6, 9)] == [0, 3, 3, 6, 6]
    assert [block.end for block in store.match(range(9)).blocks] == [6]


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        store = opened(tmp_path / "a" / "kv")
        (block,) = write_chain(store, range(4))
    finally:
        os.umask(previous)
    path = path_of(tmp_path / "a" / "kv", store, block)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


def test_two_servers_share_what_they_write_and_miss_what_the_other_gave_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    blocks = write_chain(one, range(8))
    assert read_all(other, range(8)) == 8
    match = other.match(range(8))
    path_of(tmp_path, one, blocks[1]).unlink()
    caplog.set_level(logging.INFO)
    assert other.read(match.blocks[1]) is None
    assert len(caplog.records) == 1
    assert other.match(range(8)).length == one.match(range(8)).length == 4
    write_chain(other, range(8))
    assert read_all(one, range(8)) == 8


def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    store = opened(tmp_path)
    orphan = tmp_path / store.root.hex() / "0123-abcd.tmp"
    orphan.write_bytes(b"half a block")
    foreign = orphan.with_name("notes.txt")
    foreign.write_bytes(b"not ours")
    handle = store._files.lock(tmp_path / "lock")  # a server that is writing just now
    try:
        store.match(range(4))
        assert orphan.exists()
    finally:
        store._files.close(handle)
    write_chain(store, range(4))
    assert not orphan.exists()
    assert foreign.exists()


def test_the_least_missed_goes_first_and_running_requests_lose_nothing(tmp_path: Path) -> None:
    clock = Clock(time.time())
    store = opened(tmp_path, clock=clock, space=3_000)

    def keep(first: int) -> list[int]:
        """Write a conversation of one block, each as large as the others and a little later."""
        tokens = [first, 1, 2, 3]
        (block,) = blocks_of(store.root, tokens)
        assert store.write(block, bytes(300))
        assert file_bytes(tmp_path) <= 3_000
        clock.now += 1
        return tokens

    running, old, used = keep(0), keep(1), keep(2)
    later = [keep(first) for first in range(3, 6)]
    assert store.counters.evicted == 0
    store.pin(store.match(running).blocks)
    assert store.read(store.match(used).blocks[0])
    for evicted, gone in enumerate([old, *later], start=1):
        keep(100 + evicted)
        assert store.counters.evicted == evicted
        assert store.match(gone).length == 0
        assert store.match(used).length == store.match(running).length == 4
    store.unpin(store.match(running).blocks)
    keep(200)
    assert store.match(running).length == 0


def test_nothing_is_written_where_everything_is_pinned(tmp_path: Path) -> None:
    store = opened(tmp_path, space=600)
    (block,) = write_chain(store, range(4))
    store.pin([block, block])
    store.unpin([block])
    (other,) = blocks_of(store.root, [9] * 4)
    assert not store.write(other, bytes(400))
    assert read_all(store, range(4)) == 4
    store.unpin([block])
    assert store.write(other, bytes(400))
    assert not store.write(other, bytes(4_000)) or store.size <= 600


def test_a_growing_conversation_does_not_push_out_its_own_beginning(tmp_path: Path) -> None:
    clock = Clock(time.time())
    store = opened(tmp_path, clock=clock, space=3_000)
    for start in range(20):
        write_chain(store, [50 + start, 1, 2, 3])
        clock.now += 1
    for length in range(4, 17, 4):
        write_chain(store, range(length))
        assert store.match(range(length)).length == length
        clock.now += 1


def test_the_budget_is_that_of_all_models(tmp_path: Path) -> None:
    first = opened(tmp_path, space=2_000)
    for start in range(10):
        write_chain(first, [50 + start, 1, 2, 3])
    second = opened(tmp_path, fingerprint=b"another", space=2_000)
    assert second.size == first.size
    for start in range(10):
        write_chain(second, [50 + start, 1, 2, 3])
        assert file_bytes(tmp_path) <= 2_000
    assert second.counters.evicted >= 10 - 1
    smaller = opened(tmp_path, space=700)
    assert file_bytes(tmp_path) == smaller.size <= 700


def test_the_end_of_an_earlier_turn_goes_when_a_longer_block_has_it(tmp_path: Path) -> None:
    store = opened(tmp_path)
    write_chain(store, range(6))
    write_chain(store, [*range(4), 9])
    write_chain(store, range(8))
    assert len(list(tmp_path.rglob("*.kv"))) == 3
    assert store.size == file_bytes(tmp_path)
    assert read_all(store, [*range(4), 9]) == 5
    assert read_all(store, range(6)) == 6


def test_uses_survive_a_restart(tmp_path: Path) -> None:
    clock = Clock(time.time())
    store = opened(tmp_path, clock=clock)
    (block,) = write_chain(store, range(4))
    for _ in range(3):
        read_all(store, range(4))
    before = store._own.index.get(block.id)
    after = opened(tmp_path, clock=clock)._own.index.get(block.id)
    assert before is not None
    assert after is not None
    assert after.rank == pytest.approx(before.rank, abs=0.001)
    assert after.used == pytest.approx(clock.now, abs=0.001)


def test_the_log_has_no_word_of_a_prompt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = opened(tmp_path)
    blocks = write_chain(store, range(8))
    for block in blocks:
        path = path_of(tmp_path, store, block)
        assert (b"once upon" in path.read_bytes()) == (block.start == 0)
        path.write_bytes(path.read_bytes()[:-1])
        assert store.read(block) is None
    assert len(caplog.records) == 2
    assert "once" not in caplog.text


def test_a_directory_that_is_a_file_disables_the_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "kv").write_text("a file")
    store = opened(tmp_path / "kv")
    (block,) = blocks_of(store.root, range(4))
    assert store.match(range(4)).length == 0
    assert not store.write(block, b"kv")
    assert store.read(block) is None
    assert store.size == 0
    assert [record.levelname for record in caplog.records].count("WARNING") == len(caplog.records) <= 2


def test_a_directory_that_vanishes_is_empty_and_comes_back(tmp_path: Path) -> None:
    store = opened(tmp_path / "kv")
    write_chain(store, range(8))
    for path in sorted((tmp_path / "kv").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "kv").rmdir()
    assert store.match(range(8)).length == 0
    write_chain(store, range(8))
    assert read_all(store, range(8)) == 8


def lay_down(directory: Path, conversations: Sequence[Sequence[int]]) -> int:
    """Put the files of conversations there as they are once written, but without waiting for a disk."""
    store = opened(directory)
    count = 0
    for tokens in conversations:
        for block in blocks_of(store.root, tokens, 256):
            head = encode(block, b"kv", root=store.root, created=1.0, model="tiny", words="")
            path_of(directory, store, block).write_bytes(head + b"kv")
            count += 1
    return count


def test_two_thousand_blocks_are_known_within_a_second(tmp_path: Path) -> None:
    blocks = lay_down(tmp_path, [range(start, start + 256 * 400) for start in range(5)])
    started = time.perf_counter()
    store = opened(tmp_path, space=1 << 30)
    seconds = time.perf_counter() - started
    assert store.match(range(256 * 400)).length == 256 * 400
    assert blocks == 2_000
    assert seconds < 1, seconds


def test_a_long_prompt_is_matched_within_20_ms(tmp_path: Path) -> None:
    prompt = list(range(100_000))
    lay_down(tmp_path, [prompt])
    store = opened(tmp_path, space=1 << 30)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        match = store.match(prompt)
        times.append(time.perf_counter() - started)
        assert (len(match.blocks), match.length) == (391, 100_000)
    assert min(times) < 0.02, times
