"""Schemathesis asks a real server what the server's own description allows, and what it does not."""

import subprocess
import sys
from pathlib import Path

import trio

from ds4trio.testing import run_server

SECONDS = 120
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance"


async def test_every_answer_is_one_that_the_description_allows(tmp_path: Path) -> None:
    rates = ("--prefill-tps", "1e9", "--decode-tps", "1e9", "--max-output-tokens", "4", "--ctx", "4096")
    async with run_server("--engine", "simulated", *rates) as server:
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{server.port}/openapi.json"),
            *("--checks", CHECKS, "--phases", "examples,fuzzing,stateful", "--max-examples", "8", "--seed", "1"),
            # Its events have no end.
            *("--exclude-path", "/requests/events", "--request-timeout", "10"),
        ]
        with trio.fail_after(SECONDS):
            done = await trio.run_process(
                command, capture_stdout=True, stderr=subprocess.STDOUT, check=False, cwd=tmp_path
            )
    assert done.returncode == 0, done.stdout.decode()[-10_000:]
