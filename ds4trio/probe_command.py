"""``ds4trio probe``: how any server behaves towards clients that wait, leave and come back.

Only printing lives here; what is measured is in `ds4trio.probe`.
"""

import json
import sys
from functools import partial
from typing import TYPE_CHECKING

import click
import trio

if TYPE_CHECKING:
    from ds4trio.probe import Plan, Row, Target
    from ds4trio.testing.stream import Protocol

__all__ = ["probe"]

APIS = ("chat", "responses", "messages")


@click.command()
@click.argument("url")
@click.option("--model", metavar="NAME", help="model to ask for; default: the first one that the server lists")
@click.option("--api", type=click.Choice(APIS), default="chat", show_default=True, help="protocol to speak")
@click.option("--api-key", default="", metavar="KEY", help="key, for a server that wants one")
@click.option("--quick", is_flag=True, help="a prompt of about 3 seconds instead of 12: says less about silence")
@click.option("--json", "as_json", is_flag=True, help="print the figures as JSON")
def probe(url: str, *, model: str | None, api: "Protocol", api_key: str, quick: bool, as_json: bool) -> None:
    """Measure how the server at URL (http://HOST:PORT) behaves towards clients that wait, leave and come back.

    It may be any server that speaks Chat Completions, Responses or Messages; nothing else should use it meanwhile.
    Everything is seen from outside:

    \b
    - Silence is the longest gap between two arrivals: of any bytes, and of
      events that parse as JSON. Idle timers count the one or the other.
    - How soon a hang-up frees the machine: one client leaves in the middle of
      a prefill, and in that moment another one sends a short prompt. Its first
      token, minus the median of three such prompts on the idle server, is how
      long the server was still busy for the one that left. A server that
      computes both side by side shows less of it than it wastes.
    - What a retry costs: the same prompt again, its first token as a part of
      the first prefill; after a hang-up at half of it, 50 % is what keeping
      all that was computed gives.
    - The slow reader asks for a long answer and takes no bytes of it. It says
      nothing where the answer is too short to fill the buffers between.

    The prompt is as long as the server computes in about 12 seconds, at most 70 % of the context that it tells (of
    4,096 tokens where it tells none).
    """
    from ds4trio.probe import ProbeError, as_document, as_table  # noqa: PLC0415 - --help stays fast

    try:
        target, rows = trio.run(partial(_examine, url, api=api, model=model, key=api_key, quick=quick))
    except ProbeError as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps(as_document(target, rows), indent=1) if as_json else as_table(rows))


async def _examine(
    url: str, *, api: "Protocol", model: str | None, key: str, quick: bool
) -> "tuple[Target, list[Row]]":
    from ds4trio.probe import open_target, plan, steps  # noqa: PLC0415 - --help stays fast

    target = await open_target(url, api=api, model=model, key=key)
    planned = await plan(target, quick=quick)
    click.echo(_announcement(target, planned), err=True)
    rows: list[Row] = []
    with click.progressbar(
        steps(target, planned), label="probing", file=sys.stderr, item_show_func=lambda step: step.name if step else ""
    ) as bar:
        for step in bar:
            rows += await step.measure()
    return target, rows


def _announcement(target: "Target", planned: "Plan") -> str:
    return (
        f"{target.model} computes about {planned.tokens / planned.prefill:,.0f} prompt tokens a second; "
        f"with prompts of {planned.tokens:,} this takes {_duration(planned.least)} to {_duration(planned.most)}."
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
