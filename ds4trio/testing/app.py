"""The server's application in memory, with its lifespan: nothing listens, so virtual time works."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from ds4trio.config import load_settings
from ds4trio.engine import Engine
from ds4trio.server.app import App, build_app

__all__ = ["run_app"]


@asynccontextmanager
async def run_app(engine: Engine | None = None, **settings: Any) -> AsyncGenerator[App, None]:
    """Run the application for the length of the block; it is ready at once. Ask it with `call_asgi`.

    ``settings`` are those of ``ds4trio serve``, ``engine`` replaces the one that they describe. Unless they say
    otherwise that is the simulated one, which needs no model: ``run_app(prefill_tps=100, heartbeat_interval=5)``.
    Raises `ConfigError`.
    """
    app = build_app(load_settings({"engine": "simulated", **settings}, environment={}), engine=engine)
    async with _lifespan(app):
        await app.host.settled.wait()
        yield app


@asynccontextmanager
async def _lifespan(app: Callable[..., Awaitable[None]]) -> AsyncGenerator[None, None]:
    """Start and stop it as a server does. Quart's own ``test_app`` breaks Trio's books where it is cancelled."""
    send, receive = trio.open_memory_channel[dict[str, str]](2)
    answers_send, answers = trio.open_memory_channel[dict[str, str]](2)

    async def tell(message: str) -> None:
        await send.send({"type": f"lifespan.{message}"})
        answer = await answers.receive()
        if answer["type"] != f"lifespan.{message}.complete":
            raise RuntimeError(f"the application's {message} failed: {answer.get('message', '')}")

    async def answer(message: dict[str, str]) -> None:
        # No checkpoint: Quart says that it has stopped from a scope that it has just cancelled.
        answers_send.send_nowait(message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(app, {"type": "lifespan", "asgi": {"version": "3.0"}}, receive.receive, answer)
        await tell("startup")
        yield
        await tell("shutdown")
