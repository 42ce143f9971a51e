"""``ds4trio agent-config``: how an agent client is pointed at a running server, printed or written down.

What an agent needs to be told is `ds4trio.agents`' business; here is the conversation with the user.
"""

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import click

from ds4trio.agents import AGENTS, Agent, Configuration, Protocol, Target, UnmergeableError, dump, plan
from ds4trio.ask import AskError, base_of, get

__all__ = ["agent_config", "described", "target_of"]


@contextmanager
def _one_line() -> Iterator[None]:
    """What goes wrong in the block becomes one line on the terminal."""
    try:
        yield
    except (AskError, UnmergeableError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from None


@click.command("agent-config")
@click.argument("agent", type=click.Choice([agent.key for agent in AGENTS]))
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="address of the running server")
@click.option("--api-key", default="", metavar="KEY", help="key that the server asks for")
@click.option("--protocol", type=click.Choice(get_args(Protocol)), help="for agents that speak several")
@click.option("--write", is_flag=True, help="put it into the agent's own files, after showing what changes")
@click.option("--yes", is_flag=True, help="with --write: do not ask")
def agent_config(agent: str, url: str, api_key: str, protocol: Protocol | None, *, write: bool, yes: bool) -> None:
    """Print the configuration that points an agent at a running server.

    The server is asked for its model's name and its context. With --write the agent's files get it, keep all that is
    in them, and are backed up.
    """
    chosen = next(one for one in AGENTS if one.key == agent)
    if protocol is not None and protocol not in chosen.protocols:
        raise click.ClickException(f"{chosen.name} does not speak {protocol}; it speaks {', '.join(chosen.protocols)}")
    protocol = protocol or chosen.protocols[0]
    with _one_line():
        target = target_of(url, api_key)
        if write:
            _install(chosen, chosen.lasting(target, protocol), target, yes=yes)
        else:
            click.echo(described(chosen, target, protocol), nl=False)


def target_of(url: str, api_key: str) -> Target:
    """What the server says of itself. Blocks. Raises `AskError`."""
    base = base_of(url)
    models = get(base, "/v1/models", api_key=api_key)
    props = get(base, "/props", api_key=api_key)
    try:
        name = models["data"][0]["id"]
        context = props["default_generation_settings"]["n_ctx"]
    except (KeyError, IndexError, TypeError):
        raise AskError(f"the server at {base} does not say which model it has, or how long its context is") from None
    if not isinstance(name, str) or not isinstance(context, int):
        raise AskError(f"the server at {base} does not say which model it has, or how long its context is")
    return Target(url=base, model=name, context=context, api_key=api_key)


def described(agent: Agent, target: Target, protocol: Protocol) -> str:
    """The configuration as text for people: each file under its name, then what to type into a shell.

    Raises `UnmergeableError` where a library is missing.
    """
    configuration = agent.configure(target, protocol)
    parts = [f"# {place}\n{dump(values, place.name)}" for place, values in configuration.files.items()]
    if configuration.environment:
        kept = f' (or in the table "env" of {agent.environment_file}: --write)' if agent.environment_file else ""
        parts.append(f"# in the shell{kept}\n{_exports(configuration.environment)}")
    parts.append(f"# start it with\n{_start(agent, target)}\n")
    return "\n".join(parts)


def _install(agent: Agent, configuration: Configuration, target: Target, *, yes: bool) -> None:
    home = Path.home()
    changes = [
        plan(place.path(home, os.environ), values, key=target.api_key) for place, values in configuration.files.items()
    ]
    wanted = [change for change in changes if change.diff or change.exposed]
    for change in changes:
        click.echo(change.diff or f"{change.path} has it already", nl=not change.diff)
        if change.exposed:
            click.echo(f"{change.path} is open to others and gets a key: it becomes yours alone")
    if wanted and not yes:
        click.confirm("Write this?", abort=True)
    for change in wanted:
        backup = change.write()
        click.echo(f"written: {change.path}" + (f" (before: {backup})" if backup else ""))
    if configuration.environment:
        click.echo(f"# in the shell\n{_exports(configuration.environment)}", nl=False)
    click.echo(f"start it with: {_start(agent, target)}")


def _start(agent: Agent, target: Target) -> str:
    return agent.start.format(model=shlex.quote(target.model))


def _exports(environment: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
