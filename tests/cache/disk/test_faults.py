"""The store on a disk that refuses, tears, forgets and flips bits: a miss at worst, within the budget always."""

import errno
import logging
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ds4trio.cache.disk import BlockStore
from ds4trio.cache.disk.trouble import RETRY_SECONDS
from tests.cache.disk.blocks import Clock, blocks_of, path_of, payload_of, read_all, write_chain
from tests.cache.disk.faults import Crash, Fault, FaultyFiles, Node

HOME = Path("/kv")
SPACE = 2_500
"""Room for about seven small blocks."""
ERRNOS = [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE]
LATE = pytest.mark.parametrize("late", [False, True], ids=["refused", "done and refused"])


def opened(files: FaultyFiles, *, fingerprint: bytes = b"model", space: int = SPACE) -> BlockStore:
    store = BlockStore(HOME, fingerprint=fingerprint, space_bytes=space, files=files, clock=files.clock)
    store.open()
    return store


def operations_of_a_write() -> int:
    files = FaultyFiles(Clock(), most=64)
    store = opened(files)
    write_chain(store, range(4))
    before = files.operations
    write_chain(store, range(8))
    return files.operations - before


WRITE_OPERATIONS = operations_of_a_write()


@LATE
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("at", range(WRITE_OPERATIONS))
def test_an_error_at_any_operation_of_a_write_loses_that_block_and_nothing_else(
    at: int, number: int, late: bool
) -> None:
    clock = Clock()
    files = FaultyFiles(clock, most=64)
    store = opened(files)
    write_chain(store, range(4))
    block = blocks_of(store.root, range(8))[1]
    files.fail(Fault(number, late=late), after=at)
    written = store.write(block, payload_of(block.id))
    assert not files.faults
    assert not written or files.is_durable(path_of(HOME, store, block))
    assert read_all(store, range(8)) in ({8} if written else {4, 8})
    clock.now += RETRY_SECONDS
    assert store.write(block, payload_of(block.id))
    assert read_all(opened(files), range(8)) == 8
    assert not temporary(files)


@LATE
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power lost"])
@pytest.mark.parametrize("at", range(WRITE_OPERATIONS))
def test_the_end_at_any_operation_of_a_write_leaves_what_was_written_before(at: int, power: bool, late: bool) -> None:
    files = FaultyFiles(Clock(), most=64)
    store = opened(files)
    write_chain(store, range(4))
    block = blocks_of(store.root, range(8))[1]
    files.fail(Fault(None, late=late), after=at)
    with pytest.raises(Crash):
        store.write(block, payload_of(block.id))
    if power:
        files.lose_power(lambda below: (at * 7 + below) % below)
    else:
        files.kill()
    store = opened(files)
    assert not temporary(files)
    assert read_all(store, range(8)) in {4, 8}


def test_a_block_whose_writer_failed_at_the_last_step_is_made_to_last_by_the_next() -> None:
    files = FaultyFiles(Clock())
    store, other = opened(files), opened(files)
    (block,) = blocks_of(store.root, range(4))
    path = path_of(HOME, store, block)
    before = files.operations
    assert store.write(block, payload_of(block.id))
    last_but_one = files.operations - before - 2  # then the lock is closed
    files.remove(path)
    files.fail(Fault(errno.EIO), after=last_but_one)
    assert not store.write(block, payload_of(block.id))
    assert path in files.all_files
    assert not files.is_durable(path)
    assert other.write(block, payload_of(block.id))
    assert files.is_durable(path)


