"""What a restart costs, and what keeping KV on disk costs those who run: real servers that are stopped and killed.

    python -m benchmarks.restart [--rounds 5] [--model FILE.gguf]

Prints a Markdown table. What was computed is counted in tokens, as the server tells its client; times are seen by that
client. The servers with and without a disk take turns, so that drift of the machine hits both.
"""

import random
import signal
import statistics
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.fairness import beside_a_stream
from benchmarks.lifeline import LONG_TOKENS
from benchmarks.report import Report, benchmark
from ds4trio.testing import ServerProcess, StreamClient, chat_body, fresh_prompt, open_client, run_server

FLAGS = ("--ctx", "8192", "--threads", "2")

RESTART = 0.1
LOST_TOKENS = 512
DEADLINE = 0.4
DEADLINE_TOTAL = 1.25
WRITING = 1.05
# The bound of a step, and the noise of a machine.
GAP = 0.4


def long_prompt() -> dict[str, Any]:
    """A prompt that nobody sent before; its client hears how far it is after each step."""
    return chat_body(
        fresh_prompt(LONG_TOKENS),
        max_tokens=4,
        temperature=0,
        return_progress=True,
        stream_options={"include_usage": True},
    )


@dataclass(frozen=True, slots=True)
class Told:
    """The latest that a client heard of its prefill, in tokens."""

    total: int
    cached: int
    processed: int


def told(client: StreamClient) -> Told | None:
    """What a client heard last."""
    events = [event.data["prompt_progress"] for event in client.events if "prompt_progress" in event.data]
    return Told(events[-1]["total"], events[-1]["cache"], events[-1]["processed"]) if events else None


async def read_until_processed(client: StreamClient, tokens: float) -> Told:
    """Read until so many tokens of the prompt are computed."""
    while True:
        now = told(client)
        if now is not None and now.processed >= tokens:
            return now
        if await client.read() is None:
            raise RuntimeError("the answer ended before")


async def finished(server: ServerProcess, body: dict[str, Any]) -> tuple[float, int, int]:
    """An answer to its end: seconds to its first token, prompt tokens, and how many of them were cached."""
    async with open_client(server.port, body) as client:
        first = await client.wait_for_token()
        await client.read_all()
    usage = client.usage
    return first, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


@asynccontextmanager
async def served(*flags: str) -> AsyncGenerator[ServerProcess, None]:
    """A server that is warm: what the first step of all takes is no news."""
    async with run_server(*flags) as server:
        async with open_client(server.port, chat_body(fresh_prompt(50), max_tokens=2)) as client:
            await client.read_all()
        yield server


async def kill(server: ServerProcess) -> None:
    """SIGKILL, and wait until it is gone."""
    server.process.send_signal(signal.SIGKILL)
    await server.process.wait()


async def stopped(flags: tuple[str, ...], report: Report, rounds: int) -> None:
    """Stop with SIGTERM, start again, send the same."""
    shares, times = [], []
    for _ in range(rounds):
        body = long_prompt()
        async with served(*flags) as server:
            cold, *_ = await finished(server, body)
        async with served(*flags) as server:
            warm, tokens, cached = await finished(server, body)
        shares.append(warm / cold)
        times.append(f"{cold:.1f} s, then {1000 * warm:.0f} ms with {cached} of {tokens} tokens")
    report.add(
        f"SIGTERM, a new server, the same 2,500 tokens: first token, part of that before ({rounds}×)",
        f"max {100 * max(shares):.1f} % ({'; '.join(times)})",
        f"≤ {100 * RESTART:.0f} %",
        max(shares) <= RESTART,
    )


async def killed(flags: tuple[str, ...], report: Report, rounds: int) -> None:
    """kill -9 somewhere in a prefill, start again, send the same."""
    lost = []
    for _ in range(rounds):
        body = long_prompt()
        async with served(*flags) as server, open_client(server.port, body) as client:
            before = await read_until_processed(client, random.uniform(0.2, 0.95) * LONG_TOKENS)
            await kill(server)
        async with served(*flags) as server:
            _, _, cached = await finished(server, body)
        lost.append((before.processed, cached))
    report.add(
        f"kill -9 at a random moment of a prefill, a new server, the same again ({rounds}×): computed, still there",
        ", ".join(f"{processed}, {cached}" for processed, cached in lost),
        f"at most {LOST_TOKENS} tokens lost",
        all(processed - cached <= LOST_TOKENS for processed, cached in lost),
    )


async def deadline(flags: tuple[str, ...], report: Report) -> None:
    """A client that gives up after a part of its prefill and sends the same again; the server is killed in between."""
    body = long_prompt()
    computed, tries, total = 0, 0, LONG_TOKENS
    answered = False
    while not answered and tries < 10:
        # The second server finds what the first one left; the client's next tries stay with it.
        async with served(*flags) as server:
            for _ in range(1 if tries == 0 else 10):
                tries += 1
                async with open_client(server.port, body) as client:
                    limit = DEADLINE * total
                    start: Told | None = None
                    while (now := told(client)) is None or now.processed - now.cached < limit:
                        start = start or now
                        if client.times_of_tokens or await client.read() is None:
                            answered = True
                            break
                    now = told(client)
                    assert now is not None
                    total = now.total
                    computed += (now.total if answered else now.processed) - now.cached
                if answered:
                    break
            if not answered:
                await kill(server)
    report.add(
        f"a client that gives up after {DEADLINE} × the prefill, the server killed after its first try",
        f"answered at try {tries}, computed {computed / total:.2f} × the prompt",
        f"answered, ≤ {DEADLINE_TOTAL} ×",
        answered and computed <= DEADLINE_TOTAL * total,
    )


async def writing(flags: tuple[str, ...], report: Report, rounds: int) -> None:
    """A running stream beside a long prefill, with a disk that is written to, and without one."""
    took: dict[bool, list[float]] = {True: [], False: []}
    rates: dict[bool, list[float]] = {True: [], False: []}
    gaps: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds):
        for disk in (True, False) if number % 2 == 0 else (False, True):
            async with served(*flags, *(() if disk else ("--no-kv-disk",))) as server:
                seconds, gap, tokens = await beside_a_stream(server)
            took[disk].append(seconds)
            rates[disk].append(tokens / seconds)
            gaps[disk].append(gap)
    slower = statistics.median(rates[False]) / statistics.median(rates[True])
    longer = statistics.median(took[True]) / statistics.median(took[False])
    report.add(
        f"a running stream beside a prefill that is written to disk: tokens a second, without by with ({rounds}× each)",
        f"{slower:.3f} × ({statistics.median(rates[True]):.1f} a second); the prefill takes {longer:.3f} × as long",
        f"≤ {WRITING} ×",
        slower <= WRITING,
    )
    report.add(
        "its longest gap, with and without",
        f"{1000 * max(gaps[True]):.0f} ms and {1000 * max(gaps[False]):.0f} ms",
        f"≤ {GAP} s",
        max(gaps[True]) <= GAP,
    )


@benchmark("restart")
@click.option("--rounds", default=5, show_default=True, help="kills at a random moment")
async def main(report: Report, model: str, rounds: int) -> None:
    """Measure servers that are stopped, killed and left."""
    with TemporaryDirectory() as directory:
        flags = (*FLAGS, "--kv-disk-dir", directory, "--model", model)
        await stopped(flags, report, min(rounds, 2))
        await killed(flags, report, rounds)
        await deadline(flags, report)
        await writing(flags, report, min(rounds, 3))


if __name__ == "__main__":
    main()
