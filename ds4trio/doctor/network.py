"""Whether the port is free, who answers, and where this shell's clients are going to ask."""

import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ds4trio.ask import AskError, get
from ds4trio.config import Settings
from ds4trio.doctor.findings import Finding, ok, problem, warning

__all__ = ["address", "environment", "port", "server"]

# Which clients each is for, and whether the address has /v1 at its end.
ADDRESSES = {
    "ANTHROPIC_BASE_URL": ("Claude Code", False),
    "OPENAI_BASE_URL": ("Qwen Code and OpenAI's clients", True),
    "OPENAI_API_BASE": ("aider", True),
}
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
NO_PROXY = "export NO_PROXY=localhost,127.0.0.1,::1"


def address(settings: Settings) -> str:
    """Where a server of these settings is asked from this machine."""
    host = ANY.get(settings.host, settings.host)
    netloc = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.tls_cert else 'http'}://{netloc}:{settings.port}"


def port(settings: Settings, key: str = "") -> Finding:
    """Whether a server of these settings can have its address; ``key`` is for who is there and asks for one."""
    url = address(settings)
    try:
        family, kind, _, _, place = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no such address"
        try:
            who = f"{_identity(url, key)} answers there"
            return warning("port", f"{url}: {who}", "that is well if you meant it; else choose another --port")
        except AskError:
            return problem("port", f"{url}: {why}", "choose another --port or --host")
    return ok("port", f"{url} is free")


def server(base: str, key: str = "") -> Finding:
    """Who answers at an address, which is one of `base_of`; ``key`` is for a server that asks for one."""
    try:
        return ok("server", f"{_identity(base, key)} answers at {base}")
    except AskError as error:
        return problem("server", str(error), "start one with `ds4trio serve`, or wait until it has loaded its model")


def _identity(url: str, key: str) -> str:
    try:
        props = _props(url, key)
    except AskError as error:
        if error.status in (401, 403):
            return "a server that asks for a key"
        raise
    if not str(props.get("build_info", "")).startswith("ds4trio"):
        raise AskError(f"what answers at {url} is another server")
    return f"{props['build_info']} with {props['model_alias']}"


def _props(url: str, key: str) -> dict[str, Any]:
    try:
        return get(url, "/props")
    except AskError as error:
        if error.status != 401 or not key:  # nobody gets a key who does not ask for one
            raise
    return get(url, "/props", api_key=key)


def environment(url: str) -> Iterator[Finding]:
    """What clients that are started from here are told by variables. ``url`` is where the server is."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(host):
        yield warning("proxy", f"clients ask {_hidden(proxy)} for {host}", NO_PROXY)
    else:
        yield ok("proxy", "none between clients and the server")
    for variable, (clients, versioned) in ADDRESSES.items():
        if (told := os.environ.get(variable)) is None:
            continue
        wanted = f"{url}/v1" if versioned else url
        if told.rstrip("/") in (wanted, wanted.replace("127.0.0.1", "localhost")):
            yield ok("client", f"{variable} is {_hidden(told)}")
        else:
            yield warning(
                "client", f"{clients}: {variable} is {_hidden(told)}", f"for this server: export {variable}={wanted}"
            )


def _hidden(address: str) -> str:
    """Without a password that may stand in it."""
    before, at, after = address.rpartition("@")
    return f"{before.partition('://')[0]}://…@{after}" if at else address
