"""A server by its URL: which models it has, how large its context is, and how it is asked.

Whatever is wrong with the URL, the key or the model's name comes out here, as a `ProbeError`.
"""

import os
import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, NoReturn
from urllib.parse import urlsplit

import h11
import msgspec
import trio

from ds4trio.probe.measures import short_prompt
from ds4trio.testing import StreamClient, open_client
from ds4trio.testing.stream import PATHS, Protocol

__all__ = ["ProbeError", "Target", "open_target"]

FEWEST_TOKENS = 16
"""OpenAI's Responses take no smaller limit; so it is the same in all protocols."""
MOST_QUOTED = 300
"""Characters of a server's own words."""
SENDABLE = re.compile(r"[!-~]*")
"""What can stand in a request line and in a header."""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
PATIENCE = 300.0
"""Seconds for the first answer: a server may load its model for it."""


class ProbeError(Exception):
    """The server cannot be probed; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to ask, in which protocol, for which model. ``prefix`` is what stands before ``/v1`` in every path.

    ``context`` is the context's length in tokens, None where the server does not tell.
    """

    host: str
    port: int
    prefix: str = ""
    api: Protocol = "chat"
    model: str = ""
    key: str = ""
    context: int | None = None

    @property
    def path(self) -> str:
        """Where requests go."""
        return f"{self.prefix}{PATHS[self.api]}"

    @property
    def headers(self) -> dict[str, str]:
        """What each request says besides its body."""
        headers = {"anthropic-version": "2023-06-01"} if self.api == "messages" else {}
        return {**headers, "authorization": f"Bearer {self.key}", "x-api-key": self.key} if self.key else headers

    def ask(
        self, prompt: str, answer: int, *, receive_buffer: int | None = None
    ) -> AbstractAsyncContextManager[StreamClient]:
        """Implements `Ask`. No answer has a limit below 16 tokens."""
        return open_client(
            self.port,
            self._body(prompt, max(answer, FEWEST_TOKENS)),
            host=self.host,
            path=self.path,
            headers=self.headers,
            receive_buffer=receive_buffer,
        )

    def _body(self, prompt: str, answer: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        body: dict[str, Any] = {"model": self.model, "stream": True, "temperature": 0}
        match self.api:
            case "chat":
                usage = {"include_usage": True}
                return {**body, "messages": messages, "max_tokens": answer, "stream_options": usage}
            case "responses":
                return {**body, "input": messages, "max_output_tokens": answer, "store": False}
            case "messages":
                return {**body, "messages": messages, "max_tokens": answer}

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a document, None where it is none. A checkpoint. Raises `ProbeError`."""
        try:
            with trio.fail_after(PATIENCE):
                async with open_client(
                    self.port, method="GET", host=self.host, path=f"{self.prefix}{path}", headers=self.headers
                ) as client:
                    body = await client.read_all()
        except (OSError, UnicodeError, trio.BrokenResourceError) as error:  # no host has such a name: UnicodeError
            raise ProbeError(
                f"cannot connect to {self.host} port {self.port}: {_reason(error)}; is the server running, and is this "
                "its port?"
            ) from None
        except h11.RemoteProtocolError as error:
            raise ProbeError(f"{self.host} port {self.port} does not speak HTTP/1.1: {error}") from None
        except trio.TooSlowError:
            raise ProbeError(f"no answer to GET {self.prefix}{path} in {PATIENCE:g} s") from None
        try:
            return client.status or 0, msgspec.json.decode(body)
        except UNREADABLE:
            return client.status or 0, None


async def open_target(url: str, *, api: Protocol = "chat", model: str | None = None, key: str = "") -> Target:
    """Find out what is needed to ask the server at ``url``, and ask it once. A checkpoint. Raises `ProbeError`.

    ``model`` is the first one that the server lists, unless it is given.
    """
    target = _located(url, api, key)
    status, document = await target.get("/v1/models")
    if status in (401, 403):
        _refused_key(status, key)
    if status == 503:
        raise ProbeError(f"{url} is not ready (503): try again when its model is loaded")
    listed = [one for one in _list(document, "data") if isinstance(one, dict) and isinstance(one.get("id"), str)]
    names = [str(one["id"]) for one in listed]
    if model is None and not names:
        raise ProbeError(f"{url} does not list its models (GET /v1/models: {status}); give one with --model NAME")
    target = replace(target, model=names[0] if model is None else model)
    entry = next((one for one in listed if one["id"] == target.model), {})
    target = replace(target, context=_context_of(entry) or _context_of_props(await target.get("/props")))
    await _try(target, names)
    return target


def _located(url: str, api: Protocol, key: str) -> Target:
    if not SENDABLE.fullmatch(url):
        raise ProbeError(f"{url!r}: a URL is printable ASCII without spaces; write other characters as %XX")
    if not SENDABLE.fullmatch(key):
        raise ProbeError("a key is printable ASCII without spaces; give one like that with --api-key KEY")
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
    except ValueError as error:
        raise ProbeError(f"{url}: {error}; give http://HOST:PORT") from None
    try:
        port = parts.port or 80
    except ValueError:
        raise ProbeError(f"{url}: there is no such port; give http://HOST:PORT") from None
    if parts.scheme != "http" or not parts.hostname:
        raise ProbeError(f"{url}: give the server as http://HOST:PORT; HTTPS is not supported")
    prefix = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return Target(host=parts.hostname, port=port, prefix=prefix, api=api, key=key)


async def _try(target: Target, names: list[str]) -> None:
    """One short answer, so that the model is loaded, and whatever is wrong is known before anything is measured."""
    try:
        with trio.fail_after(PATIENCE):
            async with target.ask(short_prompt(), FEWEST_TOKENS) as client:
                await client.read_all()
    except (OSError, h11.RemoteProtocolError, trio.BrokenResourceError) as error:
        raise ProbeError(f"POST {target.path} was cut off: {_reason(error)}") from None
    except trio.TooSlowError:
        raise ProbeError(
            f"no answer to a short prompt in {PATIENCE:g} s; ask again when the server has loaded"
        ) from None
    status = client.status or 0
    if status == 200:
        _check_stream(target, client)
        return
    said = _message(client.body)
    if status in (401, 403):
        _refused_key(status, target.key)
    if status in (400, 404) and "model" in said.lower():
        known = f"; it has {', '.join(names)}" if names else ""
        raise ProbeError(
            f"the server does not know the model {target.model!r}{known}; give one with --model NAME ({said})"
        )
    if status in (404, 405, 501):
        others = ", ".join(f"--api {name}" for name in PATHS if name != target.api)
        raise ProbeError(f"the server has no {target.path} ({status}); try {others}")
    raise ProbeError(f"POST {target.path} was answered with {status}: {said}")


def _check_stream(target: Target, client: StreamClient) -> None:
    kind = client.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        raise ProbeError(
            f"POST {target.path} is not answered with a stream of events but with {kind or 'no content-type'}"
        )
    try:
        written = client.times_of_tokens
    except msgspec.DecodeError as error:
        raise ProbeError(f"the stream has an event that is no JSON: {error}") from None
    if not written:
        raise ProbeError(
            f"the answer to a short prompt has no text: {client.body[-MOST_QUOTED:].decode(errors='replace')}"
        )


def _refused_key(status: int, key: str) -> NoReturn:
    wrong = "does not take this key" if key else "wants a key"
    raise ProbeError(f"the server {wrong} ({status}): give one with --api-key KEY")


def _reason(error: Exception) -> str:
    """The system's own words, without what was tried."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(getattr(error, "strerror", None) or error.__cause__ or error)


def _message(body: bytes) -> str:
    """What a server says is wrong, in whatever shape it says so."""
    try:
        document = msgspec.json.decode(body)
    except UNREADABLE:
        return body[:MOST_QUOTED].decode(errors="replace")
    error = document.get("error", document) if isinstance(document, dict) else document
    message = error.get("message", error.get("detail", error)) if isinstance(error, dict) else error
    return str(message)[:MOST_QUOTED]


def _list(document: object, name: str) -> list[Any]:
    value = document.get(name) if isinstance(document, dict) else None
    return value if isinstance(value, list) else []


def _context_of(entry: Mapping[str, Any]) -> int | None:
    """Ours and vLLM tell it in the list of models, llama-server below ``meta``."""
    meta = entry.get("meta")
    places: list[Mapping[str, Any]] = [entry, meta] if isinstance(meta, dict) else [entry]
    names = ("context_length", "max_model_len", "n_ctx")
    return next((place[name] for place in places for name in names if isinstance(place.get(name), int)), None)


def _context_of_props(answer: tuple[int, Any]) -> int | None:
    """As llama-server tells it, per slot."""
    document = answer[1] if isinstance(answer[1], dict) else {}
    settings = document.get("default_generation_settings")
    value = settings.get("n_ctx") if isinstance(settings, dict) else None
    return value if isinstance(value, int) and value > 0 else None
