"""A server that is killed while it writes leaves complete blocks, no rubbish, and all that it called durable."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ds4trio.cache.disk import BlockStore, RealFiles, verify
from tests.cache.disk.blocks import payload_of
from tests.cache.disk.hammer import MOST_PAYLOAD

TIGHT = 1_000_000
ROOMY = 1 << 30
REPOSITORY = Path(__file__).parents[3]


def killed_while_writing(directory: Path, space: int, seed: int, chance: random.Random) -> set[bytes]:
    """Let a process write for a while and kill it: the blocks that it called durable."""
    command = [sys.executable, "-m", "tests.cache.disk.hammer", str(directory), str(space), str(seed)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        lines = [first, *process.stdout.read().splitlines(keepends=True)]
    assert process.returncode == -9
    assert first
    return {bytes.fromhex(line.decode()) for line in lines if line.endswith(b"\n")}


def check(directory: Path, space: int, durable: set[bytes]) -> int:
    """Open what a killed process left and verify all of it: how many orphans there were."""
    orphans = len(list(directory.rglob("*.tmp")))
    store = BlockStore(directory, fingerprint=b"model", space_bytes=space)
    store.open()
    assert not list(directory.rglob("*.tmp"))
    files = {bytes.fromhex(path.stem): path for path in directory.rglob("*.kv")}
    assert store.size == sum(path.stat().st_size for path in files.values()) <= space
    verdicts = list(verify(directory, files=RealFiles()))
    assert len(verdicts) == len(files) > 0
    assert not [verdict for verdict in verdicts if verdict.problem]
    for id, path in files.items():
        assert path.read_bytes().endswith(payload_of(id, MOST_PAYLOAD))
    if space == ROOMY:
        assert durable <= files.keys()
    return orphans


def rounds(tmp_path: Path, count: int) -> int:
    """Kill so many; how many of them were just writing a file."""
    chance = random.Random(count)
    orphans = 0
    for seed in range(count):
        space = TIGHT if seed % 2 else ROOMY
        directory = tmp_path / str(space)
        orphans += check(directory, space, killed_while_writing(directory, space, 2 * seed, chance))
        if space == ROOMY:
            shutil.rmtree(directory)
    return orphans


def test_killed_20_times(tmp_path: Path) -> None:
    rounds(tmp_path, 20)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_200_times(tmp_path: Path) -> None:
    assert rounds(tmp_path, 200) > 20


def test_two_processes_share_a_directory_and_a_budget(tmp_path: Path) -> None:
    files = RealFiles()
    command = [sys.executable, "-m", "tests.cache.disk.hammer", str(tmp_path), str(TIGHT)]
    processes = [subprocess.Popen([*command, str(seed)], cwd=REPOSITORY, stdout=subprocess.PIPE) for seed in (100, 200)]
    try:
        for process in processes:
            assert process.stdout is not None
            for _ in range(30):
                assert process.stdout.readline()
                handle = files.lock(tmp_path / "lock")  # or a file might be counted that goes for one that comes
                assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= TIGHT
                files.close(handle)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    check(tmp_path, TIGHT, set())
