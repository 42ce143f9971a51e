"""The app behind Hypercorn on a real socket of this process."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from ds4trio.config import Settings
from ds4trio.engine import Engine
from ds4trio.server.app import App, build_app
from ds4trio.server.serve import hypercorn_config, listen, run_hypercorn


@dataclass
class Serving:
    app: App
    port: int
    stop: trio.Event
    stopped: trio.Event


@asynccontextmanager
async def serving(
    engine: Engine | None, *, keep_alive_timeout: float = 75, send_buffer: int | None = None, **settings: Any
) -> AsyncGenerator[Serving, None]:
    """Serve on a free port with ``engine``, or with the one that the settings describe."""
    values = Settings(port=0, **settings)
    app = build_app(values, engine=engine)
    stop, stopped = trio.Event(), trio.Event()
    with listen(values) as listener:
        if send_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        port = listener.getsockname()[1]
        config = hypercorn_config(listener, values)
        config.keep_alive_timeout = keep_alive_timeout
        async with trio.open_nursery() as nursery:

            async def run(task_status: trio.TaskStatus[list[str]]) -> None:
                await run_hypercorn(app, config, stop=stop, task_status=task_status)
                stopped.set()

            await nursery.start(run)
            await app.host.settled.wait()
            yield Serving(app, port, stop, stopped)
            stop.set()
