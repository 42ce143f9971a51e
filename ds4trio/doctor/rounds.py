"""All checks, in the order in which they are read."""

from collections.abc import Iterator

from ds4trio.config import Settings
from ds4trio.doctor import machine, model, network
from ds4trio.doctor.findings import Finding
from ds4trio.doctor.rehearsal import rehearse

__all__ = ["examine"]


def examine(settings: Settings, *, url: str = "") -> Iterator[Finding]:
    """Look at this machine, at the model that ``settings`` name, and at the port, or else at the server at ``url``.

    Blocks for a second or two.
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
    if url:
        yield network.server(url, settings)
    else:
        url, finding = network.port(settings)
        yield finding
    yield from network.environment(url)
