"""The pytest plugin: fixtures for tests of cancellation and timeouts, for async tests under pytest-trio.

    pip install 'ds4trio[testing]'

Installed with the package, it costs those who do not use it next to nothing: everything is imported by the fixtures.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import pytest

if TYPE_CHECKING:
    import trio

    from ds4trio.engine import Engine
    from ds4trio.server.app import App
    from ds4trio.testing.process import ServerProcess

__all__ = ["StartApp", "StartServer", "ds4trio_app", "ds4trio_server"]

T = TypeVar("T")


class StartServer(Protocol):
    """What the fixture ``ds4trio_server`` gives."""

    async def __call__(self, *flags: str, engine: Literal["simulated", "llama"] = "simulated") -> "ServerProcess":
        """Start ``ds4trio serve`` on a free port, with these flags; a checkpoint.

        ``engine="llama"`` computes, with ``--model`` or the demo model. Nothing is kept on disk, unless ``--kv-disk``
        and ``--kv-disk-dir`` say so. The server stops at the end of the test.
        """
        ...


class StartApp(Protocol):
    """What the fixture ``ds4trio_app`` gives."""

    async def __call__(self, engine: "Engine | None" = None, **settings: Any) -> "App":
        """Start the application in memory until the end of the test, as `run_app` does; a checkpoint."""
        ...


@pytest.fixture
async def ds4trio_server() -> "AsyncGenerator[StartServer, None]":
    """Starts real server processes: ``server = await ds4trio_server("--prefill-tps", "100")``; see `StartServer`."""
    import trio  # noqa: PLC0415 - see above

    from ds4trio.testing.process import run_server  # noqa: PLC0415 - see above

    over = trio.Event()
    async with trio.open_nursery() as nursery:

        async def start(*flags: str, engine: Literal["simulated", "llama"] = "simulated") -> "ServerProcess":
            environment = {"DS4TRIO_ENGINE": engine, "DS4TRIO_KV_DISK": "false"}
            server: ServerProcess = await nursery.start(_hold, run_server(*flags, environment=environment), over)
            return server

        yield start
        over.set()


@pytest.fixture
async def ds4trio_app() -> "AsyncGenerator[StartApp, None]":
    """Runs the application in memory: ``app = await ds4trio_app(prefill_tps=100)``; see `StartApp`.

    With ``autojump_clock`` all waiting takes no time.
    """
    import trio  # noqa: PLC0415 - see above

    from ds4trio.testing.app import run_app  # noqa: PLC0415 - see above

    over = trio.Event()
    async with trio.open_nursery() as nursery:

        async def start(engine: "Engine | None" = None, **settings: Any) -> "App":
            app: App = await nursery.start(_hold, run_app(engine, **settings), over)
            return app

        yield start
        over.set()


async def _hold(context: AbstractAsyncContextManager[T], over: "trio.Event", task_status: "trio.TaskStatus[T]") -> None:
    """Keep it open until it is ``over``, in a task of its own: a block has to be left by the task that entered it."""
    async with context as value:
        task_status.started(value)
        await over.wait()
