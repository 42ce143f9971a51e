"""The plugin in a pytest of its own: what it gives, and that it costs nothing where nobody uses it."""

import subprocess
import sys
from pathlib import Path

import ds4trio.testing

NEEDED = """
import sys, pytest
before = set(sys.modules)
import ds4trio.testing.plugin
print(sorted(set(sys.modules) - before))
"""

MODULE = """
import pytest
from ds4trio.testing import assert_no_orphans, chat_body, open_client

@pytest.mark.trio
async def test_server(ds4trio_server):
    server = await ds4trio_server("--prefill-tps", "100")
    other = await ds4trio_server()
    assert server.port != other.port
    print("server", server.pid)
    async with open_client(server.port, chat_body("word" * 3000)) as client:
        await client.read()

def test_nothing_async():
    pass
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, check=False)


def pytest(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Without the configuration of this suite."""
    (directory / "pytest.ini").touch()
    return run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(directory / "pytest.ini"), *arguments)


def test_everything_that_is_promised_is_there() -> None:
    assert all(getattr(ds4trio.testing, name) is not None for name in ds4trio.testing.__all__)
    assert {name for names in ds4trio.testing._HOME.values() for name in names} == set(ds4trio.testing.__all__)


def test_loading_it_imports_nothing_but_itself() -> None:
    assert run("-c", NEEDED).stdout == "['ds4trio', 'ds4trio.testing', 'ds4trio.testing.plugin']\n"


def test_its_servers_end_with_the_test(tmp_path: Path) -> None:
    module = tmp_path / "test_of_a_user.py"
    module.write_text(MODULE)
    result = pytest(tmp_path, "-rP", str(module))
    assert "2 passed" in result.stdout, result.stdout + result.stderr
    (pid,) = (line.split()[1] for line in result.stdout.splitlines() if line.startswith("server "))
    assert not Path("/proc", pid).exists()


def test_the_package_brings_it_as_a_plugin(tmp_path: Path) -> None:
    fixtures = pytest(tmp_path, "--fixtures", str(tmp_path))
    assert "ds4trio_server -- " in fixtures.stdout
    assert "ds4trio_app -- " in fixtures.stdout
