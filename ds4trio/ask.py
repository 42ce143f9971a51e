"""Asks a running server what it is, for commands; blocks, so nothing here is for an event loop."""

import http.client
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import msgspec

__all__ = ["AskError", "base_of", "get"]

TIMEOUT = 10.0
MOST_BYTES = 8 * 2**20


class AskError(Exception):
    """A server did not say what it was asked; the message says what to do.

    ``status`` is the one that it answered with, None where nothing came that is HTTP.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def base_of(url: str) -> str:
    """A server's address without ``/v1`` and without a slash at its end. Raises `AskError` for what is no address."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment or " " in url:
        raise AskError(f"{url!r} is no server's address; give one like http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def get(base: str, path: str, *, api_key: str = "") -> dict[str, Any]:
    """The JSON object that a server has at ``path``. Blocks, ten seconds without bytes at most. Raises `AskError`."""
    request = urllib.request.Request(base + path)
    if api_key:  # not for where a redirection leads to
        request.add_unredirected_header("Authorization", f"Bearer {api_key}")
    # The server is asked itself, whatever proxy the environment names for the rest of the world.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            return _object(answer.read(MOST_BYTES), base + path)
    except urllib.error.HTTPError as error:
        with error:
            raise AskError(_refusal(base, error, api_key), error.code) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            raise AskError(f"{base} has a certificate that this machine does not trust: {error.reason}") from None
        raise _unreachable(base, error.reason) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(base, error) from None


def _object(data: bytes, url: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError:
        raise AskError(f"what answers at {url} is no server of this kind", 200) from None


def _refusal(base: str, error: urllib.error.HTTPError, api_key: str) -> str:
    if error.code == 401:
        wants = "does not know this key" if api_key else "asks for a key"
        return f"the server at {base} {wants}; give one with --api-key"
    try:
        said = _object(error.read(MOST_BYTES), base)["error"]["message"]
    except (AskError, OSError, http.client.HTTPException, KeyError, TypeError):
        said = error.reason
    return f"the server at {base} answers with status {error.code}: {said}"


def _unreachable(base: str, reason: object) -> AskError:
    said = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason or "no answer"
    return AskError(f"no server answers at {base} ({said}); start one with `ds4trio serve`, or give its --url")
