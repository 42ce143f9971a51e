"""A campaign of bad input against one real server: no 5xx, no crash, nothing that is left over.

    python -m benchmarks.fuzz [--count 100000] [--seed 1] [--engine simulated] [--json FILE]

Three kinds, mixed: bodies that are nearly right (from the examples of the server's own ``/openapi.json``), requests
that are wrong in method, path, query and headers, and bytes that are no HTTP (`ds4trio.testing.garbage`). Some clients
leave before their answer. The same seed sends the same, in about the same order. What the server minded is printed with
the number of the input.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import click
import trio

from benchmarks.fuzz.bodies import CANARY
from benchmarks.fuzz.requests import Asking, Corpus
from benchmarks.fuzz.verdict import Judge
from benchmarks.fuzz.wire import Wire, open_wire
from benchmarks.report import Report, benchmark
from ds4trio.testing import ServerProcess, chat_body, open_client, run_server
from ds4trio.testing.garbage import KINDS, LEAVINGS, throw

SLOWEST = 10.0
GROWTH_MB = 64
SETTLING = 40.0
"""Seconds after which idle connections and idle threads must be gone."""
WARMING = 0.2
"""Of the campaign; what grows in it are caches that have a bound."""
GARBAGE, ODDITIES, LEAVERS = 0.16, 0.14, 0.04
MOST_LINES = 10_000
STATUS = re.compile(rb"HTTP/1\.\d (\d{3})")
FLAGS = ("--no-kv-disk", "--max-output-tokens", "4", "--max-body-bytes", "1000000", "--any-model")
SIMULATED = ("--engine", "simulated", "--ctx", "8192", "--prefill-tps", "1e9", "--decode-tps", "1e9")
# Prompts that are computed in seconds, also where the cores are shared; conversations that rest soon fill their bound.
REAL = ("--ctx", "1024", "--threads", "1", "--cache-ram-mb", "16")


@dataclass
class Campaign:
    """What was sent and what came of it."""

    server: ServerProcess
    seed: int
    corpus: Corpus
    judge: Judge = field(default_factory=Judge)
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    told: int = 0
    """Lines of the log that say what they should not."""

    async def run(self, numbers: Iterable[int], at_once: int, done: Callable[[int], None]) -> None:
        """Send the inputs with these numbers, so many at once; ``done`` is called with 1 after each."""
        left = iter(numbers)

        async def one_after_the_other() -> None:
            async with open_wire(self.server.port) as wire:
                for number in left:
                    await self.send(number, wire)
                    done(1)
                    if len(self.server.log) > MOST_LINES:
                        self.read_log()

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(one_after_the_other)

    async def send(self, number: int, wire: Wire) -> None:
        """One input."""
        random = Random(f"{self.seed} {number}")
        lot = random.random()
        if lot < GARBAGE:
            await self._throw(number, random)
        elif lot < GARBAGE + ODDITIES:
            await self._ask(number, "oddities", self.corpus.oddity(random), wire)
        elif lot < GARBAGE + ODDITIES + LEAVERS:
            self.kinds["left before the answer"] += 1
            await wire.leave(self.corpus.body(random).data, random.choice([0, 0.001, 0.01]))
        else:
            await self._ask(number, "bodies", self.corpus.body(random), wire)

    async def _throw(self, number: int, random: Random) -> None:
        kind = random.choice(list(KINDS))
        self.kinds["no HTTP"] += 1
        data = KINDS[kind](random)
        heard = await throw(self.server.port, data, random.choice(LEAVINGS), patience=0.05)
        for status in STATUS.findall(heard):
            self._count(int(status))
            if status.startswith(b"5"):
                self._blame(number, f"{kind}: status {status.decode()}", data)

    async def _ask(self, number: int, kind: str, asking: Asking, wire: Wire) -> None:
        self.kinds[kind] += 1
        began = trio.current_time()
        heard = None
        with trio.move_on_after(2 * SLOWEST):
            heard = await wire.ask(asking.method, asking.data, endless=asking.endless)
        self.slowest = max(self.slowest, trio.current_time() - began)
        if heard is None:
            await wire.close()
            self._blame(number, "no answer", asking.data)
            return
        self._count(heard.status)
        if (fault := self.judge.fault(asking.method, asking.target, heard)) is not None:
            self._blame(number, fault, asking.data, heard.body)

    def _count(self, status: int) -> None:
        self.statuses[str(status)] += 1

    def _blame(self, number: int, fault: str, data: bytes, answer: bytes = b"") -> None:
        self.faults.append(fault)
        if len(self.faults) <= 50:
            click.echo(f"\n{number}: {fault}\n  {data[:1500]!r}\n  {answer[:500]!r}", err=True)

    def read_log(self) -> None:
        """Look through the log so far, and forget it."""
        for line in self.server.log:
            if CANARY in line.text or "Traceback" in line.text or "broke down" in line.text:
                self.told += 1
                if self.told <= 20:
                    click.echo(f"\nlog: {line.text[:500]}", err=True)
        self.server.log.clear()


def resident_mb(server: ServerProcess) -> float:
    """The server's resident memory."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


