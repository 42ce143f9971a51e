"""Single measurements of a server, as one of its clients sees it. Times are seconds.

They raise what a client meets: ``EOFError`` for an answer without text, ``h11.RemoteProtocolError`` and
``trio.BrokenResourceError`` for one that was cut off, ``OSError`` where nobody listens. All are checkpoints.
"""

import statistics
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from ds4trio.testing import StreamClient, fresh_prompt

__all__ = [
    "Ask",
    "after_cancel",
    "behind_others",
    "beside_reader",
    "first_token",
    "long_prompt",
    "short_prompt",
    "whole_answer",
    "with_deadline",
]

SHORT = 50
"""Tokens of a short prompt."""
BASELINES = 3
"""Short prompts whose median says how long one takes on an idle server."""
HEAD_START = 0.3
"""Seconds after which those who came first have their places."""


class Ask(Protocol):
    """Sends a prompt for a streamed answer of at most so many tokens; leaving the block hangs up."""

    def __call__(
        self, prompt: str, answer: int, *, receive_buffer: int | None = None
    ) -> AbstractAsyncContextManager[StreamClient]:
        """``receive_buffer`` as in `open_client`."""
        ...


def short_prompt() -> str:
    """One that nobody has sent before."""
    return long_prompt(SHORT)


def long_prompt(tokens: int) -> str:
    """The same, of about so many tokens. It says what to do, since models end an answer to mere words at once."""
    return f"{fresh_prompt(tokens)}. Tell me a long story about these words."


async def whole_answer(ask: Ask, prompt: str, answer: int) -> StreamClient:
    """An answer that was read to its end; it has text."""
    async with ask(prompt, answer) as client:
        await client.wait_for_token()
        await client.read_all()
    return client


async def first_token(ask: Ask, prompt: str, answer: int = 2) -> float:
    """When the first token came; the answer is read to its end."""
    return (await whole_answer(ask, prompt, answer)).times_of_tokens[0]


async def after_cancel(ask: Ask, prompt: str, *, stay: float) -> float:
    """How much later a short prompt's first token is because a client has just left, beyond that on an idle server.

    The client sends ``prompt``, hangs up after ``stay`` seconds, in which the prompt should not be done, and in that
    moment another one comes with a short prompt. Where the server goes on computing for the one that left, it shows.
    """
    idle = statistics.median([await first_token(ask, short_prompt()) for _ in range(BASELINES)])
    async with ask(prompt, 2):
        await trio.sleep(stay)
    return await first_token(ask, short_prompt()) - idle


async def behind_others(ask: Ask, *, others: int, tokens: int) -> StreamClient:
    """What one hears, up to the first token, who comes when so many others have just sent as long a prompt."""

    async def hold() -> None:
        async with ask(long_prompt(tokens), 2) as client:
            await client.read_all()

    async with trio.open_nursery() as nursery:
        for _ in range(others):
            nursery.start_soon(hold)
        await trio.sleep(HEAD_START)
        async with ask(long_prompt(tokens), 2) as client:
            await client.wait_for_token()
        nursery.cancel_scope.cancel()
    return client


async def with_deadline(ask: Ask, prompt: str, *, patience: float, tries: int) -> tuple[int, float] | None:
    """A client that hangs up after ``patience`` and sends the same again: the try that was answered, and when.

    That is counted from the first try on; None if so many tries were not enough.
    """
    begun = trio.current_time()
    for number in range(1, tries + 1):
        with trio.move_on_after(patience):
            async with ask(prompt, 2) as client:
                await client.wait_for_token()
                return number, trio.current_time() - begun
    return None


async def beside_reader(ask: Ask, *, stuck: bool, answer: int, seconds: float, receive_buffer: int = 4096) -> float:
    """A short prompt's first token, the slowest one in so many seconds, beside one who has a long answer written.

    That one takes its bytes as they come or, ``stuck``, none at all, so that the buffers between fill up.
    """
    took = 0.0
    async with ask(short_prompt(), answer, receive_buffer=receive_buffer) as reader:
        await reader.wait_for_token()
        async with trio.open_nursery() as nursery:
            if not stuck:
                nursery.start_soon(reader.read_all)
            until = trio.current_time() + seconds
            while trio.current_time() < until:
                took = max(took, await first_token(ask, short_prompt()))
                await trio.sleep(HEAD_START)
            nursery.cancel_scope.cancel()
    return took
