"""The command line as a process: what goes wrong is one line that says what to do, and exit status 1."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ds4trio.config import field_names


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ds4trio", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


def test_help_knows_every_setting() -> None:
    text = run("serve", "--help").stdout
    assert all(f"--{name.replace('_', '-')}" in text for name in field_names())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere.gguf"], "Error: model = 'nowhere.gguf': no such file; give the path of a GGUF file\n"),
        (["--heartbeat-interval", "soon"], "--heartbeat-interval = 'soon'"),
        (["--config", "nowhere.toml"], "config file nowhere.toml"),
        (["--engine", "simulated", "--supervise", "--api-key-file", "/dev/null"], "needs a file, not a pipe"),
        (["--engine", "simulated", "--host", "203.0.113.1"], "cannot listen on 203.0.113.1 port 8000"),
    ],
)
def test_bad_setting_is_one_line_that_says_what_to_do(arguments: list[str], message: str) -> None:
    result = run("serve", *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_unknown_variable_names_the_nearest_setting() -> None:
    result = run("serve", DS4TRIO_PORTS="1")
    assert result.returncode == 1
    assert "DS4TRIO_PORTS: unknown setting; did you mean 'port'?" in result.stderr


def test_port_that_is_taken_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("serve", "--engine", "simulated", "--port", port)
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use; choose another" in result.stderr


def test_file_that_is_no_model_ends_the_server_with_a_status_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    result = run("serve", "--port", "0", "--model", str(path))
    assert result.returncode == os.EX_CONFIG
    assert "cannot load" in result.stderr
    assert "Traceback" not in result.stderr
