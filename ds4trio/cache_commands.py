"""``ds4trio cache``: what the disk has kept of the conversations, whether it is sound, and how to be rid of it.

Only printing lives here; what there is to print comes from `ds4trio.cache.disk`.
"""

import time
from collections.abc import Callable
from pathlib import Path

import click

from ds4trio.cache.disk import Conversation, RealFiles, Survey, default_directory, survey
from ds4trio.cache.disk import clear as clear_blocks
from ds4trio.cache.disk import verify as verify_blocks
from ds4trio.printing import plain, table

__all__ = ["cache"]

SHOWN_ID = 12
SHOWN_WORDS = 48


@click.group()
def cache() -> None:
    """Look after the KV that is kept on disk; a server may run meanwhile."""


def _directory_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--kv-disk-dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        default=default_directory,
        show_default="the platform's directory for caches",
        envvar="DS4TRIO_KV_DISK_DIR",
        help="directory of the blocks",
    )(command)


@cache.command("ls")
@_directory_option
def list_conversations(directory: Path) -> None:
    """List the conversations, the last used first.

    HITS counts uses, each of which halves in a day. Blocks that conversations share count in each of them, and once in
    the last line.
    """
    now = time.time()
    found = _survey(directory, now)
    if found.conversations:
        header = ("ID", "MODEL", "TOKENS", "BLOCKS", "WRITTEN", "USED", "HITS", "SIZE", "BEGINS WITH")
        click.echo(table(header, [_row(conversation, now) for conversation in found.conversations]))
    unusable = f", and {found.unusable} files that cannot be used" if found.unusable else ""
    click.echo(f"{found.blocks} blocks, {_size(found.size)} in {directory}{unusable}")


@cache.command()
@click.argument("id")
@_directory_option
def show(id: str, directory: Path) -> None:
    """Show the blocks of a conversation; the beginning of its ID is enough."""
    now = time.time()
    conversations = _survey(directory, now).conversations
    fitting = [conversation for conversation in conversations if conversation.id.startswith(id.lower())]
    if len(fitting) != 1:
        problem = "begins the ID of more than one conversation" if fitting else "is the ID of no conversation"
        raise click.ClickException(f"{id} {problem}; `ds4trio cache ls` lists them")
    (conversation,) = fitting
    click.echo(f"model        {plain(conversation.model)}")
    click.echo(f"begins with  {plain(conversation.words)}")
    click.echo(f"written      {_age(now - conversation.created)} ago, used {_age(now - conversation.used)} ago")
    click.echo(f"hits         {conversation.hits:.1f}")
    if not conversation.complete:
        click.echo("cannot be used: its first blocks are gone")
    rows = [
        (block.id.hex(), str(block.start), str(block.end), _size(block.size), "whole state" if block.whole else "")
        for block in conversation.blocks
    ]
    click.echo(table(("BLOCK", "FROM", "TO", "SIZE", ""), rows))


@cache.command()
@_directory_option
def verify(directory: Path) -> None:
    """Read all blocks and say which are damaged; exit status 1 if any is."""
    blocks = size = damaged = 0
    try:
        for verdict in verify_blocks(directory, files=RealFiles()) if directory.exists() else ():
            blocks += 1
            size += verdict.size
            damaged += verdict.damaged
            if verdict.problem:
                click.echo(f"{verdict.path}: {verdict.problem}")
    except OSError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{blocks} blocks read, {_size(size)} sound, {damaged} damaged")
    if damaged:
        raise SystemExit(1)


@cache.command()
@_directory_option
@click.option("--yes", is_flag=True, help="do not ask")
def clear(directory: Path, *, yes: bool) -> None:
    """Remove all blocks of all models."""
    found = _survey(directory, time.time())
    if not yes:
        click.confirm(f"Remove {found.blocks} blocks, {_size(found.size)}, from {directory}?", abort=True)
    try:
        removed = clear_blocks(directory, files=RealFiles()) if directory.exists() else 0
    except BlockingIOError:
        raise click.ClickException("another process is writing to it and does not come to an end; try again") from None
    except OSError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{removed} blocks removed")


def _survey(directory: Path, now: float) -> Survey:
    try:
        return survey(directory, files=RealFiles(), now=now)
    except FileNotFoundError:
        return Survey((), 0, 0, 0)
    except OSError as error:
        raise click.ClickException(str(error)) from None


def _row(conversation: Conversation, now: float) -> tuple[str, ...]:
    words = plain(conversation.words)
    return (
        conversation.id[:SHOWN_ID],
        plain(conversation.model),
        f"{conversation.tokens:,}",
        str(len(conversation.blocks)),
        _age(now - conversation.created),
        _age(now - conversation.used),
        f"{conversation.hits:.1f}",
        _size(conversation.size),
        (words if len(words) <= SHOWN_WORDS else words[: SHOWN_WORDS - 1] + "…")
        if conversation.complete
        else "(its first blocks are gone)",
    )


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
