"""From the JSON of the benchmarks to a page with their tables and charts, and to what the README quotes of it.

    python -m benchmarks.render [DIRECTORY]

Reads every ``*.json`` in ``docs/benchmarks`` and writes the charts (SVG) beside them, the page next to the directory,
and the part of the README that is marked as measured: every figure of which something was asked.
"""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.report import Row, table

__all__ = ["ORDER", "render"]

TITLES = {
    "throughput": "Raw work",
    "responsiveness": "What one client notices of the others",
    "drafts": "Answers that repeat what they were given",
    "waiting": "A thousand clients in the queue",
    "steps": "Where the time of a step goes",
    "lifeline": "Waiting, and leaving",
    "fairness": "Many clients at once",
    "restart": "Restarts, kills and retries",
    "replay": "The next turn",
    "cost": "What protocols cost",
    "fuzz": "Bad input",
    "soak": "Months in minutes",
}
ORDER = tuple(TITLES)
README = Path("README.md")

Chart = Callable[[Axes, Any], None]


def bars(axes: Axes, rates: dict[str, dict[str, list[float]]]) -> None:
    """Groups of bars, one for each size, one bar for each server: medians, and lines from the least to the most."""
    sizes = list(next(iter(rates.values())))
    width = 0.8 / len(rates)
    for place, (name, of_sizes) in enumerate(rates.items()):
        medians = [statistics.median(of_sizes[size]) for size in sizes]
        spread = [
            [median - min(of_sizes[size]) for median, size in zip(medians, sizes, strict=True)],
            [max(of_sizes[size]) - median for median, size in zip(medians, sizes, strict=True)],
        ]
        at = [index + (place - (len(rates) - 1) / 2) * width for index in range(len(sizes))]
        axes.bar(at, medians, width, yerr=spread, label=name, capsize=2)
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set_ylabel("tokens per second")
    axes.legend()


def answers(axes: Axes, rates: dict[str, dict[str, list[float]]]) -> None:
    """Throughput of answers."""
    bars(axes, rates)
    axes.set_xlabel("answers at once")


def prompts(axes: Axes, rates: dict[str, dict[str, list[float]]]) -> None:
    """Throughput of prompts."""
    bars(axes, rates)
    axes.set_xlabel("tokens of the prompt")


def shares(axes: Axes, figures: dict[str, dict[str, list[float]]]) -> None:
    """A line for each measure: how many times longer everybody takes than the quickest."""
    measures = list(dict.fromkeys(measure for of_server in figures.values() for measure in of_server))
    height = 0.8 / len(figures)
    for place, (name, of_server) in enumerate(figures.items()):
        at = [index + (place - (len(figures) - 1) / 2) * height for index in range(len(measures))]
        axes.barh(at, [statistics.median(of_server.get(measure) or [0.0]) for measure in measures], height, label=name)
    axes.set_yticks(range(len(measures)), measures)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("seconds (sharing, deadline: prefills)")
    axes.legend()


def lateness(axes: Axes, data: dict[str, list[float]]) -> None:
    """How many beats are no later than so many milliseconds."""
    values = data["milliseconds"]
    axes.plot(values, [(index + 1) / len(values) for index in range(len(values))])
    axes.set_xlabel("milliseconds late")
    axes.set_ylabel("share of all beats")


def memory(axes: Axes, lives: list[list[list[int]]]) -> None:
    """The process's size over the requests that were computed, a line for each life."""
    for number, life in enumerate(lives, 1):
        axes.plot([requests for requests, _ in life], [size for _, size in life], marker=".", label=f"life {number}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("requests computed in this life")
    axes.set_ylabel("MiB")
    axes.legend()


CHARTS: dict[str, Chart] = {
    "decode": answers,
    "prefill": prompts,
    "responsiveness": shares,
    "lateness": lateness,
    "memory": memory,
}


MEASURED = re.compile(r"(<!-- measured[^>]*-->\n).*?(<!-- /measured -->)", re.DOTALL)


def render(directory: Path) -> Path:
    """Write the charts, the page and the README's part; returns where the page is."""
    matplotlib.use("svg")
    pyplot.rcParams.update({"svg.hashsalt": "ds4trio", "font.size": 9, "figure.figsize": (7, 3.5)})
    lines = [
        "# Measured",
        "",
        "Written by `make bench`. Servers that are compared ran at the same time on the same machine, with the same",
        "model file, and were asked in turns.",
    ]
    for name in ORDER:
        path = directory / f"{name}.json"
        if not path.exists():
            continue
        report = json.loads(path.read_text())
        versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
        lines += ["", f"## {TITLES[name]}", "", f"`{report['command']}`", ""]
        lines += [f"{report['date']}, {report['machine']}, {versions}", ""]
        for series, data in report["series"].items():
            if series in CHARTS:
                target = directory / f"{name}-{series}.svg"
                _draw(target, CHARTS[series], data)
                lines += [f"![{TITLES[name]}: {series}]({directory.name}/{target.name})", ""]
        lines += [table(Row(**row) for row in report["rows"])]
    page = directory.with_suffix(".md")
    page.write_text("\n".join(lines) + "\n")
    if README.exists():
        README.write_text(MEASURED.sub(lambda match: match[1] + _quoted(directory) + match[2], README.read_text()))
    return page


def _quoted(directory: Path) -> str:
    """The README's tables."""
    lines = []
    for name in ORDER:
        path = directory / f"{name}.json"
        rows = json.loads(path.read_text())["rows"] if path.exists() else []
        if rows := [row for row in rows if row["bar"] != "for scale"]:
            lines += ["", f"**{TITLES[name]}** (`python -m benchmarks.{name}`)", "", table(Row(**row) for row in rows)]
    return "\n".join(lines) + "\n\n"


def _draw(target: Path, chart: Chart, data: Any) -> None:
    figure, axes = pyplot.subplots(layout="constrained")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    chart(axes, data)
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)


@click.command()
@click.argument("directory", default=Path("docs/benchmarks"), type=click.Path(path_type=Path))
def main(directory: Path) -> None:
    """Draw and write."""
    click.echo(render(directory))


if __name__ == "__main__":
    main()
