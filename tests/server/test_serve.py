"""What `ds4trio serve` asks of its process."""

import re
import resource
import sys
from pathlib import Path

import pytest
import trio

from ds4trio.server.serve import FILES
from ds4trio.testing import run_server

FEW = 256


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="limits of other processes are read from /proc")
async def test_it_may_have_more_connections_than_a_shell_allows() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    shell = f'ulimit -S -n {FEW}; exec "{sys.executable}" -m ds4trio serve --port 0 "$@"'
    async with run_server("--engine", "simulated", command=("sh", "-c", shell, "sh")) as server:
        limits = await trio.Path(f"/proc/{server.pid}/limits").read_text()
    match = re.search(r"Max open files +(\d+)", limits)
    assert match is not None
    assert int(match[1]) == (FILES if hard == resource.RLIM_INFINITY else min(FILES, hard))
