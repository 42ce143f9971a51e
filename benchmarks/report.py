"""What every benchmark prints and leaves behind: a table of figures, each with what was asked of it.

With ``--json FILE`` the same is written there, with the machine, the versions and the command, and with the numbers
that charts are drawn from (`benchmarks.render`).
"""

import datetime
import json
import math
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import trio

from ds4trio.config import demo_model

__all__ = ["Report", "Row", "benchmark", "milliseconds", "percentile", "table"]

PACKAGES = ("ds4trio", "llama-cpp-python", "trio", "quart-trio", "hypercorn")


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, what was asked of it, and whether it holds."""

    what: str
    measured: str
    bar: str
    holds: bool


@dataclass
class Report:
    """The table of one benchmark, and the numbers behind it by the names of their charts."""

    name: str
    command: str
    rows: list[Row] = field(default_factory=list)
    series: dict[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether every bar was kept."""
        return all(row.holds for row in self.rows)

    def add(self, what: str, measured: str, bar: str, holds: bool) -> None:
        """Add a row."""
        self.rows.append(Row(what, measured, bar, holds))
        click.echo(f"  {what}: {measured} ({bar}) {'holds' if holds else 'DOES NOT HOLD'}", err=True)

    def save(self, path: Path) -> None:
        """Write it down as JSON."""
        document = {
            **asdict(self),
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "machine": machine(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")


def benchmark(name: str) -> Callable[[Callable[..., Awaitable[None]]], click.Command]:
    """Make a command of a coroutine function that takes a report, the path of a model, and its own options.

    The command leaves with status 1 where a bar was missed.
    """

    def decorate(measure: Callable[..., Awaitable[None]]) -> click.Command:
        def run(model: Path | None, path: Path | None, **options: object) -> None:
            if (model := model or demo_model()) is None:
                raise click.UsageError("no model: give one with --model FILE.gguf")
            report = Report(name, shlex.join(["python", "-m", f"benchmarks.{name}", *_without_json(sys.argv[1:])]))
            trio.run(partial(measure, report, str(model), **options))
            if path is not None:
                report.save(path)
            click.echo(f"\n{machine()}\n\n{table(report.rows)}")
            if not report.holds:
                raise SystemExit(1)

        run.__dict__.update(measure.__dict__)  # the options that were declared on it
        run = click.option("--json", "path", type=click.Path(path_type=Path), help="write the figures there, too")(run)
        run = click.option("--model", type=click.Path(path_type=Path), help="GGUF file; default: the demo model")(run)
        return click.command(name, help=measure.__doc__)(run)

    return decorate


def table(rows: Iterable[Row]) -> str:
    """Rows as Markdown."""
    lines = ["| what | measured | asked | holds |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.measured} | {row.bar} | {'yes' if row.holds else '**no**'} |" for row in rows]
    return "\n".join(lines)


def machine() -> str:
    """What it runs on, in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of the values do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def milliseconds(values: list[float]) -> str:
    """Median, p99 where there are enough values for one, maximum."""
    p99 = f"p99 {1000 * percentile(values, 0.99):.0f} ms, " if len(values) >= 50 else ""
    return f"median {1000 * statistics.median(values):.0f} ms, {p99}max {1000 * max(values):.0f} ms"


def _without_json(arguments: list[str]) -> list[str]:
    """The command line without the option that only says where the figures go."""
    if "--json" not in arguments:
        return arguments
    at = arguments.index("--json")
    return [*arguments[:at], *arguments[at + 2 :]]
