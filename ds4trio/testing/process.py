"""A real server in a process of its own, with its log."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

__all__ = ["LogLine", "ServerProcess", "end_process", "run_server"]

READY = re.compile(r"on http://(?:127\.0\.0\.1|[\d.]+):(\d+), try")

START_SECONDS = 300
"""How long a model may take to load."""
END_SECONDS = 10
"""How long a server may take to end by itself."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the server's log and the clock when it was read."""

    at: float
    text: str


@dataclass(eq=False)
class ServerProcess:
    """A running ``ds4trio serve``."""

    process: trio.Process
    port: int = 0
    log: list[LogLine] = field(default_factory=list)
    _news: trio.Event = field(default_factory=trio.Event)
    _closed: bool = False

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    @property
    def log_text(self) -> str:
        """The whole log."""
        return "\n".join(line.text for line in self.log)

    async def wait_log(self, pattern: str, *, after: int = 0) -> LogLine:
        """The first line from index ``after`` on that matches; a checkpoint. Raises RuntimeError if the server ends."""
        expression = re.compile(pattern)
        while True:
            for line in self.log[after:]:
                if expression.search(line.text):
                    return line
            if self._closed:
                raise RuntimeError(f"the server ended without logging {pattern!r}:\n{self.log_text}")
            self._news = trio.Event()
            await self._news.wait()

    async def closed(self) -> None:
        """Wait for the end of the log: that of the server. A checkpoint."""
        while not self._closed:
            self._news = trio.Event()
            await self._news.wait()

    def open_descriptors(self) -> int:
        """How many file descriptors the server has open (Linux)."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - only counted

    def threads(self) -> int:
        """How many threads the server has (Linux)."""
        return len(os.listdir(f"/proc/{self.pid}/task"))  # noqa: PTH208 - only counted

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        rest = b""
        async for data in self.process.stderr:
            *lines, rest = (rest + data).split(b"\n")
            self.log += [LogLine(trio.current_time(), line.decode(errors="replace")) for line in lines]
            self._news.set()
        self._closed = True
        self._news.set()


@asynccontextmanager
async def run_server(
    *flags: str,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = (sys.executable, "-m", "ds4trio", "serve", "--port", "0"),
    ready: re.Pattern[str] = READY,
) -> AsyncGenerator[ServerProcess, None]:
    """Start a server on a free port, wait until its model is loaded, and stop it with SIGTERM at the end.

    Raises `trio.TooSlowError` where that takes more than five minutes.
    """
    process = await trio.lowlevel.open_process(
        [*command, *flags], stderr=subprocess.PIPE, env={**os.environ, **(environment or {})}
    )
    server = ServerProcess(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server._read_log)
        try:
            with trio.fail_after(START_SECONDS):
                line = await server.wait_log(ready.pattern)
            match = ready.search(line.text)
            assert match is not None
            server.port = int(match[1])
            yield server
        finally:
            await end_process(process)
            nursery.cancel_scope.cancel()


async def end_process(process: trio.Process) -> None:
    """Stop it with SIGTERM, or after ten seconds with SIGKILL. A checkpoint that nothing cancels."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    with trio.CancelScope(shield=True, deadline=trio.current_time() + END_SECONDS):
        await process.wait()
    if process.returncode is None:
        process.kill()
