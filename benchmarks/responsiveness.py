"""What one client of a server notices of the others, on ours and on its peers, seen from outside.

    python -m benchmarks.responsiveness [--rounds 1] [--peer http://HOST:PORT] [--model FILE.gguf]

All servers are asked the same things in turns, in the words of Chat Completions. Where a server ends a request that was
to go on, or gives no answer, the figure is missing and the table says how often.
"""

import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import click
import h11
import trio

from benchmarks.peers import Contender, open_contenders
from benchmarks.report import Report, benchmark
from benchmarks.throughput import body_of
from ds4trio.probe import measures
from ds4trio.testing import StreamClient, fresh_prompt, open_client

PARALLEL = 4
LONG = 2500
QUEUED = 1000
DEADLINE = 0.4
MOST_TRIES = 8

Figures = dict[str, list[float]]
"""By what was measured, of one server."""


class Measured:
    """One server, and what was seen of it."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.figures: Figures = defaultdict(list)
        self.failures: dict[str, int] = defaultdict(int)

    async def note(self, what: str, measure: Callable[[Contender], Awaitable[float]]) -> None:
        """Measure once."""
        try:
            self.figures[what].append(await measure(self.contender))
        except* (EOFError, h11.RemoteProtocolError, trio.BrokenResourceError, IndexError):
            self.failures[what] += 1

    def __getitem__(self, what: str) -> str:
        """What the table says."""
        values, failed = self.figures[what], self.failures[what]
        if not values:
            return "gives up"
        return f"{statistics.median(values):.3g}{f' ({failed} of {failed + len(values)} gave up)' if failed else ''}"


def open_stream(
    contender: Contender, body: dict[str, Any], *, receive_buffer: int | None = None
) -> AbstractAsyncContextManager[StreamClient]:
    """A request and its answer."""
    return open_client(contender.port, body, host=contender.host, receive_buffer=receive_buffer)


def asking(contender: Contender) -> measures.Ask:
    """How `ds4trio.probe` asks, in words that none of these servers ends early at."""

    def ask(
        prompt: str, answer: int, *, receive_buffer: int | None = None
    ) -> AbstractAsyncContextManager[StreamClient]:
        return open_stream(contender, body_of(prompt, answer=answer), receive_buffer=receive_buffer)

    return ask


async def first_token(contender: Contender, body: dict[str, Any]) -> float:
    """Seconds until the first token; the answer is read to its end."""
    async with open_stream(contender, body) as client:
        took = await client.wait_for_token()
        await client.read_all()
    return took


def long_prompt() -> dict[str, Any]:
    """Nobody sent it before."""
    return body_of(fresh_prompt(LONG), answer=2)


def short_prompt() -> dict[str, Any]:
    """Nor this one."""
    return body_of(f"Say hi. {fresh_prompt(50)}", answer=2)


async def alone(contender: Contender) -> float:
    """A long prompt's first token, on an idle server."""
    return await first_token(contender, long_prompt())


async def short_beside(contender: Contender) -> float:
    """A short prompt's first token while a long one is computed."""
    async with open_stream(contender, long_prompt()) as busy, trio.open_nursery() as nursery:
        nursery.start_soon(busy.read_all)
        await trio.sleep(1)
        took = await first_token(contender, short_prompt())
        nursery.cancel_scope.cancel()
    return took


async def gap_beside(contender: Contender) -> float:
    """The longest gap between two tokens of a running answer while a long prompt is computed."""
    body = body_of(f"Tell me a long story. {fresh_prompt(45)}", answer=1500)
    async with open_stream(contender, body) as running, trio.open_nursery() as nursery:
        await running.wait_for_token()
        nursery.start_soon(running.read_all)
        await trio.sleep(0.5)
        since = trio.current_time()
        await first_token(contender, long_prompt())
        gap = running.longest_wait_for_token(since, trio.current_time())
        nursery.cancel_scope.cancel()
    return gap


async def silence_queued(contender: Contender) -> float:
    """The longest silence that one hears who comes when all sequences are taken."""
    return (await measures.behind_others(asking(contender), others=PARALLEL, tokens=QUEUED)).longest_silence


async def after_cancel(contender: Contender) -> float:
    """How much later a short prompt's first token is because a client has just left a long prefill."""
    return await measures.after_cancel(asking(contender), fresh_prompt(LONG), stay=1.5)


async def second_session(contender: Contender) -> float:
    """First token of a second session with the same system prompt of 1,500 tokens, part of the first one's."""
    system = {"role": "system", "content": fresh_prompt(1540)}

    async def session(question: str) -> float:
        body = body_of("", answer=8)
        return await first_token(contender, {**body, "messages": [system, {"role": "user", "content": question}]})

    first = await session("Name a colour.")
    return await session("Name three fruits.") / first


async def deadline(contender: Contender) -> float:
    """Time until a client is answered that hangs up after 0.4 of a prefill and tries again, in prefills."""
    ask = asking(contender)
    whole = await measures.first_token(ask, fresh_prompt(LONG))
    answered = await measures.with_deadline(ask, fresh_prompt(LONG), patience=DEADLINE * whole, tries=MOST_TRIES)
    if answered is None:
        raise EOFError
    return answered[1] / whole


MEASURES: dict[str, tuple[str, Callable[[Contender], Awaitable[float]]]] = {
    "alone": (f"first token of {LONG:,} tokens, idle server (s)", alone),
    "short": ("a short prompt's first token beside that prefill (s)", short_beside),
    "gap": ("a running answer's longest gap beside that prefill (s)", gap_beside),
    "silence": (f"longest silence in the queue, behind {PARALLEL} prompts of {QUEUED:,} tokens (s)", silence_queued),
    "cancel": ("a short prompt's first token right after a client left that prefill, beyond idle (s)", after_cancel),
    "sharing": ("a second session with the same system prompt: first token, part of the first one's", second_session),
    "deadline": (
        f"a client that hangs up after {DEADLINE} of a prefill, again and again: answered after (prefills)",
        deadline,
    ),
}


@benchmark("responsiveness")
@click.option("--rounds", default=1, show_default=True)
@click.option("--peer", "peers", multiple=True, metavar="URL", help="another server with the same model, measured too")
async def main(report: Report, model: str, rounds: int, peers: tuple[str, ...]) -> None:
    """Measure and compare."""
    async with open_contenders(model, parallel=PARALLEL, urls=peers) as contenders:
        all_measured = [Measured(contender) for contender in contenders]
        steps = [(what, measure) for _ in range(rounds) for what, (_, measure) in MEASURES.items()]
        with click.progressbar(steps, label="measures", file=sys.stderr) as bar:
            for what, measure in bar:
                for measured in random.sample(all_measured, len(all_measured)):
                    await measured.note(what, measure)
                    await trio.sleep(0.5)  # what the last client left behind is no business of the next one
    ours, *others = all_measured
    for what, (words, _) in MEASURES.items():
        mine = statistics.median(ours.figures[what]) if ours.figures[what] else float("inf")
        theirs = [statistics.median(other.figures[what]) for other in others if other.figures[what]]
        report.add(
            words,
            ", ".join(f"{measured.contender.name} {measured[what]}" for measured in all_measured),
            "for scale" if what == "alone" else "less than anybody else's",
            what == "alone" or all(mine < other for other in theirs),
        )
    report.series["responsiveness"] = {measured.contender.name: dict(measured.figures) for measured in all_measured}


if __name__ == "__main__":
    main()
