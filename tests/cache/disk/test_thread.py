"""The disk's thread: what goes first, what waits, what a full queue and an end do."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

import pytest

from ds4trio.cache import State
from ds4trio.cache.disk import Block, BlockStore, DiskThread
from ds4trio.cache.disk import thread as thread_module
from ds4trio.cache.disk.format import Payload
from tests.cache.disk.blocks import Clock, blocks_of, payload_of
from tests.cache.disk.faults import FaultyFiles

WAIT = 60
"""Seconds after which a test gives up on a thread."""


class Recorder(BlockStore):
    """A store in memory that notes what is asked, and waits before a write while its gate is closed."""

    def __init__(self) -> None:
        clock = Clock()
        super().__init__(Path("/kv"), fingerprint=b"model", space_bytes=1 << 30, files=FaultyFiles(clock), clock=clock)
        self.open()
        self.asked: list[str] = []
        self.times: list[float] = []
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Semaphore(0)
        """Released as each write begins."""

    def write(self, block: Block, payload: Payload, *, words: str = "") -> bool:
        self.asked.append(f"write {block.tokens[0]}")
        self.times.append(time.monotonic())
        self.began.release()
        assert self.gate.wait(WAIT)
        return super().write(block, payload, words=words)

    def read(self, block: Block) -> State | None:
        self.asked.append(f"read {block.tokens[0]}")
        return super().read(block)


class Answers:
    """Takes payloads in the disk's thread and hands them to the test."""

    def __init__(self) -> None:
        self.got: list[State | None] = []
        self.threads: list[threading.Thread] = []
        self._there = threading.Semaphore(0)

    def __call__(self, payload: State | None) -> None:
        self.got.append(payload)
        self.threads.append(threading.current_thread())
        self._there.release()

    def wait(self) -> State | None:
        assert self._there.acquire(timeout=WAIT)
        return self.got[-1]


def block(store: BlockStore, number: int) -> Block:
    return blocks_of(store.root, [number] * 4)[0]


@contextmanager
def running(disk: DiskThread) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=disk.run)
    thread.start()
    try:
        yield thread
    finally:
        disk.close(deadline=0)
        thread.join(WAIT)
        assert not thread.is_alive()


def finished(disk: DiskThread, thread: threading.Thread) -> None:
    """Let it do all it has been given."""
    disk.close(deadline=inf)
    thread.join(WAIT)
    assert not thread.is_alive()


def test_what_is_written_can_be_read() -> None:
    store, answers = Recorder(), Answers()
    disk = DiskThread(store)
    one = block(store, 1)
    with running(disk) as thread:
        assert disk.write(one, payload_of(one.id))
        finished(disk, thread)
    assert store.match(one.tokens).length == 4
    disk = DiskThread(store)
    with running(disk) as thread:
        disk.read(one, answers)
        assert bytes(answers.wait() or b"") == payload_of(one.id)
        assert answers.threads == [thread]
        disk.read(block(store, 2), answers)
        assert answers.wait() is None


def test_reads_go_before_writes() -> None:
    store, answers = Recorder(), Answers()
    disk = DiskThread(store)
    store.gate.clear()
    with running(disk) as thread:
        disk.write(block(store, 1), b"kv")
        assert store.began.acquire(timeout=WAIT)
        disk.write(block(store, 2), b"kv")
        disk.read(block(store, 3), answers)
        disk.read(block(store, 4), answers)
        store.gate.set()
        finished(disk, thread)
    assert store.asked == ["write 1", "read 3", "read 4", "write 2"]


def test_the_queue_is_bounded_in_bytes() -> None:
    store = Recorder()
    disk = DiskThread(store, queue_bytes=100)
    assert disk.write(block(store, 1), bytes(60))
    assert disk.queued_bytes == 60
    assert not disk.write(block(store, 2), bytes(41))
    assert store.missing(store.root, 0, [2] * 4) is not None, "it may be offered again"
    assert disk.write(block(store, 3), bytes(40))
    assert disk.write(block(store, 1), b"") is True, "it is on its way"
    with running(disk) as thread:
        finished(disk, thread)
    assert disk.queued_bytes == 0
    assert store.asked == ["write 1", "write 3"]


