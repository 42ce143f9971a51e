"""What is given up is the system's again."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

HOLES = """
import sys
from pathlib import Path
import numpy as np
from ds4trio.engine.llama.allocator import leave_no_holes

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "tuned":
    leave_no_holes()
kept = []
for _ in range(3):  # glibc learns from what is freed
    large = []
    for _ in range(10):
        large.append(np.ones(6_000_000, np.uint8))
        kept.append(np.ones(100_000, np.uint8))  # so that nothing is at the end of a heap
    full = resident()
    del large
print((full - resident()) / 60e6)
"""


SMALL_HOLES = """
import sys
from pathlib import Path
import numpy as np
from ds4trio.engine.llama.allocator import give_holes_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [np.ones(40_000, np.uint8) for _ in range(1500)]
full = resident()
blocks[:-1:2] = blocks[1::2]
if sys.argv[1] == "given back":
    give_holes_back()
print((full - resident()) / 30e6)
"""

needs_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt") or not Path("/proc/self/statm").exists(), reason="no glibc here"
)


def given_back(how: str, script: str = HOLES) -> float:
    return float(subprocess.run([sys.executable, "-c", script, how], capture_output=True, check=True).stdout)


@needs_glibc
def test_large_blocks_leave_no_holes() -> None:
    assert given_back("tuned") > 0.9
    assert given_back("as it comes") < 0.5, "glibc does this by itself now"


@needs_glibc
def test_what_is_free_between_small_blocks_is_given_back_when_asked() -> None:
    assert given_back("given back", SMALL_HOLES) > 0.7
    assert given_back("as it comes", SMALL_HOLES) < 0.3, "glibc does this by itself now"
