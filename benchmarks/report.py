"""The table that every benchmark prints, and the figures in it."""

import math
import platform
import statistics
from dataclasses import dataclass, field

import click

__all__ = ["Report", "milliseconds", "percentile"]


@dataclass
class Report:
    """Rows of the table."""

    rows: list[tuple[str, str, str, bool]] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every bar was kept."""
        return all(holds for *_, holds in self.rows)

    def add(self, what: str, measured: str, bar: str, holds: bool) -> None:
        """A figure, what was asked of it, and whether it holds."""
        self.rows.append((what, measured, bar, holds))
        click.echo(f"  {what}: {measured} ({bar}) {'holds' if holds else 'DOES NOT HOLD'}", err=True)

    def show(self) -> None:
        """Print the table; leave with status 1 where a bar was missed."""
        click.echo(f"\n{platform.machine()}, {platform.python_version()}, {len(self.rows)} figures\n")
        click.echo(str(self))
        if not self.holds:
            raise SystemExit(1)

    def __str__(self) -> str:
        lines = ["| what | measured | bar | holds |", "|---|---|---|---|"]
        lines += [
            f"| {what} | {measured} | {bar} | {'yes' if holds else '**no**'} |"
            for what, measured, bar, holds in self.rows
        ]
        return "\n".join(lines)


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of the values do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def milliseconds(values: list[float]) -> str:
    """Median, p99 where there are enough values for one, maximum."""
    p99 = f"p99 {1000 * percentile(values, 0.99):.0f} ms, " if len(values) >= 50 else ""
    return f"median {1000 * statistics.median(values):.0f} ms, {p99}max {1000 * max(values):.0f} ms"
