"""The real engine behind a real socket, in this process, where tasks, sequences and KV cells can be counted."""

import random
from contextlib import suppress

import h11
import pytest
import trio

from ds4trio.engine.llama import LlamaEngine
from ds4trio.testing import assert_no_orphans, chat_body, open_client
from tests.serving import serving

pytestmark = pytest.mark.slow

CYCLES = 500
AT_ONCE = 10


async def rude_client(port: int) -> None:
    """Connect, ask, and leave in some way at some moment; sometimes stay to the end."""
    body = chat_body(
        f"{random.random()} " + "river table green " * random.choice([5, 40, 300]),
        stream=random.random() < 0.7,
        max_tokens=random.choice([1, 20]),
    )
    async with open_client(port, body) as client:
        with trio.move_on_after(random.expovariate(1 / 0.2)):
            await client.read_all()
        match random.choice(["close", "reset", "half_close"]):
            case "reset":
                client.reset()
            case "half_close":
                with suppress(h11.RemoteProtocolError, trio.BrokenResourceError):
                    await client.half_close()
                    with trio.move_on_after(0.05):
                        await client.read_all()


async def test_tasks_sequences_and_cells_are_the_same_after_500_rude_clients() -> None:
    async with serving(None, keep_alive_timeout=0.5, ctx=4096) as server:
        engine = server.app.host.engine()
        assert isinstance(engine, LlamaEngine)
        async with assert_no_orphans(server.app, within=20), trio.open_nursery() as nursery:

            async def one_after_the_other() -> None:
                for _ in range(CYCLES // AT_ONCE):
                    await rude_client(server.port)

            for _ in range(AT_ONCE):
                nursery.start_soon(one_after_the_other)

        batcher = engine._worker._batcher
        assert batcher is not None
        assert batcher.sequences == []
        assert not engine._live
        table, context = batcher._slots, batcher._memory
        assert not any(slot.busy for slot in table.slots)
        # What the books say is what the context holds: no cell is used by nobody.
        assert [context.end_position(slot.id) for slot in table.slots] == [table.length(slot) for slot in table.slots]

        async with open_client(server.port, chat_body("Hello!", max_tokens=2)) as client:
            assert b"[DONE]" in await client.read_all()
