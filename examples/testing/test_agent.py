"""Test what an agent does while a server is silent or slow: no model, no minutes of waiting.

    pip install -e '.[testing]' httpx2 && pytest -o trio_mode=true examples/testing

The fixtures come with the package, as a pytest plugin. The simulated engine keeps the rates that it is given. In
memory, under `autojump_clock`, five minutes of prefill take milliseconds; on a real socket the same engine runs in a
process of its own.
"""

import httpx2
import pytest
from agent import ask
from trio.testing import MockClock

from ds4trio.testing import (
    StartApp,
    StartServer,
    Watchdog,
    assert_no_orphans,
    call_asgi,
    chat_body,
    open_client,
    retry_storm,
    silence_of,
    watch,
)

PROMPT = "word" * 2000
"""Tokens of the simulated engine have four bytes."""


async def test_it_waits_for_a_prefill_of_four_times_its_patience(ds4trio_server: StartServer) -> None:
    server = await ds4trio_server("--prefill-tps", "1000", "--decode-tps", "1000", "--heartbeat-interval", "0.2")
    assert (await ask(f"http://127.0.0.1:{server.port}", PROMPT, patience=0.5)).startswith("Simulated answers")
    assert "cancelled" not in server.log_text, "it did not ask twice"


async def test_it_gives_up_on_a_silent_server_and_leaves_nothing_behind(ds4trio_server: StartServer) -> None:
    server = await ds4trio_server("--prefill-tps", "500", "--heartbeat", "off")
    async with assert_no_orphans(server):
        with pytest.raises(httpx2.ReadTimeout):
            await ask(f"http://127.0.0.1:{server.port}", PROMPT, patience=0.5)


async def test_five_minutes_of_prefill_are_never_silent(autojump_clock: MockClock, ds4trio_app: StartApp) -> None:
    app = await ds4trio_app(prefill_tps=100, heartbeat_interval=5)
    async with call_asgi(app, chat_body("word" * 30_000)) as call:
        assert await watch(call, Watchdog(idle=6, counts="events")) is None, "an agent that counts events stays"
    silence = silence_of(call)
    assert call.arrivals[-1].at > 300
    assert silence.bytes.seconds <= 5
    assert silence.events.seconds <= 5
    assert silence.bytes.phase == "prefill"


async def test_a_fixed_deadline_is_met_in_the_third_try(autojump_clock: MockClock, ds4trio_app: StartApp) -> None:
    app = await ds4trio_app(prefill_tps=100)
    cuts = []
    async with assert_no_orphans(app):
        for _ in range(3):
            async with call_asgi(app, chat_body("word" * 10_000)) as call:
                cuts.append(await watch(call, Watchdog(lifetime=45)))
    assert [cut.reason if cut else None for cut in cuts] == ["older than 45 s", "older than 45 s", None]


async def test_a_retry_storm_costs_one_answer(ds4trio_server: StartServer) -> None:
    server = await ds4trio_server("--prefill-tps", "2000")
    async with assert_no_orphans(server):
        *_, last = await retry_storm(server.port, chat_body(PROMPT, max_tokens=3), tries=10, within=2)
    assert b"[DONE]" in last.body


async def test_a_process_that_is_killed_frees_its_server(ds4trio_server: StartServer) -> None:
    server = await ds4trio_server("--prefill-tps", "10")
    async with assert_no_orphans(server), open_client(server.port, chat_body(PROMPT)) as client:
        await client.read()
        client.reset()
