"""Where states lie."""

import gc
from pathlib import Path

import pytest

from ds4trio.cache import room_for_state

MIB = 2**20


@pytest.mark.parametrize("size", [0, 1, 4097])
def test_room_can_be_written_and_read(size: int) -> None:
    room = room_for_state(size)
    assert len(room) == room.nbytes == size
    assert room.contiguous
    assert not room.readonly
    assert bytes(room) == bytes(size)
    room[:] = b"x" * size
    assert room == b"x" * size


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_it_goes_back_to_the_system_wherever_it_lies() -> None:
    rooms = [room_for_state(MIB // 4) for _ in range(256)]
    for room in rooms:
        room[:] = b"x" * len(room)
    full = resident()
    views = [room[:10] for room in rooms[::2]]
    del room, rooms[1::2]
    gc.collect()
    assert full - resident() > 30 * MIB
    del rooms, views


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
