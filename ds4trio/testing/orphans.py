"""Whether anything goes on for those who have left: tasks, threads and sequences that outlive what started them."""

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from ds4trio.testing.clients import open_client
from ds4trio.testing.process import ServerProcess

if TYPE_CHECKING:
    from ds4trio.server.app import App

__all__ = ["assert_no_orphans"]

POLL_SECONDS = 0.02
IDLE_THREAD = "Trio thread "
"""What Trio calls a thread that waits for work, for ten seconds; one that works has the name of what it does."""

Look = Callable[[], Awaitable[set[str]]]
"""What lives now, in words."""


@asynccontextmanager
async def assert_no_orphans(
    server: "App | ServerProcess", *, within: float = 5.0, headers: Mapping[str, str] | None = None
) -> AsyncGenerator[None, None]:
    """Raise AssertionError, with names, if what was started in the block outlives it by more than ``within`` seconds.

        async with assert_no_orphans(server), open_client(server.port, body) as client:
            await client.read_until(b"role")
            client.reset()

    Of an application in this process (`run_app`, or one that serves here) it watches all tasks of this Trio run, by an
    instrument, the threads that work, and the requests and KV cells that the engine counts; a task that the block
    itself leaves behind is an orphan too, and so is a connection that Hypercorn keeps after a complete answer, at times
    until its keep-alive timeout although the client has gone: make that shorter than ``within``. Of a server process it
    asks ``/health``, ``/requests`` and ``/slots``, with ``headers`` where it wants a key. Entering and leaving are
    checkpoints. An error in the block goes through as it is.
    """
    tasks = _Tasks()
    look = _look_at_process(server, headers or {}) if isinstance(server, ServerProcess) else _look_at_app(server, tasks)
    before = await look()
    trio.lowlevel.add_instrument(tasks)
    try:
        yield
        deadline = trio.current_time() + within
        while orphans := await look() - before:
            if trio.current_time() >= deadline:
                raise AssertionError(f"{within:g} s later there is still {', '.join(sorted(orphans))}")
            await trio.sleep(POLL_SECONDS)
    finally:
        trio.lowlevel.remove_instrument(tasks)


class _Tasks(trio.abc.Instrument):
    """The tasks that were spawned since it was added and have not ended."""

    def __init__(self) -> None:
        self.living: set[trio.lowlevel.Task] = set()

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.living.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self.living.discard(task)


def _look_at_app(app: "App", tasks: _Tasks) -> Look:
    async def look() -> set[str]:
        await trio.lowlevel.checkpoint()
        engine = app.host.engine()
        return {
            *(f"the task {task.name} ({id(task):x})" for task in tasks.living),
            *(f"the request {id} in the engine" for id in app.board.live),
            *(f"the thread {thread.name} ({thread.ident})" for thread in threading.enumerate() if not _is_idle(thread)),
            *(f"running request number {number} of the engine" for number in range(1, engine.running + 1)),
            *(f"waiting request number {number} of the engine" for number in range(1, engine.waiting + 1)),
            *(["a sequence that holds cells of the KV"] if engine.kv.running_cells else []),
        }

    return look


def _is_idle(thread: threading.Thread) -> bool:
    return thread.name.startswith(IDLE_THREAD)


def _look_at_process(server: ServerProcess, headers: Mapping[str, str]) -> Look:
    async def get(path: str) -> Any:
        async with open_client(server.port, method="GET", path=path, headers=dict(headers)) as client:
            body = await client.read_all()
        if client.status != 200:
            raise AssertionError(f"GET {path} was answered with {client.status}: {body.decode(errors='replace')[:300]}")
        return msgspec.json.decode(body)

    async def look() -> set[str]:
        health, requests, slots = await get("/health"), await get("/requests"), await get("/slots")
        return {
            *(f"the request {one['id']} in {one['phase']}" for one in requests["requests"]),
            *(f"the sequence of {slot['id_task']}" for slot in slots if slot["is_processing"]),
            *(f"running request number {number} of the engine" for number in range(1, health["running"] + 1)),
            *(f"waiting request number {number} of the engine" for number in range(1, health["waiting"] + 1)),
        }

    return look
