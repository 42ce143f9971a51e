"""What clients of one server do to each other: who waits for whom, and who finds computed what another one asked.

    python -m benchmarks.fairness [--rounds 3] [--model FILE.gguf]

Prints a Markdown table. Every figure is seen from outside, by clients on sockets, and every ratio has both of its sides
from the same run, taken in turns. Clients and servers share the machine's cores, so what it does besides shows in all
figures: the table begins with its load.
"""

import json
import os
import random
import statistics
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Any

import click
import trio

from benchmarks.lifeline import LONG_TOKENS, idle, leave_and_time, read_one, running
from benchmarks.report import Report, benchmark, milliseconds
from ds4trio.testing import ServerProcess, StreamClient, chat_body, fresh_prompt, open_client, run_server

FLAGS = ("--ctx", "8192", "--threads", "2")
PLACES = 2
HEARTBEAT = 1.0

# Where the same work takes longer than that, the machine did something else, and no figure beside it means anything.
QUIET = 1.25
SHORT_MOST = 1.0
SHORT_SLOWS = 1.15
STREAM_GAP = 0.4
STREAM_SLOWS = 1.7
# Two steps of the longest stall (`--max-stall-ms`), and the noise of a machine.
CANCEL_GAP = 0.55
SHARED = 0.08
# Tokens at the end of an answer that its text may be cut into otherwise, when it comes back in the next turn.
RECUT = 4
FIRST_BYTE = 0.02


def prompt(tokens: int, *, answer: int = 4) -> dict[str, Any]:
    """A prompt that nobody sent before, and an answer of as many tokens as said."""
    return chat_body(fresh_prompt(tokens), max_tokens=answer, temperature=0, ignore_eos=True)


def long_prompt() -> dict[str, Any]:
    return prompt(LONG_TOKENS)


def short_prompt() -> dict[str, Any]:
    """\"Say hi.\" and a few fresh words, or it would be cached."""
    return chat_body(f"Say hi. {fresh_prompt(50)}", max_tokens=4, temperature=0, ignore_eos=True)


async def ask(server: ServerProcess, body: dict[str, Any]) -> StreamClient:
    """A client that has its whole answer."""
    async with open_client(server.port, body) as client:
        await client.wait_for_token()
        await client.read_all()
    return client


async def first_token(server: ServerProcess, body: dict[str, Any]) -> float:
    """Seconds from the request to the first token; the answer is read to its end."""
    return (await ask(server, body)).times_of_tokens[0]


@asynccontextmanager
async def talking(server: ServerProcess) -> AsyncGenerator[StreamClient, None]:
    """A stream that has begun to answer, and answers as long as the block lasts."""
    # Never the same: a request that was there before goes on with the answer that it had.
    story = f"Tell me a long story. {fresh_prompt(50)}"
    body = chat_body(story, max_tokens=2000, ignore_eos=True, logprobs=True)
    async with open_client(server.port, body) as client, trio.open_nursery() as nursery:
        await client.wait_for_token()
        nursery.start_soon(client.read_all)
        yield client
        nursery.cancel_scope.cancel()


# --- beside a long prefill --------------------------------------------------------------------------------------------


async def beside_a_volley(server: ServerProcess) -> tuple[float, list[float]]:
    """A long prompt's first token, and those of short ones that come one after the other meanwhile."""
    waits: list[float] = []

    async def ask_again_and_again() -> None:
        while True:
            await trio.sleep(random.uniform(0.2, 1.5))
            waits.append(await first_token(server, short_prompt()))

    async with open_client(server.port, long_prompt()) as client, trio.open_nursery() as nursery:
        nursery.start_soon(ask_again_and_again)
        took = await client.wait_for_token()
        nursery.cancel_scope.cancel()
    return took, waits


async def beside_a_short(server: ServerProcess, at: float) -> tuple[float, float]:
    """A long prompt's first token, and that of a short one that comes ``at`` seconds later."""
    wait = 0.0

    async def ask_later() -> None:
        nonlocal wait
        await trio.sleep(at)
        wait = await first_token(server, short_prompt())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_later)
        took = await first_token(server, long_prompt())
    return took, wait


