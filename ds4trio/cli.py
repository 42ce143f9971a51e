"""The command line. Flags are made from `Settings`, so there is one list of settings."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, get_args, get_origin, get_type_hints

import click
import msgspec
import trio

from ds4trio import __version__
from ds4trio.cache_commands import cache
from ds4trio.config import ConfigError, Settings, describe_settings, field_names, load_settings
from ds4trio.probe_command import probe

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="ds4trio %(version)s")
def main() -> None:
    """A local LLM server for coding agents: never silent, never computing for a client that left."""


main.add_command(cache)
main.add_command(probe)


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default or (0 if default == 0 else ""))


def _setting_flags(command: Callable[..., None]) -> Callable[..., None]:
    """One option per setting; an option that is not given is not passed on, so other sources keep their say."""
    hints = get_type_hints(Settings, include_extras=True)
    defaults = {name: default for name, _, default in describe_settings()}
    for name in reversed(field_names()):
        kind = hints[name].__origin__
        meta = next(item for item in hints[name].__metadata__ if isinstance(item, msgspec.Meta))
        flag = f"--{name.replace('_', '-')}"
        options: dict[str, Any] = {"default": None, "help": f"{meta.description} [{_shown(defaults[name]) or 'none'}]"}
        if kind is bool:
            flag += f"/--no-{name.replace('_', '-')}"
        elif get_origin(kind) is tuple:
            options |= {"multiple": True, "metavar": "TEXT"}
        elif choices := get_args(kind):
            options |= {"metavar": "|".join(choices)}
        else:
            options |= {"metavar": {int: "N", float: "X", str: "TEXT"}[kind]}
        command = click.option(flag, name, **options)(command)
    return command


@main.command()
@click.option("--config", metavar="FILE", help="TOML file with any of these settings")
@_setting_flags
def serve(config: str | None, **flags: object) -> None:
    """Serve a model until SIGTERM or Ctrl-C.

    Every setting is also an environment variable (DS4TRIO_PORT=8123) and a key of the TOML file (port = 8123).
    """
    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    try:
        settings = load_settings(given, config_file=config)
        from ds4trio.server.monitor import configure_logging  # noqa: PLC0415 - --help stays fast
        from ds4trio.server.serve import serve as run  # noqa: PLC0415 - --help stays fast

        configure_logging(settings.log_level)
        reload = partial(load_settings, given, config_file=config)
        status = trio.run(lambda: run(settings, on_ready=_say_ready, reload=reload))
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(status)


@main.command()
def settings() -> None:
    """Print every setting with its default and its meaning, as a Markdown table."""
    click.echo("| flag of `serve` | default | meaning |\n|---|---|---|")
    for name, meaning, default in describe_settings():
        click.echo(f"| `--{name.replace('_', '-')}` | {_shown(default)} | {meaning} |")


@main.command()
def heartbeats() -> None:
    """Print the clients that get another heartbeat than the operator chose, with the evidence, as a Markdown table."""
    from ds4trio.server.heartbeat import EXCEPTIONS  # noqa: PLC0415 - --help stays fast

    click.echo("| client | `User-Agent` begins with | what it gets | why |")
    click.echo("|---|---|---|---|")
    for row in EXCEPTIONS:
        gets = "events also with `--heartbeat comment`" if row.events else f"a beat every {row.interval:.1f} s"
        click.echo(f"| {row.client} | `{row.user_agent}` | {gets} | {row.evidence} |")


def _say_ready(url: str, name: str) -> None:
    click.echo(
        f"\nds4trio {__version__} serves {name} on {url}, try:\n\n"
        f"  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        """    -d '{"stream": true, "max_tokens": 60, """
        """"messages": [{"role": "user", "content": "Name three fruits."}]}'\n""",
        err=True,
    )
