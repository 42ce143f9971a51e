"""The command line. Flags are made from `Settings`, so there is one list of settings."""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import click
import msgspec
import trio

from ds4trio import __version__
from ds4trio.agent_commands import agent_config
from ds4trio.cache_commands import cache
from ds4trio.config import ConfigError, Settings, describe_settings, field_names, load_settings
from ds4trio.probe_command import probe
from ds4trio.trace_commands import trace

if TYPE_CHECKING:
    from ds4trio.server.monitor.terminal import Terminal

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="ds4trio %(version)s")
def main() -> None:
    """A local LLM server for coding agents: never silent, never computing for a client that left."""


main.add_command(agent_config)
main.add_command(cache)
main.add_command(probe)
main.add_command(trace)


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
@click.option("--supervise", is_flag=True, help="start the server again when it breaks down, on the same open port")
@_setting_flags
def serve(config: str | None, supervise: bool, **flags: object) -> None:
    """Serve a model until SIGTERM or Ctrl-C.

    Every setting is also an environment variable (DS4TRIO_PORT=8123) and a key of the TOML file (port = 8123).
    """
    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    try:
        settings = load_settings(given, config_file=config)
        if supervise:
            status = _supervise(settings)
        else:
            status = _serve(settings, partial(load_settings, given, config_file=config))
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(status)


def _supervise(settings: Settings) -> int:
    from ds4trio.server.monitor.log_output import logging_to  # noqa: PLC0415 - --help stays fast
    from ds4trio.server.serve import listen  # noqa: PLC0415 - --help stays fast
    from ds4trio.server.supervise import supervise  # noqa: PLC0415 - --help stays fast

    if settings.api_key_file and not Path(settings.api_key_file).is_file():
        raise ConfigError(f"api_key_file = {settings.api_key_file!r}: who is started again needs a file, not a pipe")
    # In the same way as this process was started, whatever that was.
    again = [sys.executable, *(argument for argument in sys.orig_argv[1:] if argument != "--supervise")]
    with logging_to(None, level=settings.log_level, format=settings.log_format), listen(settings) as listener:
        return trio.run(supervise, listener, again)


def _serve(settings: Settings, reload: Callable[[], Settings]) -> int:
    from ds4trio.server.monitor.log_output import logging_to  # noqa: PLC0415 - --help stays fast
    from ds4trio.server.serve import serve as run  # noqa: PLC0415 - --help stays fast

    terminal = None if settings.log_format in ("plain", "json") else _terminal()
    say: Callable[[str], None] = partial(click.echo, err=True) if terminal is None else terminal.say
    with ExitStack() as stack:
        if terminal is not None:
            stack.enter_context(terminal)
        handler = None if terminal is None else terminal.handler
        stack.enter_context(logging_to(handler, level=settings.log_level, format=settings.log_format))
        if settings.log_format == "rich" and terminal is None:
            logging.getLogger("ds4trio").warning("log_format = 'rich' needs a terminal: the log is plain lines")

        def tell(url: str, name: str) -> None:
            if settings.log_format != "json":  # there it is a line of the log
                say(_ready_text(url, name))

        return trio.run(lambda: run(settings, on_ready=tell, reload=reload, terminal=terminal))


def _terminal() -> "Terminal | None":
    """What shows live bars, where there is a terminal that can."""
    if not sys.stderr.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return None
    from ds4trio.server.monitor.terminal import Terminal  # noqa: PLC0415 - --help stays fast

    return Terminal()


@main.command()
@click.option("--url", default="", help="address of a server that runs already, instead of the port")
@click.option("--json", "as_json", is_flag=True, help="print the findings as JSON")
@click.option("--config", metavar="FILE", help="TOML file with any of these settings")
@_setting_flags
def doctor(url: str, config: str | None, api_key: tuple[str, ...], *, as_json: bool, **flags: object) -> None:
    """Check this machine and a model, and say what to fix; exit status 1 where something does not work.

    It takes the settings that `serve` would be started with, and loads no weights.
    """
    from ds4trio.doctor.rounds import examine  # noqa: PLC0415 - --help stays fast

    given = {name: value for name, value in {"api_key": api_key, **flags}.items() if value is not None and value != ()}
    try:
        settings = load_settings(given, config_file=config)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    findings = []
    for finding in examine(settings, url=url, url_keys=api_key):
        findings.append(finding)
        if not as_json:
            click.echo(
                f"{finding.status:8} {finding.check:10} {finding.says}" + (f"; {finding.fix}" * bool(finding.fix))
            )
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(findings)).decode())
    sys.exit(any(finding.status == "problem" for finding in findings))


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


def _ready_text(url: str, name: str) -> str:
    return (
        f"\nds4trio {__version__} serves {name} on {url}, try:\n\n"
        f"  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        """    -d '{"stream": true, "max_tokens": 60, """
        """"messages": [{"role": "user", "content": "Name three fruits."}]}'\n"""
    )