async def beside_a_stream(server: ServerProcess) -> tuple[float, float, int]:
    """A long prompt's first token; a running stream's longest gap until then, and how many tokens it got."""
    async with talking(server) as stream, open_client(server.port, long_prompt()) as client:
        took = await client.wait_for_token()
        since, until = client.sent_at, client.sent_at + took
        tokens = sum(since < stream.sent_at + at < until for at in stream.times_of_tokens)
        return took, stream.longest_wait_for_token(since, until), tokens


async def long_prefill(server: ServerProcess, report: Report, rounds: int) -> None:
    """A long prompt alone, beside short ones and beside a stream; the order changes, so that drift hits all."""
    idle_waits = [await first_token(server, short_prompt()) for _ in range(10)]
    report.add("first token of a short prompt, idle server", milliseconds(idle_waits), "for scale", True)
    first, waits = await beside_a_volley(server)
    volley = len(waits)
    alone = [await first_token(server, long_prompt())]
    with_short, with_stream, gaps, tokens = [], [], [], 0

    async def a_short() -> None:
        took, wait = await beside_a_short(server, random.uniform(0.05, 0.7) * min(alone))
        with_short.append(took)
        waits.append(wait)

    async def a_stream() -> None:
        nonlocal tokens
        took, gap, heard = await beside_a_stream(server)
        with_stream.append(took)
        gaps.append(gap)
        tokens += heard

    order: list[Callable[[], Awaitable[None]]] = [a_short, a_stream]
    for number in range(rounds):
        for beside in order if number % 2 == 0 else reversed(order):
            await beside()
        alone.append(await first_token(server, long_prompt()))

    base = statistics.median(alone)
    report.add(
        f"first token of 2,500 tokens, alone ({len(alone)}×)",
        f"median {base:.1f} s, {min(alone):.1f} to {max(alone):.1f} s",
        f"the machine is quiet: within {QUIET} ×",
        max(alone) <= QUIET * min(alone),
    )
    report.add(
        f"beside that prefill: a short prompt's first token ({len(waits)}×)",
        milliseconds(waits),
        f"≤ {SHORT_MOST:.1f} s",
        max(waits) <= SHORT_MOST,
    )
    report.add(
        f"first token of 2,500 tokens, a new server, {volley} short prompts one by one beside it",
        f"{first:.1f} s, {first / base:.2f} × alone",
        "for scale",
        True,
    )
    slower = statistics.median(with_short) / base
    report.add(
        f"first token of 2,500 tokens beside a short prompt ({rounds}×)",
        f"median {statistics.median(with_short):.1f} s, {slower:.2f} × alone",
        f"≤ {SHORT_SLOWS} ×",
        slower <= SHORT_SLOWS,
    )
    report.add(
        "beside that prefill: a running stream's longest gap",
        f"{1000 * max(gaps):.0f} ms ({tokens} tokens, {tokens / sum(with_stream):.1f} a second)",
        f"≤ {STREAM_GAP} s",
        max(gaps) <= STREAM_GAP,
    )
    slower = statistics.median(with_stream) / base
    report.add(
        f"first token of 2,500 tokens beside a running stream ({rounds}×)",
        f"median {statistics.median(with_stream):.1f} s, {slower:.2f} × alone",
        f"≤ {STREAM_SLOWS} ×",
        slower <= STREAM_SLOWS,
    )


async def cancels(server: ServerProcess, report: Report, tries: int = 8) -> None:
    """Two streams go on while the long prompt in their batch is given up."""
    before, around = [], []
    async with talking(server) as one, talking(server) as other:
        for _ in range(tries):
            async with open_client(server.port, long_prompt()) as leaving:
                await trio.sleep(random.uniform(1, 2))
                left = trio.current_time()
                _, cancelled = await leave_and_time(server, leaving)
            assert cancelled[1] == "prefill"
            await trio.sleep(2 * CANCEL_GAP)
            now = trio.current_time()
            for stream in (one, other):
                before.append(stream.longest_wait_for_token(leaving.sent_at, left))
                around.append(stream.longest_wait_for_token(left, now))
    report.add("two streams beside a long prefill: longest gaps", milliseconds(before), "for scale", True)
    report.add(
        f"longest gaps from the moment when it is cancelled ({tries}×)",
        milliseconds(around),
        f"two steps: ≤ {CANCEL_GAP} s",
        max(around) <= CANCEL_GAP,
    )


