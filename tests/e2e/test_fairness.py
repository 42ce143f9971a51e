"""What clients of one real server do to each other, with bounds that only a wrong design breaks.

The figures are `benchmarks.fairness`'s. One compute thread: with more, others on the same cores make steps very slow.
"""

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from ds4trio.testing import ServerProcess, StreamClient, chat_body, fresh_prompt, open_client, run_server

pytestmark = pytest.mark.slow

THREAD = ("--threads", "1")
SYSTEM_TOKENS = 1500
PLACES = 2


def prompt(tokens: int, *, answer: int = 2) -> dict[str, Any]:
    """A prompt that nobody sent before, and an answer of as many tokens as said."""
    return chat_body(
        fresh_prompt(tokens),
        max_tokens=answer,
        temperature=0,
        ignore_eos=True,
        stream_options={"include_usage": True},
    )


async def ask(server: ServerProcess, body: dict[str, Any]) -> StreamClient:
    """A client that has its whole answer."""
    async with open_client(server.port, body) as client:
        await client.wait_for_token()
        assert (await client.read_all()).endswith(b"data: [DONE]\n\n")
    assert b'"error"' not in client.body
    return client


def first_token(client: StreamClient) -> float:
    """When it came, on Trio's clock."""
    return client.sent_at + client.times_of_tokens[0]


async def test_a_long_prefill_lets_a_stream_and_a_short_prompt_through() -> None:
    async with run_server(*THREAD) as server, open_client(server.port, prompt(60, answer=2000)) as stream:
        await stream.wait_for_token()
        async with open_client(server.port, prompt(1000)) as long, trio.open_nursery() as nursery:
            nursery.start_soon(stream.read_all)
            await long.read()
            short = await ask(server, prompt(50))
            took = await long.wait_for_token()
            nursery.cancel_scope.cancel()
        assert first_token(short) < first_token(long)
        during = [at for at in stream.times_of_tokens if 0 < stream.sent_at + at - long.sent_at < took]
        assert len(during) >= 5
        assert stream.longest_wait_for_token(long.sent_at, first_token(long)) < took / 2


async def test_a_cancel_in_a_mixed_batch_leaves_the_stream_alone() -> None:
    async with run_server(*THREAD) as server, open_client(server.port, prompt(60, answer=50)) as stream:
        await stream.wait_for_token()
        async with open_client(server.port, prompt(2500)):
            await server.wait_log(r"prefill chunk \d+/2\d\d\d")
            left = trio.current_time()
        await server.wait_log(r"cancelled in prefill \(prefill \d+/2\d\d\d")
        await stream.read_all()
    assert stream.sent_at + stream.times_of_tokens[-1] > left
    assert stream.body.endswith(b"data: [DONE]\n\n")
    assert stream.usage["completion_tokens"] == 50


async def test_sessions_share_their_system_prompt_and_each_keeps_its_own() -> None:
    system = fresh_prompt(SYSTEM_TOKENS + 40)

    def session(*turns: str) -> dict[str, Any]:
        said = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)]
        return {**prompt(50, answer=16), "messages": [{"role": "system", "content": system}, *said]}

    def cached(client: StreamClient) -> int:
        return int(client.usage["prompt_tokens_details"]["cached_tokens"])

    twins: list[StreamClient] = []
    async with run_server(*THREAD) as server:

        async def twin(question: str) -> None:
            twins.append(await ask(server, session(question)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(twin, "Name a colour.")
            nursery.start_soon(twin, "Name three fruits.")
        # One of them computes it, the other one waits for that.
        assert sorted(cached(client) >= SYSTEM_TOKENS - 100 for client in twins) == [False, True]
        assert cached(await ask(server, session("What is a river?"))) >= SYSTEM_TOKENS - 100

        opening = await ask(server, session("Name a bird."))
        assert cached(await ask(server, session("Who wrote this?"))) >= SYSTEM_TOKENS - 100
        turn = await ask(server, session("Name a bird.", opening.text, "And another one."))
        # The last token of an answer is never computed; where it ends within a word, a few may be cut another way.
        assert cached(turn) >= opening.usage["prompt_tokens"] + opening.usage["completion_tokens"] - 4


async def test_a_crowd_is_served_in_its_order_and_nobody_hears_silence() -> None:
    clients: list[StreamClient] = []
    async with run_server(*THREAD, "--parallel", str(PLACES), "--heartbeat-interval", "1") as server:

        async def come(*, task_status: trio.TaskStatus[None]) -> None:
            async with open_client(server.port, prompt(120, answer=4)) as client:
                clients.append(client)
                await client.read()
                task_status.started()
                await client.read_all()

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                await nursery.start(come)
    for client in clients:
        assert client.body.endswith(b"data: [DONE]\n\n")
        assert client.usage["completion_tokens"] == 4
        assert client.longest_silence < 3
    served = sorted(clients, key=first_token)
    assert all(abs(served.index(client) - number) <= PLACES for number, client in enumerate(clients))


@pytest.mark.parametrize(("members", "headers"), [({"priority": -10}, {}), ({}, {"priority": "u=0"})])
async def test_the_urgent_one_leaves_the_queue_first(members: dict[str, int], headers: dict[str, str]) -> None:
    async with run_server(*THREAD, "--parallel", "1") as server, AsyncExitStack() as stack:

        async def come(body: dict[str, Any], headers: dict[str, str] | None = None) -> StreamClient:
            client = await stack.enter_async_context(open_client(server.port, body, headers=headers))
            await client.read()  # it has its place
            return client

        leaving = await come(prompt(2500))
        early = await come(prompt(50))
        late = await come({**prompt(50), **members}, headers)
        await leaving.stream.aclose()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(early.read_all)
            nursery.start_soon(late.read_all)
    assert first_token(late) < first_token(early)
