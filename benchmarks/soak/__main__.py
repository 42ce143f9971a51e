"""The soak.

    python -m benchmarks.soak [--minutes 20] [--model FILE.gguf]

The server lives three times on the same disk cache: twice for a twentieth of the time, once until it is stopped and
once until a kill -9 in the middle of it all, and then for the rest. At the end of each the clients stop, and what is
left over is counted: requests, cells, descriptors, threads. What an answer has to be: see `answers`.

Once a minute all clients stop for some seconds, and the memory of the process is looked at: blocks of KV that are on
their way to the disk come and go, 6 MiB each, and have gone by then; what leaks does not go. Conversations that rest
(``--cache-ram-mb``) stay, up to 16 MiB of them, and which ones those are is chance: so what the server says that it
keeps (``ds4trio_kv_beside_bytes``) is taken off, and the growth is told with it and without. It is a line over the
requests of which something was computed, in the second half of the last life. What is bounded is made small, so that it
is full by then: by type, the objects of a process were as many after 600 requests as after 1,300, but its heaps took
1,500 to find their size.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import linear_regression
from typing import Any

import click
import httpx2
import trio

from benchmarks.report import Report, benchmark
from benchmarks.soak.agents import AGENTS, Soak, learn
from benchmarks.waiting import resident_kb
from ds4trio.testing import ServerProcess, run_server

FLAGS = (
    *("--ctx", "4096", "--parallel", "4", "--any-model", "--max-queue", "64", "--heartbeat-interval", "1"),
    *("--cache-ram-mb", "16", "--kv-disk-space-mb", "64", "--tool-memory-max-ids", "50", "--retry-window", "20"),
)
LIVES = (0.05, 0.05, 0.9)
"""Of the time."""
KILLED = 1
WARMING = 0.5
"""Of the last life, until what is bounded is full."""
ROUND = 55.0
"""Seconds for which clients come before all of them stop."""
QUIET = 5.0
"""Seconds that they stop for; the least memory meanwhile counts."""
LOOK_EVERY = 0.25
KEPT = re.compile(r"^ds4trio_kv_beside_bytes (\S+)$", re.MULTILINE)
IDLE = 15.0
"""Seconds after which threads that wait for work have gone."""
IN_THE_MIDDLE = 5.0
MOST_KB = 1024
"""Of growth in a thousand requests."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The memory after so many requests, while nobody asks for anything.

    ``kb`` is resident, ``beside_kb`` is what is left of it without the conversations that the server keeps.
    """

    requests: int
    kb: int
    beside_kb: int


async def live(server: ServerProcess, soak: Soak, seconds: float) -> list[Sample]:
    """Let the agents come, and look at the memory each time that they stop."""
    samples: list[Sample] = []
    until = trio.current_time() + seconds
    while (left := until - trio.current_time()) > 0:
        soak.stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            for agent in AGENTS:
                nursery.start_soon(agent, soak)
            await trio.sleep(min(ROUND, left))
            soak.stopping.set()
        samples.append(await look(server, soak.computed))
    return samples


async def look(server: ServerProcess, requests: int) -> Sample:
    """The least memory in some quiet seconds."""
    looks: list[tuple[int, int]] = []
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        with trio.move_on_after(QUIET):
            while True:
                kept = KEPT.search((await client.get("/metrics")).text)
                if kept is None:
                    raise click.ClickException("/metrics does not say what is kept in memory.")
                resident = resident_kb(server.pid)
                looks.append((resident, resident - int(float(kept[1])) // 1024))
                await trio.sleep(LOOK_EVERY)
    return Sample(requests, min(resident for resident, _ in looks), min(beside for _, beside in looks))


def growth(samples: list[Sample], of: Callable[[Sample], int]) -> float:
    """KiB in a thousand requests."""
    slope: float = linear_regression([each.requests for each in samples], [of(each) for each in samples]).slope
    return 1000 * slope


async def left_over(server: ServerProcess, before: tuple[int, int]) -> list[str]:
    """What is still there although nobody asks for anything."""
    await trio.sleep(IDLE)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        health: dict[str, Any] = (await client.get("/health")).json()
        requests: dict[str, Any] = (await client.get("/requests")).json()
        metrics = (await client.get("/metrics")).text
    left = [f"{name}: {health[name]}" for name in ("running", "waiting") if health[name]]
    left += [f"request {request['id']} in {request['phase']}" for request in requests["requests"]]
    if 'ds4trio_kv_cells{state="running"} 0.0' not in metrics:
        left.append("cells of the KV")
    for what, count, most in zip(
        ("descriptors", "threads"), (server.open_descriptors(), server.threads()), before, strict=True
    ):
        if count > most:
            left.append(f"{what}: {count}, {most} before")
    return left


async def kill_in_the_middle(server: ServerProcess, soak: Soak) -> None:
    """The agents once more, and a kill -9."""
    async with trio.open_nursery() as nursery:
        for agent in AGENTS:
            nursery.start_soon(agent, soak)
        await trio.sleep(IN_THE_MIDDLE)
        soak.killed = True
        server.process.kill()
        await server.process.wait()
        nursery.cancel_scope.cancel()


@benchmark("soak")
@click.option("--minutes", type=click.FloatRange(min=5), default=20.0, show_default=True)
async def main(report: Report, model: str, minutes: float) -> None:
    """Let agents use one server for some minutes and three lives."""
    ended: Counter[str] = Counter()
    wrong: list[str] = []
    left: list[str] = []
    memory: list[list[Sample]] = []
    with tempfile.TemporaryDirectory() as directory:
        for number, share in enumerate(LIVES):
            async with run_server("--model", model, *FLAGS, "--kv-disk-dir", directory) as server:
                references = await learn(server.port)
                before = server.open_descriptors(), server.threads()
                soak = Soak(server.port, references)
                memory.append(await live(server, soak, 60 * minutes * share))
                left += await left_over(server, before)
                if number == KILLED:
                    again = Soak(server.port, references)
                    await kill_in_the_middle(server, again)
                    wrong += again.wrong
            ended += soak.ended
            wrong += soak.wrong
            click.echo(f"  life {number + 1}: {dict(soak.ended)}, {memory[-1][-1].kb // 1024} MiB", err=True)
    told = ", ".join(f"{count:,} {how}" for how, count in sorted(ended.items()))
    report.add(f"requests in {minutes:g} minutes and {len(LIVES)} lives", told, "for scale", True)
    report.add("answers that were wrong", str(len(wrong)), "0", not wrong)
    report.add("left over when nobody asked: requests, cells, descriptors, threads", str(len(left)), "0", not left)
    warm = memory[-1][int(WARMING * len(memory[-1])) :]
    over = f"in 1,000 requests, over {warm[-1].requests - warm[0].requests:,}"
    grown = growth(warm, lambda each: each.beside_kb)
    what = f"growth of resident memory {over}, without the conversations it keeps"
    report.add(what, f"{grown / 1024:.2f} MiB", "< 1 MiB", grown < MOST_KB)
    grown = growth(warm, lambda each: each.kb)
    report.add(f"growth of resident memory {over}, with them", f"{grown / 1024:.2f} MiB", "for scale", True)
    for line, count in Counter([*wrong, *left]).most_common(20):
        click.echo(f"  {count} × {line}", err=True)
    report.series["memory"] = [
        [[sample.requests, sample.kb // 1024, sample.beside_kb // 1024] for sample in life] for life in memory
    ]


if __name__ == "__main__":
    main()