# --- sharing ----------------------------------------------------------------------------------------------------------


def session(system: str, *turns: str) -> dict[str, Any]:
    """A conversation: what the user and the assistant said, in turns."""
    said = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)]
    return {
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "system", "content": system}, *said],
        "max_tokens": 24,
        "temperature": 0,
    }


async def sharing(server: ServerProcess, report: Report, rounds: int) -> None:
    """Sessions with the same long system prompt: one, another one, two at once, and the first one's next turn."""
    firsts, seconds, twins, nexts, cached = [], [], [], [], []
    for _ in range(rounds):
        system = fresh_prompt(1540)
        opening = await ask(server, session(system, "Name a colour."))
        scale = opening.times_of_tokens[0]
        firsts.append(scale)
        seconds.append(await first_token(server, session(system, "Name three fruits.")) / scale)

        async def twin(question: str, system: str = system, scale: float = scale) -> None:
            twins.append(await first_token(server, session(system, question)) / scale)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(twin, "What is a river?")
            nursery.start_soon(twin, "Who wrote this text?")
        turn = await ask(server, session(system, "Name a colour.", opening.text, "And another one."))
        nexts.append(turn.times_of_tokens[0] / scale)
        # The token that was sampled last is never computed.
        said = opening.usage["prompt_tokens"] + opening.usage["completion_tokens"] - 1
        cached.append((turn.usage["prompt_tokens_details"]["cached_tokens"], said, turn.usage["prompt_tokens"]))

    report.add(
        f"first token of a session with a system prompt of 1,500 tokens ({rounds}×)",
        f"median {statistics.median(firsts):.1f} s",
        "for scale",
        True,
    )
    for name, shares in (
        ("a second session with that system prompt", seconds),
        ("two more at once", twins),
        ("the first session's next turn", nexts),
    ):
        report.add(
            f"{name}: first token, part of that",
            f"median {100 * statistics.median(shares):.1f} %, max {100 * max(shares):.1f} %",
            f"≤ {100 * SHARED:.0f} %",
            max(shares) <= SHARED,
        )
    report.add(
        "the first session's next turn: cached tokens (all but the new ones)",
        ", ".join(f"{tokens} of {total} ({said})" for tokens, said, total in cached),
        "nothing computed again",
        all(tokens >= said for tokens, said, _ in cached),
    )


# --- the queue --------------------------------------------------------------------------------------------------------


async def waiting(server: ServerProcess) -> int:
    """How many requests are in the queue."""
    async with open_client(server.port, method="GET", path="/health") as client:
        return int(json.loads(await client.read_all())["waiting"])


@asynccontextmanager
async def full(server: ServerProcess) -> AsyncGenerator[StreamClient, None]:
    """A server of `PLACES` with a long prefill in each; one of those clients."""
    async with open_client(server.port, long_prompt()) as one, open_client(server.port, long_prompt()) as other:
        for client in (one, other):
            await read_one(client)
        while await running(server) < PLACES:  # noqa: ASYNC110 - the server has no event for this client
            await trio.sleep(0.02)
        yield one
    await idle(server)


async def queued_first_byte(server: ServerProcess, report: Report, tries: int = 20) -> None:
    """Clients that have to wait hear so at once."""
    firsts: dict[str, list[float]] = {"a short prompt": [], "2,500 tokens, read before the queue": []}
    async with full(server):
        for _ in range(tries):
            for body, times in zip((short_prompt(), long_prompt()), firsts.values(), strict=True):
                async with open_client(server.port, body) as client:
                    times.append((await read_one(client)).at)
                    assert await waiting(server)
    for name, times in firsts.items():
        report.add(
            f"first byte of a queued request behind {PLACES} long prefills: {name} ({tries}×)",
            milliseconds(times),
            "≤ 20 ms",
            max(times) <= FIRST_BYTE,
        )


