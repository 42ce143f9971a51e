"""What the site takes from the code while mkdocs builds it, so that no copy in git can be out of date.

A line `<!-- output of: ds4trio settings -->` in a page becomes what that command prints, `<!-- table of metrics -->`
the metrics that a server shows. Whatever a page would load from another host is a warning, which fails the build.
"""

import logging
import re

from click.testing import CliRunner

from ds4trio.cache import KvUse
from ds4trio.cli import main
from ds4trio.server.monitor import Board

__all__ = ["on_page_markdown", "on_post_page"]

log = logging.getLogger("mkdocs.hooks.ds4trio")

COMMAND = re.compile(r"<!-- output of: ds4trio ([\w ]+?) -->")
METRICS = "<!-- table of metrics -->"
OUTSIDE = re.compile(r"""<(?:script|img|iframe|link|source|video)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
HELP = re.compile(r"^# HELP (\S+) (.+)\n# TYPE \S+ (\S+)", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put generated tables into a page."""
    return COMMAND.sub(lambda match: _printed(match[1]), markdown).replace(METRICS, _metrics())


def on_post_page(output: str, **_: object) -> str:
    """Warn of everything that a finished page would load from elsewhere; links that people follow are fine."""
    for tag in OUTSIDE.findall(output):
        log.warning("a page would load from another host: %s", tag)
    return output


def _printed(arguments: str) -> str:
    result = CliRunner().invoke(main, arguments.split(), catch_exceptions=False)
    if result.exit_code:
        log.warning("ds4trio %s failed: %s", arguments, result.output)
    return result.output


def _metrics() -> str:
    exposition = Board(kv=lambda: KvUse(0, 0, 0)).metrics.text().decode()
    rows = [
        f"| `{name}` | {kind} | {meaning} |"
        for name, meaning, kind in HELP.findall(exposition)
        if not name.endswith("_created")
    ]
    return "\n".join(["| metric | type | meaning |", "|---|---|---|", *rows])
