"""The file: what a crash, a flipped bit or a full disk leaves of it."""

import logging
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.chat.replay.journal import RETRY_SECONDS, Journal, Record

RECORDS = [Record(b"v%d" % number, b"d", number, "<think>", f"thought {number}", b"\0" * 4) for number in range(5)]
BIG = Record(b"big", b"d", 1, "", "x" * 300_000, b"")


def written(path: Path, *batches: list[Record]) -> Journal:
    journal = Journal(path)
    for batch in batches:
        journal.append(batch, everything=lambda: pytest.fail("it is small"))
    return journal


def test_records_are_read_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    assert written(path, RECORDS[:2], [], RECORDS[2:]).read() == RECORDS == Journal(path).read()


def test_only_the_owner_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers"
    written(path, RECORDS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_no_file_is_no_records(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Journal(tmp_path / "none").read() == []
    assert not caplog.records


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journal") / "answers"
    written(path, RECORDS)
    return path


@given(data=st.data())
def test_a_torn_tail_is_cut_off(whole: Path, data: st.DataObject) -> None:
    content = whole.read_bytes()
    torn = whole.with_name("torn")
    torn.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    left = Journal(torn).read()
    assert left == RECORDS[: len(left)]
    written(torn, RECORDS[:1])
    assert Journal(torn).read() == [*left, RECORDS[0]]


@given(data=st.data())
def test_a_flipped_bit_ends_the_file(whole: Path, data: st.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    flipped = whole.with_name("flipped")
    flipped.write_bytes(content)
    left = Journal(flipped).read()
    assert left == RECORDS[: len(left)] != RECORDS


def test_another_kind_of_file_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    path.write_bytes(b"ds4trio answers 0\nwhatever")
    assert Journal(path).read() == []
    written(path, RECORDS)
    assert Journal(path).read() == RECORDS


def test_a_file_that_has_doubled_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    journal = Journal(path)
    sizes = []
    for _ in range(20):
        journal.append([BIG], everything=lambda: [BIG])
        sizes.append(path.stat().st_size)
    assert max(sizes) <= 1 << 20
    assert sizes.count(min(sizes)) > 1
    assert Journal(path).read()[-1] == BIG
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_large_file_may_grow_by_as_much_again(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    journal = Journal(path)
    everything = [BIG] * 10
    journal.append(everything, everything=lambda: everything)
    rewritten = path.stat().st_size
    for _ in range(9):
        journal.append([BIG], everything=lambda: pytest.fail("it has not doubled"))
    assert 1.8 < path.stat().st_size / rewritten < 2


def test_a_disk_that_fails_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    journal = Journal(tmp_path / "file" / "answers")
    with caplog.at_level(logging.WARNING, "ds4trio"):
        for _ in range(3):
            journal.append(RECORDS, everything=list)
            assert journal.read() == []
    assert len(caplog.records) == 1


def test_what_a_failed_disk_has_missed_is_written_once_it_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "answers"
    path.parent.touch()
    now = 1000.0
    monkeypatch.setattr("ds4trio.chat.replay.journal.time.monotonic", lambda: now)
    journal = Journal(path)
    first, *others = RECORDS
    with caplog.at_level(logging.WARNING, "ds4trio"):
        journal.append([first], everything=lambda: [first])
        path.parent.unlink()
        journal.append(others, everything=lambda: RECORDS)
        assert Journal(path).read() == []
        now += RETRY_SECONDS
        journal.append([BIG], everything=lambda: [*RECORDS, BIG])
        journal.append([BIG], everything=lambda: pytest.fail("it works"))
    assert Journal(path).read() == [*RECORDS, BIG, BIG]
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "answers cannot be kept on disk",
        "answers are kept on disk again",
    ]


def test_what_could_not_be_read_at_the_start_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers"
    written(path, RECORDS)
    journal = Journal(path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(OSError("too many open files")))
        assert journal.read() == []
        journal.append([BIG], everything=lambda: [BIG])
    journal.append([], everything=lambda: [BIG], last=True)
    assert Journal(path).read() == [*RECORDS, BIG]


def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "answers"
    written(path, RECORDS)
    path.with_name("answers.new").mkdir()  # so that it cannot be written anew
    journal = Journal(path)
    with caplog.at_level(logging.WARNING, "ds4trio"):
        for _ in range(3):
            journal.append([BIG] * 4, everything=lambda: [BIG])
    assert len(caplog.records) == 1
    assert Journal(path).read() == RECORDS
