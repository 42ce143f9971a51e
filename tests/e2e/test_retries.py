"""Clients that vanish and come back, on a real server: nothing that was computed for them is computed again."""

import re
from contextlib import AsyncExitStack
from typing import Any

import pytest

from ds4trio.testing import ServerProcess, chat_body, fresh_prompt, open_client, run_server

pytestmark = pytest.mark.slow

PROMPT = 1500
CHUNK = re.compile(r"(req_\w+) ctx=(\d+)\.\.\d+:\d+ prefill chunk (\d+)/(\d+)")


def body(prompt: str, *, answer: int, **members: Any) -> dict[str, Any]:
    return chat_body(prompt, max_tokens=answer, ignore_eos=True, stream_options={"include_usage": True}, **members)


def computed(server: ServerProcess) -> int:
    """Prompt tokens that the server has computed for all its requests."""
    spans = {match[1]: int(match[3]) - int(match[2]) for line in server.log if (match := CHUNK.search(line.text))}
    return sum(spans.values())


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "seeded"])
async def test_an_answer_cut_at_80_percent_is_told_again_at_once_and_finished(
    server: ServerProcess, sampling: dict[str, Any]
) -> None:
    # With logprobs each token comes by itself.
    asked = body("Tell me a story about a fox and a river.", answer=100, logprobs=True, **sampling)
    async with open_client(server.port, asked) as first:
        while len(first.times_of_tokens) < 80:
            await first.read()
    await server.wait_log(r"kept for a retry")
    async with open_client(server.port, asked) as retry:
        while len(retry.times_of_tokens) < 80:
            await retry.read()
        # Milliseconds, where the machine has nothing else to do.
        assert retry.times_of_tokens[79] < first.times_of_tokens[79] / 4
        await retry.read_all()
    assert retry.text.startswith(first.text)
    assert retry.usage["completion_tokens"] == 100
    assert retry.usage["prompt_tokens_details"]["cached_tokens"] == retry.usage["prompt_tokens"]


async def test_a_deadline_of_two_fifths_of_the_prefill_is_met_by_the_third_try() -> None:
    asked = body(fresh_prompt(PROMPT), answer=5)
    async with run_server("--threads", "1") as server:
        for number in range(2):
            seen = len(server.log)
            async with open_client(server.port, asked):
                # The deadline, counted in what the machine does in it.
                while computed(server) < 0.4 * PROMPT * (number + 1):
                    await server.wait_log(r"prefill chunk", after=seen)
                    seen = len(server.log)
            await server.wait_log(r"cancelled in prefill", after=seen)
        before = computed(server)
        async with open_client(server.port, asked) as third:
            await third.read_all()
        assert third.usage["completion_tokens"] == 5
        assert computed(server) - before < 0.4 * PROMPT
        assert computed(server) <= 1.1 * third.usage["prompt_tokens"]


async def test_a_retry_that_comes_while_the_first_try_runs_computes_nothing_twice() -> None:
    asked = body(fresh_prompt(PROMPT), answer=5)
    async with run_server("--threads", "1") as server, AsyncExitStack() as stack:
        async with open_client(server.port, asked):
            await server.wait_log(r"prefill chunk")
            retry = await stack.enter_async_context(open_client(server.port, asked))
            await retry.read()
            await server.wait_log(r"prefill chunk", after=len(server.log))
        await retry.read_all()
        assert retry.usage["completion_tokens"] == 5
        assert computed(server) <= 1.1 * retry.usage["prompt_tokens"]
