"""Run real agent clients against a server whose prefill lasts longer than they wait, and print what they did.

    python -m benchmarks.agents [--only KEY] [--install DIR] [--long] [--heartbeat both|event|comment|off]

Installs what is missing with npm, then goes on in a network that has a loopback and nothing else, so that a client can
reach the server and nobody else. Needs Linux (util-linux, iproute2), Node 20 or later and npm.
"""

import math
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import trio

from benchmarks.agents.clients import CLIENTS
from benchmarks.agents.install import default_folder, install
from benchmarks.agents.play import Patience, Play, play

IDLE = 3.0
LONG_PREFILL = 660.0
COLUMNS = (
    "client",
    "version",
    "protocol",
    "gives up after",
    "first word after",
    "POSTs",
    "of its own",
    "disconnects",
    "answer complete",
    "exit status",
    "holds",
)


def isolate() -> None:
    """Start this program again where there is no network but the loopback, unless it is there already."""
    if [name for _, name in socket.if_nameindex()] == ["lo"]:
        return
    inside = 'ip link set lo up && exec "$@"'
    os.execvp("unshare", ["unshare", "-rn", "sh", "-c", inside, "sh", *sys.orig_argv])


def row(result: Play) -> str:
    """A line of the table."""
    client, idle, status = result.client, result.patience.idle, result.ending.status
    limit = client.impatience.by_default if idle is None else f"{idle:g} s ({client.impatience.limit})"
    cells = (
        client.name,
        client.version,
        client.protocol,
        limit,
        f"{result.first_word:.1f} s" if math.isfinite(result.first_word) else "never",
        len(result.questions),
        result.asides,
        result.disconnects,
        "yes" if result.complete else "**no**",
        "ended by force" if status is None else status,
        "yes" if result.holds else "**no**",
    )
    return table_line(cells)


def table_line(cells: Sequence[object]) -> str:
    """Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


@click.command()
@click.option("--only", "keys", multiple=True, type=click.Choice([client.key for client in CLIENTS]), help="repeatable")
@click.option(
    "--install",
    "folder",
    type=click.Path(path_type=Path, resolve_path=True),
    default=default_folder,
    help="where the clients are",
)
@click.option("--long", is_flag=True, help=f"every client's own default limits, and {LONG_PREFILL:.0f} s of prefill")
@click.option("--heartbeat", default="both", show_default=True, help="the server's setting; `off` shows what it is for")
def main(keys: tuple[str, ...], folder: Path, *, long: bool, heartbeat: str) -> None:
    """Measure and print a table; status 1 where a client did not hold out."""
    chosen = [client for client in CLIENTS if not keys or client.key in keys]
    for client in chosen:
        install(client, folder)
    isolate()
    flags = ("--heartbeat", heartbeat)
    patience = Patience(LONG_PREFILL, None, flags) if long else Patience(3 * IDLE, IDLE, flags)
    click.echo(table_line(COLUMNS) + "\n" + table_line(["---"] * len(COLUMNS)))
    results = []
    for client in chosen:
        results.append(trio.run(play, client, folder, patience))
        click.echo(row(results[-1]))
    for result in results:
        for warning in result.warnings:
            click.echo(f"{result.client.key} was warned: {warning}", err=True)
        if not result.holds:
            click.echo(f"{result.client.key} complained: {result.ending.complaints[-2000:]}", err=True)
    sys.exit(not all(result.holds for result in results))


if __name__ == "__main__":
    main()