def test_every_flipped_bit_is_a_miss() -> None:
    files, store, path = one_block()
    node = files.all_files[path]
    good = bytes(node.data)
    (block,) = store.match(range(4)).blocks
    for bit in range(8 * len(good)):
        node = put_back(files, path, good)
        node.data[bit // 8] ^= 1 << bit % 8
        assert store.read(block) is None, f"bit {bit}"
        assert opened(files).match(range(5)).length in {0, 4}  # a payload's damage shows when it is read
    put_back(files, path, good)
    assert read_all(opened(files), range(4)) == 4


def test_every_truncation_is_a_miss() -> None:
    files, store, path = one_block()
    good = bytes(files.all_files[path].data)
    (block,) = store.match(range(4)).blocks
    for length in range(len(good)):
        put_back(files, path, good[:length])
        assert store.read(block) is None, f"cut at {length}"
        put_back(files, path, good[:length])
        assert opened(files).match(range(4)).length == 0
    put_back(files, path, good + b"x")
    assert store.read(block) is None


def test_a_file_under_another_name_or_model_is_a_miss() -> None:
    files, store, path = one_block()
    good = bytes(files.all_files[path].data)
    other = opened(files, fingerprint=b"another model")
    write_chain(other, range(8))
    for block in blocks_of(other.root, range(8)):
        put_back(files, path_of(HOME, other, block), good)
        assert other.read(block) is None
    assert read_all(other, range(8)) == 0
    assert read_all(store, range(8)) == 4


def test_a_file_of_a_later_version_is_left_alone_while_there_is_room() -> None:
    files, _, path = one_block()
    node = files.all_files[path]
    node.data[8:12] = (2).to_bytes(4, "little") if node.data[8] else (2).to_bytes(4, "big")
    store = opened(files)
    assert store.match(range(4)).length == 0
    assert path in files.all_files
    assert store.size == len(node.data)
    store = opened(files, space=len(node.data))
    write_chain(store, range(100, 102))
    assert path not in files.all_files


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_full_or_broken_disk_warns_once_and_recovers(number: int, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    files = FaultyFiles(clock)
    store = opened(files)
    first, second = blocks_of(store.root, range(8))
    caplog.set_level(logging.INFO)
    for _ in range(3):
        files.fail(Fault(number), after=6)
        assert not store.write(first, payload_of(first.id))
        before = files.operations
        assert not store.write(second, payload_of(second.id))
        assert files.operations == before, "it is left in peace for a while"
        clock.now += RETRY_SECONDS
        files.faults.clear()
    for block in (first, second):
        assert store.write(block, payload_of(block.id))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "fails" in caplog.messages[0]
    assert "works again" in caplog.messages[1]
    assert store.counters.errors == 3


def test_a_block_that_cannot_be_read_for_now_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    files = FaultyFiles(clock)
    store = opened(files)
    (block,) = write_chain(store, range(4))
    caplog.set_level(logging.INFO)
    files.fail(Fault(errno.EIO))
    assert store.read(block) is None
    assert store.match(range(4)).length == 0
    clock.now += RETRY_SECONDS
    assert read_all(store, range(4)) == 4
    assert [message.split(": ")[0].split(",")[0] for message in caplog.messages] == [
        f"reading KV from {HOME} fails",
        f"reading KV from {HOME} works again",
    ]
    assert (store.counters.misses, store.counters.errors, store.counters.hits) == (1, 1, 1)


def test_a_directory_that_cannot_be_used_costs_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    files = FaultyFiles(clock)
    for at in range(3):
        files.fail(Fault(errno.EACCES), after=at)
    store = opened(files)
    assert store.match(range(4)).length == 0
    assert len(caplog.records) == 1
    clock.now += RETRY_SECONDS
    write_chain(store, range(4))
    assert read_all(store, range(4)) == 4


def one_block() -> tuple[FaultyFiles, BlockStore, Path]:
    files = FaultyFiles(Clock())
    store = opened(files)
    (block,) = write_chain(store, range(4))
    return files, store, path_of(HOME, store, block)


def put_back(files: FaultyFiles, path: Path, data: bytes) -> Node:
    """Let a file hold these bytes, and every store look again."""
    if path not in files.all_files:
        files.close(files.create(path))
    node = files.all_files[path]
    node.data = bytearray(data)
    return node


def temporary(files: FaultyFiles) -> list[Path]:
    return [path for path in files.all_files if path.suffix == ".tmp"]


TOKENS = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=14)
WHICH = st.integers(0, 2)


class Disk(RuleBasedStateMachine):
    """Three servers, two of them with the same model, share a directory on a bad disk."""

    @initialize(most=st.sampled_from([7, 100, 1 << 20]))
    def start(self, most: int) -> None:
        self.clock = Clock()
        self.files = FaultyFiles(self.clock, most=most)
        self.hurt: set[Path] = set()
        self.restart()

    def restart(self) -> None:
        self.stores = [opened(self.files, fingerprint=name) for name in (b"model", b"model", b"another")]
        assert not temporary(self.files)

    @rule(which=WHICH, tokens=TOKENS, data=st.data())
    def write(self, which: int, tokens: list[int], data: st.DataObject) -> None:
        store = self.stores[which]
        block = blocks_of(store.root, tokens)[-1]
        self.put(store, block.parent, block.start, list(block.tokens), data, whole=False)

    @rule(which=WHICH, tokens=TOKENS, data=st.data())
    def write_state(self, which: int, tokens: list[int], data: st.DataObject) -> None:
        store = self.stores[which]
        self.put(store, store.root, 0, tokens, data, whole=True)

    def put(
        self, store: BlockStore, parent: bytes, start: int, tokens: list[int], data: st.DataObject, *, whole: bool
    ) -> None:
        block = store.missing(parent, start, tokens, whole=whole)
        if block is None:
            return
        path = path_of(HOME, store, block)
        try:
            written = store.write(block, payload_of(block.id), words="hello")
        except Crash:
            self.end(data)
            return
        if written:
            assert self.files.is_durable(path)

    @rule(which=WHICH, tokens=TOKENS, data=st.data())
    def read(self, which: int, tokens: list[int], data: st.DataObject) -> None:
        try:
            read_all(self.stores[which], tokens)
        except Crash:
            self.end(data)

    @rule(number=st.sampled_from([*ERRNOS, None]), after=st.integers(0, 25), late=st.booleans())
    def fail(self, number: int | None, after: int, late: bool) -> None:
        self.files.fail(Fault(number, late=late), after=after)

    @rule(data=st.data(), power=st.booleans())
    def stop(self, data: st.DataObject, power: bool) -> None:
        self.end(data, power=power)

    def end(self, data: st.DataObject, *, power: bool | None = None) -> None:
        safe = {path: bytes(node.data) for path, node in self.files.all_files.items() if self.files.is_durable(path)}
        if data.draw(st.booleans()) if power is None else power:
            self.files.lose_power(lambda below: data.draw(st.integers(0, below - 1)))
        else:
            self.files.kill()
        after = {path: bytes(node.data) for path, node in self.files.all_files.items()}
        assert all(after[path] == content for path, content in safe.items())
        self.restart()

    @rule(data=st.data())
    def flip(self, data: st.DataObject) -> None:
        path = self.some_block(data)
        if path is not None:
            node = self.files.all_files[path]
            bit = data.draw(st.integers(0, 8 * len(node.data) - 1))
            node.data[bit // 8] ^= 1 << bit % 8
            node.synced = bytes(node.data)

    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        path = self.some_block(data)
        if path is not None:
            node = self.files.all_files[path]
            del node.data[data.draw(st.integers(0, len(node.data) - 1)) :]
            node.synced = bytes(node.data)

    @rule(data=st.data())
    def somebody_removes(self, data: st.DataObject) -> None:
        path = self.some_block(data)
        if path is not None:
            faults, self.files.faults = self.files.faults, {}
            self.files.remove(path)
            self.files.faults = faults

    @rule(seconds=st.sampled_from([0.5, 3.0, RETRY_SECONDS, 1e6]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    def some_block(self, data: st.DataObject) -> Path | None:
        blocks = sorted(path for path, node in self.files.all_files.items() if path.suffix == ".kv" and node.data)
        return data.draw(st.sampled_from(blocks)) if blocks else None

    @invariant()
    def nothing_stays_open(self) -> None:
        assert not hasattr(self, "files") or self.files.open_handles == 0

    @invariant()
    def the_budget_is_kept(self) -> None:
        if hasattr(self, "files"):
            assert sum(len(node.data) for node in self.files.all_files.values()) <= SPACE

    def teardown(self) -> None:
        if not hasattr(self, "files"):
            return
        self.files.kill()
        self.restart()
        self.clock.now += RETRY_SECONDS
        for store in self.stores:
            blocks = blocks_of(store.root, [7, 8, 9])
            assert store.write(blocks[0], payload_of(blocks[0].id))
            assert read_all(store, [7, 8, 9]) == 3


TestDisk = Disk.TestCase
TestDisk.settings = settings(max_examples=60, stateful_step_count=40)
