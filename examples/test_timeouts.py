"""Test what a client does while a server is silent or slow: no model, no minutes of waiting.

    pip install -e . pytest-trio && pytest examples/test_timeouts.py

The simulated engine keeps the rates that it is given. In memory, under `autojump_clock`, five minutes of prefill take
milliseconds; on a real socket, `run_server` starts the same engine in a process of its own.
"""

from itertools import pairwise

import trio
from trio.testing import MockClock

from ds4trio import create_app
from ds4trio.config import Settings
from ds4trio.testing import call_asgi, chat_body, open_client, run_server


async def test_a_stream_is_never_silent_for_longer_than_the_heartbeat(autojump_clock: MockClock) -> None:
    app = create_app(Settings(engine="simulated", prefill_tps=100, heartbeat_interval=5))
    async with app.test_app(), call_asgi(app, chat_body("word " * 24_000)) as call:
        await call.ended.wait()
    times = [arrival.at for arrival in call.arrivals]
    assert times[0] == 0
    assert times[-1] > 300
    assert max(later - earlier for earlier, later in pairwise(times)) <= 5


async def test_an_agent_that_gives_up_leaves_nothing_behind() -> None:
    async with run_server("--engine", "simulated", "--prefill-tps", "100") as server:
        with trio.move_on_after(1):  # the deadline of this agent
            async with open_client(server.port, chat_body("word " * 24_000)) as client:
                await client.read_all()
        await server.wait_log("the client has gone, freed in")
