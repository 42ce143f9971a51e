"""What a waiting client hears, and how soon the machine is free when it leaves: a real server, a real model.

    python -m benchmarks.lifeline [--tries 50] [--model FILE.gguf]

Prints a Markdown table. Every figure is seen from outside, by a client on a socket and by a reader of the server's log,
so it holds the event loops of both sides too.
"""

import json
import random
import re
import statistics
from collections.abc import Awaitable, Callable
from itertools import pairwise
from tempfile import TemporaryDirectory

import click
import trio

from benchmarks.report import Report, benchmark, milliseconds, percentile
from ds4trio.testing import Arrival, ServerProcess, StreamClient, chat_body, fresh_prompt, open_client, run_server

LONG_TOKENS = 2500
WATCHED = ("/health", "/requests", "/metrics")
FREED = re.compile(r"cancelled in (\w+) \(prefill (\d+)/\d+, output \d+\): the client has gone, freed in ([\d.]+) ms")
CHUNK = re.compile(r"prefill chunk (\d+)/")


async def short_first_token(server: ServerProcess) -> float:
    """Seconds until the first token of a short prompt that nobody sent before."""
    async with open_client(server.port, chat_body(fresh_prompt(50), max_tokens=2)) as client:
        await client.read_until(b'"content":"')
        count = client.body.count(b'"delta"')
        while client.body.count(b'"delta"') <= count and await client.read() is not None:
            pass
        first = client.arrivals[-1].at
        await client.read_all()
    return first


async def long_prefill(server: ServerProcess, report: Report) -> None:
    """A real prefill on all cores: the first byte, the beats, the longest silence."""
    firsts, silences, gaps, totals = [], [], [], []
    for _ in range(3):
        async with open_client(server.port, chat_body(fresh_prompt(LONG_TOKENS), max_tokens=8)) as client:
            await client.read_all()
        firsts.append(client.arrivals[0].at)
        silences.append(client.longest_silence)
        moments = [firsts[-1], *client.times_of_beats]
        gaps += [later - earlier for earlier, later in pairwise(moments)]
        totals.append(client.arrivals[-1].at)
    report.add("prefill of 2,500 tokens, whole answer", f"{statistics.median(totals):.1f} s", "for scale", True)
    report.add("first byte after the request was sent", milliseconds(firsts), "< 50 ms", max(firsts) < 0.05)
    report.add("longest silence", f"{max(silences):.3f} s", "≤ 5.1 s", max(silences) <= 5.1)
    off = max(abs(gap - 5) for gap in gaps)
    report.add(f"{len(gaps)} beats, off 5 s by at most", f"{1000 * off:.0f} ms", "± 50 ms", off <= 0.05)


async def first_byte_beside_a_prefill(server: ServerProcess, report: Report) -> None:
    """The same for a client that comes while somebody else's prefill holds all cores; and for whoever watches."""
    firsts = []
    watched: dict[str, list[float]] = {path: [] for path in WATCHED}
    async with open_client(server.port, chat_body(fresh_prompt(LONG_TOKENS))) as busy:
        await busy.read()
        for _ in range(20):
            async with open_client(server.port, chat_body(fresh_prompt(LONG_TOKENS))) as client:
                firsts.append((await read_one(client)).at)
            for path, times in watched.items():
                async with open_client(server.port, method="GET", path=path) as client:
                    await client.read_all()
                times.append(client.arrivals[-1].at)
    report.add("first byte while another prompt is prefilled", milliseconds(firsts), "< 50 ms", max(firsts) < 0.05)
    for path, times in watched.items():
        report.add(f"{path} meanwhile", milliseconds(times), "< 50 ms", max(times) < 0.05)
    await idle(server)


async def read_one(client: StreamClient) -> Arrival:
    """The first piece of an answer."""
    arrival = await client.read()
    assert arrival is not None
    return arrival


async def idle(server: ServerProcess) -> None:
    """Wait until the server computes nothing."""
    while True:
        async with open_client(server.port, method="GET", path="/health") as client:
            if json.loads(await client.read_all())["running"] == 0:
                return
        await trio.sleep(0.02)


async def leave_and_time(server: ServerProcess, client: StreamClient) -> tuple[float, re.Match[str]]:
    """Close the connection; seconds until the log says that nothing works for it any more."""
    lines = len(server.log)
    left = trio.current_time()
    await client.stream.aclose()
    line = await server.wait_log(FREED.pattern, after=lines)
    match = FREED.search(line.text)
    assert match is not None
    return line.at - left, match


