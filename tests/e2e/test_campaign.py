"""A short campaign of bad input: its bars hold, and it would say so if they did not."""

import json
import sys
from pathlib import Path

import pytest
import trio

COUNT = 500


@pytest.mark.slow
async def test_the_server_does_not_mind_bad_input(tmp_path: Path) -> None:
    figures = tmp_path / "fuzz.json"
    command = [sys.executable, "-m", "benchmarks.fuzz", "--count", str(COUNT), "--seed", "3", "--json", str(figures)]
    with trio.fail_after(200):
        done = await trio.run_process(command, capture_stderr=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-5000:]
    assert all(row["holds"] for row in json.loads(figures.read_text())["rows"])