async def get(server: ServerProcess, path: str) -> bytes:
    """A document of the server's. The connection is closed at once: idle ones are what is counted."""
    async with open_client(server.port, method="GET", path=path, headers={"connection": "close"}) as client:
        return await client.read_all()


async def settled(server: ServerProcess, descriptors: int, threads: int) -> tuple[int, int]:
    """Descriptors and threads, once they are no more than that and nothing is computed, or it has taken too long."""
    with trio.move_on_after(SETTLING):
        while True:
            health = json.loads(await get(server, "/health"))
            if (
                not health["running"]
                and not health["waiting"]
                and not json.loads(await get(server, "/requests"))["requests"]
            ):
                await trio.sleep(0.2)
                if server.open_descriptors() <= descriptors and server.threads() <= threads:
                    break
            await trio.sleep(0.5)
    return server.open_descriptors(), server.threads()


@benchmark("fuzz")
@click.option("--count", default=100_000, show_default=True, help="inputs")
@click.option("--seed", default=1, show_default=True)
@click.option("--at-once", default=16, show_default=True, help="clients")
@click.option("--engine", type=click.Choice(["simulated", "llama"]), default="simulated", show_default=True)
async def main(report: Report, model: str, *, count: int, seed: int, at_once: int, engine: str) -> None:
    """Send bad input to one server, and see whether it minds."""
    flags = SIMULATED if engine == "simulated" else (*REAL, "--model", model)
    async with run_server(*FLAGS, *flags) as server:
        campaign = Campaign(server, seed, Corpus(json.loads(await get(server, "/openapi.json"))))
        descriptors, threads = server.open_descriptors(), server.threads()
        first = round(count * WARMING)
        with click.progressbar(length=count, label="inputs", file=sys.stderr) as bar:
            await campaign.run(range(first), at_once, bar.update)
            threads, before = max(threads, server.threads()), resident_mb(server)
            await campaign.run(range(first, count), at_once, bar.update)
        growth = resident_mb(server) - before
        left = await settled(server, descriptors, threads)
        async with open_client(server.port, chat_body("Hello!", max_tokens=2)) as client:
            answered = (await client.read_all()).endswith(b"data: [DONE]\n\n")
        campaign.read_log()
    tell(report, campaign, count)
    report.add(
        "the server's memory after a fifth of them, and what it grew by from there",
        f"{before:.0f} MB, {growth:+.0f} MB",
        f"≤ {GROWTH_MB} MB",
        growth <= GROWTH_MB,
    )
    report.add(
        "file descriptors and threads before and after",
        f"{descriptors} and {threads}, {left[0]} and {left[1]}",
        "no more",
        left[0] <= descriptors and left[1] <= threads,
    )
    report.add("a normal request afterwards", "answered" if answered else "failed", "answered", answered)


def tell(report: Report, campaign: Campaign, count: int) -> None:
    """The figures of the answers."""
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in campaign.kinds.most_common())
    statuses = ", ".join(f"{number:,} × {status}" for status, number in sorted(campaign.statuses.items()))
    report.add(f"{count:,} bad inputs", kinds, "for scale", True)
    report.add("answers by status", statuses, "for scale", True)
    faults = ", ".join(f"{number} × {fault}" for fault, number in Counter(campaign.faults).most_common(5)) or "none"
    what = "5xx, answers in no shape of their protocol, or none at all"
    report.add(f"{what}, of {count:,}", faults, "none", not campaign.faults)
    report.add("slowest answer", f"{campaign.slowest:.1f} s", f"≤ {SLOWEST:.0f} s", campaign.slowest <= SLOWEST)
    report.add("lines of the log with words of a prompt or a traceback", f"{campaign.told}", "none", not campaign.told)
    report.series["statuses"] = dict(campaign.statuses)


if __name__ == "__main__":
    main()
