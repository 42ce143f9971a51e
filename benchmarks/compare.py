"""Two commits side by side: has anything become slower?

    python -m benchmarks.compare [BASE] [HEAD] [--rounds 6] [--model FILE.gguf]

Both are checked out into worktrees of their own and their servers run at the same time; they are asked the same things
in turns, so that a slow minute of the machine hits both. A figure is the median over the rounds of HEAD's part of BASE:
above 1 is faster for rates, and slower for times. BASE is the commit before HEAD unless given; what is not committed
is not measured. Both run with the packages of this environment.
"""

import random
import statistics
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import trio

from benchmarks.peers import Contender, open_ours
from benchmarks.report import Report, benchmark, percentile
from benchmarks.responsiveness import after_cancel, gap_beside, second_session, short_beside
from benchmarks.throughput import decode, prefill

PARALLEL = 4
AS_FAST = 0.95
"""The part of BASE's speed that HEAD must have; the medians of two runs of one commit differ by less."""

# What is measured, and whether more is better.
MEASURES: dict[str, tuple[Callable[[Contender], Awaitable[float]], bool]] = {
    "decode, one answer (tokens/s)": (partial(decode, streams=1), True),
    "decode, four answers at once (tokens/s)": (partial(decode, streams=4), True),
    "prefill, 250 tokens (tokens/s)": (partial(prefill, tokens=250), True),
    "prefill, 2,500 tokens (tokens/s)": (partial(prefill, tokens=2500), True),
    "a short prompt's first token beside a long prefill (s)": (short_beside, False),
    "a running answer's longest gap beside a long prefill (s)": (gap_beside, False),
    "a second session's first token, part of the first one's": (second_session, False),
    "a short prompt's first token after a client left, beyond idle (s)": (after_cancel, False),
}
TIMES_MAY_GROW = 1.25
"""Single times vary more than rates."""
JITTER = 0.05
"""Seconds, or parts, that a time may differ by in any case."""


@asynccontextmanager
async def open_commit(commit: str, model: str) -> AsyncGenerator[Contender, None]:
    """The server of one commit, for the length of the block."""
    with TemporaryDirectory() as directory:
        tree = Path(directory, "tree")
        await trio.run_process(["git", "worktree", "add", "--quiet", "--detach", tree, commit])
        try:
            async with open_ours(model, parallel=PARALLEL, source=tree) as ours:
                yield Contender(commit, "127.0.0.1", ours.port)
        finally:
            with trio.CancelScope(shield=True):
                await trio.run_process(["git", "worktree", "remove", "--force", tree])


async def name_of(commit: str) -> str:
    """The short hash; ends the program for what is no commit."""
    command = ["git", "rev-parse", "--short", "--verify", "--quiet", f"{commit}^{{commit}}"]
    found = await trio.run_process(command, check=False, capture_stdout=True)
    if found.returncode:
        raise click.UsageError(f"{commit!r} is no commit here")
    return found.stdout.decode().strip()


@benchmark("compare")
@click.argument("base", default="HEAD~1")
@click.argument("head", default="HEAD")
@click.option("--rounds", default=6, show_default=True)
async def main(report: Report, model: str, base: str, head: str, rounds: int) -> None:
    """Measure BASE and HEAD (about two minutes a round)."""
    base, head = await name_of(base), await name_of(head)
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    async with open_commit(base, model) as first, open_commit(head, model) as second:
        for contender in (first, second):
            await decode(contender, 1)
        steps = rounds * list(MEASURES)
        with click.progressbar(steps, label="measures", file=sys.stderr) as bar:
            for what in bar:
                for at in random.sample((0, 1), 2):
                    contender = (first, second)[at]
                    values[what][("base", "head")[at]].append(await MEASURES[what][0](contender))
    for what, (_, more_is_better) in MEASURES.items():
        before, after = values[what]["base"], values[what]["head"]
        ratios = [new / old for old, new in zip(before, after, strict=True)]
        ratio = statistics.median(ratios)
        was, now = statistics.median(before), statistics.median(after)
        report.add(
            what,
            f"{base} {was:.3g}, {head} {now:.3g}: {ratio:.3f} × ({min(ratios):.2f} to {percentile(ratios, 1):.2f})",
            f"≥ {AS_FAST} ×" if more_is_better else f"≤ {TIMES_MAY_GROW} × or {JITTER} more",
            ratio >= AS_FAST if more_is_better else ratio <= TIMES_MAY_GROW or now - was <= JITTER,
        )


if __name__ == "__main__":
    main()