async def urgency(server: ServerProcess, report: Report, tries: int = 3) -> None:
    """Of two that wait, the later one says that it is urgent; then a place gets free."""

    async def is_first(members: dict[str, Any], headers: dict[str, str]) -> tuple[float, float]:
        async with full(server) as leaving, AsyncExitStack() as stack:
            early = await stack.enter_async_context(open_client(server.port, short_prompt()))
            await read_one(early)
            body = {**short_prompt(), **members}
            late = await stack.enter_async_context(open_client(server.port, body, headers=headers))
            await read_one(late)
            await leaving.stream.aclose()
            left = trio.current_time()
            async with trio.open_nursery() as nursery:
                for client in (early, late):
                    nursery.start_soon(client.read_all)
            urgent, ordinary = (client.sent_at + client.times_of_tokens[0] - left for client in (late, early))
            return urgent, ordinary

    cases: list[tuple[str, dict[str, Any], dict[str, str]]] = [
        ('"priority": -10', {"priority": -10}, {}),
        ("Priority: u=0", {}, {"priority": "u=0"}),
    ]
    for name, members, headers in cases:
        waits = [await is_first(members, headers) for _ in range(tries)]
        won = sum(urgent < ordinary for urgent, ordinary in waits)
        urgent, ordinary = (statistics.median(times) for times in zip(*waits, strict=True))
        report.add(
            f"`{name}` of the later of two queued requests: it is started first",
            f"{won} of {tries}, first tokens {urgent:.2f} s and {ordinary:.2f} s after a place was free",
            f"{tries} of {tries}",
            won == tries,
        )


async def crowd(server: ServerProcess, report: Report, count: int = 8) -> None:
    """Far more clients than places, all at once."""
    clients: list[StreamClient] = []

    async def come() -> None:
        clients.append(await ask(server, prompt(300, answer=16)))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(come)
    answered = sum(client.body.endswith(b"data: [DONE]\n\n") and b'"error"' not in client.body for client in clients)
    waits = sorted(client.times_of_tokens[0] for client in clients)
    silence = max(client.longest_silence for client in clients)
    worst = waits[-1] / statistics.mean(waits)
    report.add(
        f"`--parallel {PLACES}`, {count} clients with 300 tokens each, all at once: answered",
        f"{answered}, first tokens after {', '.join(f'{wait:.1f}' for wait in waits)} s",
        f"{count}",
        answered == count,
    )
    report.add(
        f"longest silence, `--heartbeat-interval {HEARTBEAT:g}`",
        f"{silence:.3f} s",
        f"≤ {HEARTBEAT + 0.1:.1f} s",
        silence <= HEARTBEAT + 0.1,
    )
    report.add("longest wait for a first token, against the mean", f"{worst:.2f} ×", "≤ 2 ×", worst <= 2)


@benchmark("fairness")
@click.option("--rounds", default=3, show_default=True, help="long prefills of each kind, and shared system prompts")
async def main(report: Report, model: str, rounds: int) -> None:
    """Measure two servers, one after the other."""
    report.add("load of the machine before the run", f"{os.getloadavg()[0]:.2f}", "for scale", True)
    with TemporaryDirectory() as directory:
        flags = (*FLAGS, "--kv-disk-dir", directory, "--model", model)
        async with run_server(*flags) as server:
            await long_prefill(server, report, rounds)
            await cancels(server, report)
            await sharing(server, report, rounds)
        async with run_server(*flags, "--parallel", str(PLACES), "--heartbeat-interval", str(HEARTBEAT)) as server:
            await first_token(server, short_prompt())
            await queued_first_byte(server, report)
            await urgency(server, report)
            await crowd(server, report)


if __name__ == "__main__":
    main()
