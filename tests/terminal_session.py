"""A server whose standard error is a pseudo-terminal, with what somebody in front of it sees."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pyte
import trio

from ds4trio.testing.process import end_process

READY = re.compile(r"on http://127\.0\.0\.1:(\d+), try")


@dataclass(eq=False)
class Session:
    process: trio.Process
    screen: pyte.HistoryScreen
    raw: bytes = b""
    port: int = 0
    held: bool = False
    """Ctrl-S: it takes nothing for now, see `go_on`."""
    _news: trio.Event = field(default_factory=trio.Event)
    _going_on: trio.Event = field(default_factory=trio.Event)
    _closed: bool = False

    @property
    def lines(self) -> list[str]:
        """All lines that were ever shown and not erased, the oldest first."""
        history = [
            "".join(line[column].data for column in range(self.screen.columns)) for line in self.screen.history.top
        ]
        return [line.rstrip() for line in (*history, *self.screen.display)]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def wait_for(self, pattern: str) -> re.Match[str]:
        while (match := re.search(pattern, self.text)) is None:
            if self._closed:
                raise RuntimeError(f"the server ended without showing {pattern!r}:\n{self.text}")
            self._news = trio.Event()
            await self._news.wait()
        return match

    def go_on(self) -> None:
        """Ctrl-Q."""
        self.held = False
        self._going_on.set()

    async def read(self, master: int) -> None:
        stream = pyte.ByteStream(self.screen)
        terminal = trio.lowlevel.FdStream(master)
        async with terminal:
            try:
                async for data in terminal:
                    self.raw += data
                    stream.feed(bytes(data))
                    self._news.set()
                    if self.held:
                        await self._going_on.wait()
            except trio.BrokenResourceError:  # EIO: nobody has the other end any more
                pass
        self._closed = True
        self._news.set()


@asynccontextmanager
async def open_session(
    *flags: str, columns: int = 160, rows: int = 40, program: Sequence[str] = ("-m", "ds4trio")
) -> AsyncGenerator[Session, None]:
    """Start a server in a terminal, wait until its model is loaded, and stop it with SIGTERM at the end."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    command = [sys.executable, *program, "serve", "--port", "0", *flags]
    variables = {**os.environ, "TERM": "xterm-256color"}
    process = await trio.lowlevel.open_process(command, stderr=slave, stdin=slave, env=variables)
    os.close(slave)
    session = Session(process, pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.001))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.read, master)
        try:
            with trio.fail_after(120):
                session.port = int((await session.wait_for(READY.pattern))[1])
            yield session
        finally:
            await end_process(process)
