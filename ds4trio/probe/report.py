"""What was seen, as a table for people and as a document for programs."""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ds4trio.probe.target import Target

__all__ = ["Row", "as_document", "as_table"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line: what was measured, in words and by ``key``; ``figures`` are seconds, tokens, tries or parts of one."""

    key: str
    what: str
    shown: str
    figures: Mapping[str, float | None]


def as_table(rows: Iterable[Row]) -> str:
    """Markdown."""
    return "\n".join(["| what | measured |", "|---|---|", *(f"| {row.what} | {row.shown} |" for row in rows)])


def as_document(target: "Target", rows: Iterable[Row]) -> dict[str, Any]:
    """The same for JSON; a row without figures has a ``problem`` instead."""
    return {
        "server": f"http://{target.host}:{target.port}{target.prefix}",
        "api": target.api,
        "model": target.model,
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "measured": {row.key: dict(row.figures) if row.figures else {"problem": row.shown} for row in rows},
    }
