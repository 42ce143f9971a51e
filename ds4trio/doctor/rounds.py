"""All checks, in the order in which they are read."""

from collections.abc import Iterator, Sequence

from ds4trio.ask import AskError, base_of
from ds4trio.config import ConfigError, Settings
from ds4trio.doctor import machine, model, network
from ds4trio.doctor.findings import Finding, problem
from ds4trio.doctor.rehearsal import rehearse
from ds4trio.keys import named_keys

__all__ = ["examine"]


def examine(settings: Settings, *, url: str = "", url_keys: Sequence[str] = ()) -> Iterator[Finding]:
    """Look at this machine, at the model that ``settings`` name, and at the port, or else at the server at ``url``.

    The keys of ``settings`` are for the server that they describe; one at another ``url`` gets the first of
    ``url_keys`` at most. Blocks for a second or two.
    """
    yield machine.python()
    path, finding = model.find(settings)
    told = rehearse(settings, path)
    yield machine.llama(told)
    yield machine.compiler(built=told.build is not None)
    yield machine.threads(settings)
    yield finding
    if path is not None and told.build is not None:
        yield from model.checks(settings, told, machine.available_memory())
    yield machine.disk(settings)
    own = network.address(settings)
    try:
        base = base_of(url) if url else own
    except AskError as error:
        yield problem("server", str(error), "correct --url")
        return
    if not url and not {"[", "]"}.isdisjoint(settings.host):
        yield problem("port", f"{settings.host!r} is no address", "give --host an IPv6 address without brackets")
        return
    if base.replace("127.0.0.1", "localhost") != own.replace("127.0.0.1", "localhost"):
        settings = Settings(api_key=tuple(url_keys))
    key = ""
    try:
        key = next(iter(named_keys(settings).values()), "")
    except ConfigError as error:
        yield problem("keys", str(error), "a server does not start with these")
    yield network.server(base, key) if url else network.port(settings, key)
    yield from network.environment(base)
