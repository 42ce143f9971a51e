"""Whether the port is free, who answers, and where this shell's clients are going to ask."""

import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ds4trio.ask import AskError, base_of, get
from ds4trio.config import Settings
from ds4trio.doctor.findings import Finding, ok, problem, warning

__all__ = ["environment", "port", "server"]

# Which clients each is for, and whether the address has /v1 at its end.
ADDRESSES = {
    "ANTHROPIC_BASE_URL": ("Claude Code", False),
    "OPENAI_BASE_URL": ("Qwen Code and OpenAI's clients", True),
    "OPENAI_API_BASE": ("aider", True),
}
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
NO_PROXY = "export NO_PROXY=localhost,127.0.0.1,::1"


def port(settings: Settings) -> tuple[str, Finding]:
    """The address that a server of these settings has, and whether it can have it."""
    host = ANY.get(settings.host, settings.host)
    netloc = f"[{host}]" if ":" in host else host
    url = f"{'https' if settings.tls_cert else 'http'}://{netloc}:{settings.port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no such address"
        try:
            who = f"{_identity(url, settings)} answers there"
            return url, warning("port", f"{url}: {who}", "that is well if you meant it; else choose another --port")
        except AskError:
            return url, problem("port", f"{url}: {why}", "choose another --port or --host")
    return url, ok("port", f"{url} is free")


def server(url: str, settings: Settings) -> Finding:
    """Who answers at an address."""
    try:
        return ok("server", f"{_identity(base_of(url), settings)} answers at {url}")
    except AskError as error:
        return problem("server", str(error), "start one with `ds4trio serve`, or wait until it has loaded its model")


def _identity(url: str, settings: Settings) -> str:
    key = next((key.rpartition(":")[2] for key in settings.api_key), "")
    try:
        props = get(url, "/props", api_key=key)
    except AskError as error:
        if error.status in (401, 403):
            return "a server that asks for a key"
        raise
    if not str(props.get("build_info", "")).startswith("ds4trio"):
        raise AskError(f"what answers at {url} is another server")
    return f"{props['build_info']} with {props['model_alias']}"


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
