"""What the commands that list things have in common: tables, and words of strangers that cannot steer a terminal."""

from collections.abc import Iterable, Sequence

__all__ = ["plain", "table"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    lines = [header, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def plain(text: str, *, keep_spaces: bool = False) -> str:
    """``text`` on one line; what could steer a terminal is left out, and so is white space but single spaces."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return printable if keep_spaces else " ".join(printable.split())
