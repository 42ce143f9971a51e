"""All benchmarks, one after the other, and the report: ``python -m benchmarks [NAME ...]``."""

import subprocess
import sys
from pathlib import Path

import click

from benchmarks.render import ORDER, render

REPORT = Path("docs/benchmarks")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(ORDER))
def main(names: tuple[str, ...]) -> None:
    """Measure (about an hour and a half on two cores; nothing else should run), then write ``docs/benchmarks.md``."""
    missed = []
    with click.progressbar(names or ORDER, label="benchmarks", file=sys.stderr, item_show_func=str) as bar:
        for name in bar:
            command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(REPORT / f"{name}.json")]
            if subprocess.run(command, check=False).returncode:
                missed.append(name)
    click.echo(f"wrote {render(REPORT)}")
    if missed:
        raise SystemExit(f"a bar was missed, or it failed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
