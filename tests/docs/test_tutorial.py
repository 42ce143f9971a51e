"""The tutorial, typed as it stands: every block is run in order, and what comes out is compared.

The rules for its blocks are in docs/contributing/index.md. What differs from a reader's machine: the port, a home of
its own, one compute thread (so that a prompt takes seconds on any machine), and that `make serve` finds its environment
made already, which is the one that runs the tests.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r' title="([^"]+)"')
SERVER, SHELL = "Terminal 1", "Terminal 2"
DONE = "the command is done"
ENDED = re.compile(f"^{DONE}\n", re.MULTILINE)
ANY = "…"
PATIENCE = 180.0
"""Seconds for one command on a busy machine."""


@dataclass(frozen=True, slots=True)
class Block:
    """``title`` names a terminal or, of Python, a file."""

    kind: str
    title: str
    lines: list[str]


def blocks(page: str) -> list[Block]:
    found = []
    for kind, options, text in BLOCK.findall(page):
        title = TITLE.fullmatch(options)
        assert title is not None, f"no title in {kind}{options}"
        found.append(Block(kind, title[1], text.splitlines()))
    return found


def steps(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """What is typed, empty for nothing, and the lines that follow it."""
    typed, rest = "", list(lines)
    while rest:
        if rest[0].startswith("$ "):
            typed = rest.pop(0)[2:]
            while not complete(typed):
                typed += "\n" + rest.pop(0)
        elif rest[0] == "^C":
            typed = rest.pop(0)
        end = next((i for i, line in enumerate(rest) if line.startswith("$ ") or line == "^C"), len(rest))
        output = "\n".join(rest[:end]).rstrip("\n")
        yield typed, output.splitlines()
        typed, rest = "", rest[end:]


def complete(command: str) -> bool:
    """Whether a shell would run it, and not wait for the end of a line or a quote."""
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")


def expected(lines: list[str]) -> str:
    """The pattern of an output."""
    parts = [
        r"(?:.*\n)*?" if line.strip() == ANY else ".*".join(map(re.escape, line.split(ANY))) + r"\n" for line in lines
    ]
    return "".join(parts)


class Terminal:
    """A shell; `output` is what it has printed."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._news = trio.Event()
        self._seen = 0
        self.output = ""

    async def read(self) -> None:
        assert self._process.stdout is not None
        data = b""
        async for piece in self._process.stdout:
            data += piece
            self.output = data.decode(errors="replace")
            self._news.set()

    async def type(self, command: str) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(f"{command}\necho; echo {DONE}\n".encode())

    async def expect(self, pattern: str) -> str:
        """What is printed next, up to the end of ``pattern``'s first match."""
        wanted = re.compile(pattern, re.MULTILINE)
        with trio.move_on_after(PATIENCE):
            while (match := wanted.search(self.output, self._seen)) is None and not ENDED.search(
                self.output, self._seen
            ):
                self._news = trio.Event()
                await self._news.wait()
            if match is not None:
                begin, self._seen = self._seen, match.end()
                return self.output[begin : self._seen]
        raise AssertionError(f"expected:\n{pattern}\nprinted:\n{self.output[self._seen :]}")

    async def run(self, command: str, lines: list[str]) -> None:
        """Run a command to its end; its output has to be ``lines``."""
        await self.type(command)
        printed = (await self.expect(ENDED.pattern)).removesuffix(f"{DONE}\n")
        assert re.fullmatch(expected(lines), printed.rstrip("\n") + "\n" * bool(lines)), f"$ {command}\n{printed}"

    async def interrupt(self) -> None:
        os.killpg(self._process.pid, signal.SIGINT)
        await self.expect(ENDED.pattern)


@asynccontextmanager
async def terminal(directory: Path, environment: Mapping[str, str]) -> AsyncGenerator[Terminal, None]:
    process = await trio.lowlevel.open_process(
        ["bash", "--noprofile", "--norc"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env=dict(environment),
        start_new_session=True,
    )
    shell = Terminal(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shell.read)
        try:
            await shell.type("trap : INT")  # what Ctrl-C ends is the command, not the shell
            await shell.expect(ENDED.pattern)
            yield shell
        finally:
            with trio.CancelScope(shield=True):
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            nursery.cancel_scope.cancel()


def copy_of_the_repository(folder: Path) -> Path:
    """What `make serve` looks at, and the environment that it would make."""
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", ".ci"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.prefix) / "bin")
    (folder / ".venv" / ".demo").touch()  # it is made: nothing is to be installed
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_every_block_of_the_tutorial_runs_as_it_says(tmp_path: Path) -> None:
    port = free_port()
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("DS4TRIO_", "MAKE", "MFLAGS", "XDG_"))
    }
    environment = inherited | {
        "HOME": str(tmp_path),
        "PORT": str(port),
        "DS4TRIO_THREADS": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTEST_ADDOPTS": "",
    }
    folder = copy_of_the_repository(tmp_path / "ds4trio")
    page = TUTORIAL.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    async with terminal(folder, environment) as server, terminal(folder, environment) as shell:
        for block in blocks(page):
            if block.kind == "python":
                text = "\n".join(block.lines)
                await shell.run(f"cat > {shlex.quote(block.title)} <<'END OF FILE'\n{text}\nEND OF FILE", [])
                continue
            assert (block.kind, block.title) in [("console", SERVER), ("console", SHELL)], "nothing runs this block"
            for typed, lines in steps(block.lines):
                if block.title == SHELL:
                    await shell.run(typed, lines)
                    continue
                if typed == "^C":
                    await server.interrupt()
                elif typed:
                    await server.type(typed)
                await server.expect("^" + expected(lines))
        await server.interrupt()


def test_a_wrong_line_is_noticed() -> None:
    pattern = expected(["a … c", ANY, "d"])
    assert re.fullmatch(pattern, "a b c\nd\n")
    assert re.fullmatch(pattern, "a b c\nx\ny\nd\n")
    assert not re.fullmatch(pattern, "a b\nc\nd\n")
    assert not re.fullmatch(pattern, "a b c\nd\ne\n")
    assert list(steps(["$ a 'b", "c'", "d", "$ e"])) == [("a 'b\nc'", ["d"]), ("e", [])]