async def cancels(server: ServerProcess, report: Report, tries: int) -> None:
    """Leave in every phase; how long until the machine is free, and is it really."""
    baseline = [await short_first_token(server) for _ in range(20)]
    report.add("first token of a short prompt, idle server", milliseconds(baseline), "for scale", True)

    async def in_prefill(stream: bool) -> tuple[float, float]:
        async with open_client(server.port, chat_body(fresh_prompt(LONG_TOKENS), stream=stream)) as client:
            await trio.sleep(1)
            freed, match = await leave_and_time(server, client)
        assert match[1] == "prefill"
        return freed, await short_first_token(server)

    async def in_decode() -> tuple[float, float]:
        async with open_client(server.port, chat_body(f"Tell me a story. {fresh_prompt(50)}", temperature=0)) as client:
            await client.read_until(b'"content":" ')
            await trio.sleep(random.uniform(0, 0.3))
            freed, _ = await leave_and_time(server, client)
        return freed, await short_first_token(server)

    async def in_queue() -> tuple[float, float]:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(hold, server, chat_body(fresh_prompt(LONG_TOKENS)))
            while await running(server) < 4:  # noqa: ASYNC110 - the server has no event for this client
                await trio.sleep(0.02)
            async with open_client(server.port, chat_body(fresh_prompt(LONG_TOKENS))) as client:
                await client.read()
                freed, match = await leave_and_time(server, client)
            assert match[1] == "queued"
            nursery.cancel_scope.cancel()
        await idle(server)
        return freed, await short_first_token(server)

    cases: list[tuple[str, int, Callable[[], Awaitable[tuple[float, float]]]]] = [
        ("streaming, 1 s into the prefill", tries, lambda: in_prefill(True)),
        ("non-streaming, 1 s into the prefill", max(5, tries // 2), lambda: in_prefill(False)),
        ("during decode", max(5, tries // 2), in_decode),
        ("queued behind four prefills", max(5, tries // 5), in_queue),
    ]
    for name, count, case in cases:
        results = [await case() for _ in range(count)]
        freed, after = [first for first, _ in results], [second for _, second in results]
        report.add(
            f"{name}: left → free ({count}×)", milliseconds(freed), "p99 ≤ 100 ms", percentile(freed, 0.99) <= 0.1
        )
        late = statistics.median(after) - statistics.median(baseline)
        report.add(
            f"{name}: an unrelated prompt's first token right after, against idle",
            f"{1000 * late:+.0f} ms (median), {1000 * (max(after) - statistics.median(baseline)):+.0f} ms (worst)",
            "≤ +150 ms",
            max(after) - statistics.median(baseline) <= 0.15,
        )


async def hold(server: ServerProcess, body: dict[str, object]) -> None:
    """A client that stays."""
    async with open_client(server.port, body) as client:
        await client.read_all()


async def running(server: ServerProcess) -> int:
    """How many requests are being computed."""
    async with open_client(server.port, method="GET", path="/health") as client:
        return int(json.loads(await client.read_all())["running"])


async def retries(server: ServerProcess, report: Report) -> None:
    """What a cancelled prefill leaves to its retry."""
    kept = []
    for _ in range(5):
        body = chat_body(fresh_prompt(LONG_TOKENS), max_tokens=1, stream_options={"include_usage": True})
        lines = len(server.log)
        async with open_client(server.port, body) as client:
            await trio.sleep(random.uniform(3, 8))
            await leave_and_time(server, client)
        chunks = [int(match[1]) for line in server.log[lines:] if (match := CHUNK.search(line.text))]
        async with open_client(server.port, body) as client:
            await client.read_all()
        cached = re.search(rb'"cached_tokens":(\d+)', client.body)
        assert cached is not None
        kept.append((int(cached[1]), chunks[-1]))
    report.add(
        "retry of a cancelled prefill starts at token (tokens in finished ubatches)",
        ", ".join(f"{tokens} ({done})" for tokens, done in kept),
        "only the running ubatch is lost",
        all(tokens == done for tokens, done in kept),
    )


@benchmark("lifeline")
@click.option("--tries", default=50, show_default=True, help="cancels in prefill")
async def main(report: Report, model: str, tries: int) -> None:
    """Measure one server."""
    with TemporaryDirectory() as directory:
        async with run_server("--ctx", "8192", "--kv-disk-dir", directory, "--model", model) as server:
            await short_first_token(server)
            await long_prefill(server, report)
            await first_byte_beside_a_prefill(server, report)
            await cancels(server, report, tries)
            await retries(server, report)


if __name__ == "__main__":
    main()