def test_a_payload_larger_than_the_queue_goes_alone() -> None:
    store = Recorder()
    disk = DiskThread(store, queue_bytes=100)
    assert disk.write(block(store, 1), bytes(500))
    assert not disk.write(block(store, 2), b"kv")
    with running(disk) as thread:
        finished(disk, thread)
    assert store.match([1] * 4).length == 4


def test_a_block_on_its_way_is_not_missing() -> None:
    store = Recorder()
    disk = DiskThread(store)
    disk.write(block(store, 1), b"kv")
    assert store.missing(store.root, 0, [1] * 4) is None
    assert store.match([1] * 4).length == 0, "nor is it there"


def test_writes_keep_to_a_rate() -> None:
    store = Recorder()
    disk = DiskThread(store, bytes_per_second=1_000_000)
    with running(disk):
        for number in range(4):
            assert disk.write(block(store, number), bytes(600_000))
        for _ in range(4):
            assert store.began.acquire(timeout=WAIT)
    # A second's worth may go at once, which the second block uses up.
    assert store.times[2] - store.times[0] >= 0.15
    assert store.times[3] - store.times[2] >= 0.55


def test_writes_wait_for_an_idle_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_module, "PATIENCE_SECONDS", 1e6)
    store, answers = Recorder(), Answers()
    disk = DiskThread(store, queue_bytes=1_000)
    disk.set_idle(False)
    disk.write(block(store, 1), b"kv")
    with running(disk) as thread:
        for number in (2, 3):
            disk.read(block(store, number), answers)
            answers.wait()
        assert store.asked == ["read 2", "read 3"]
        disk.set_idle(True)
        assert store.began.acquire(timeout=WAIT)
        finished(disk, thread)
    assert store.asked[2:] == ["write 1"]


def test_writes_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_module, "PATIENCE_SECONDS", 0.1)
    store = Recorder()
    disk = DiskThread(store)
    disk.set_idle(False)
    asked = time.monotonic()
    disk.write(block(store, 1), b"kv")
    with running(disk):
        assert store.began.acquire(timeout=WAIT)
    assert store.times[0] - asked >= 0.1


def test_a_crowded_queue_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_module, "PATIENCE_SECONDS", 1e6)
    store = Recorder()
    disk = DiskThread(store, queue_bytes=100)
    disk.set_idle(False)
    disk.write(block(store, 1), bytes(60))
    with running(disk):
        assert store.began.acquire(timeout=WAIT)


def test_the_end_drops_what_there_is_no_time_for(caplog: pytest.LogCaptureFixture) -> None:
    store, answers = Recorder(), Answers()
    disk = DiskThread(store)
    store.gate.clear()
    with running(disk) as thread:
        for number in (1, 2, 3):
            disk.write(block(store, number), b"kv")
        assert store.began.acquire(timeout=WAIT)
        disk.read(block(store, 4), answers)
        disk.close(deadline=0)
        store.gate.set()
        thread.join(WAIT)
    assert store.asked == ["write 1"]
    assert answers.got == [None]
    assert store.missing(store.root, 0, [2] * 4) is not None
    assert disk.queued_bytes == 0
    assert "2 KV blocks" in caplog.text
    disk.read(block(store, 1), answers)
    assert answers.got == [None, None]
    assert not disk.write(block(store, 5), b"kv")


def test_until_its_deadline_the_end_waits_for_neither_rate_nor_idleness() -> None:
    store = Recorder()
    disk = DiskThread(store, bytes_per_second=1)
    disk.set_idle(False)
    for number in range(4):
        disk.write(block(store, number), bytes(1_000))
    with running(disk) as thread:
        finished(disk, thread)
    assert store.counters.written == 4


def test_an_answer_that_is_not_taken_does_not_end_the_thread() -> None:
    store, answers = Recorder(), Answers()
    disk = DiskThread(store)

    def refuse(payload: State | None) -> None:
        raise RuntimeError("the event loop is gone")

    with running(disk):
        disk.read(block(store, 1), refuse)
        disk.read(block(store, 2), answers)
        assert answers.wait() is None
