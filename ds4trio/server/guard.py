"""Who may ask: whoever has a key; without keys, this machine's own programs, and no web page from elsewhere.

A server on loopback is within reach of every web page that its user opens: a script may send requests there, and with
a name that resolves to 127.0.0.1 (DNS rebinding) even read the answers. Browsers say in ``Host`` and ``Origin`` where a
request comes from, so without keys both have to be local.
"""

import hashlib
import hmac
import ipaddress
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import trio

from ds4trio.api.errors import ForbiddenError, TooManyRequestsError, UnauthorizedError
from ds4trio.config import Settings
from ds4trio.keys import named_keys

__all__ = ["Guard", "is_loopback", "read_keys"]

# What a supervisor and a browser may ask before they have a key: whether it lives, and the empty page.
OPERATOR = "operator"
"""The name of the API key that sees everybody's requests."""
OPEN_PATHS = ("/", "/health")
PROXIES = ("forwarded", "x-forwarded-for", "via")
WRONG_KEY_SECONDS = 1.0
"""Before a wrong key is told so: who guesses gets on slowly."""
MINUTE = 60.0


def read_keys(settings: Settings) -> dict[str, bytes]:
    """The digests of all keys by their names. Reads a file: blocks. Raises `ConfigError`."""
    return {name: _digest(key) for name, key in named_keys(settings).items()}


class Guard:
    """Checks requests before anything else looks at them. Raises `ConfigError` for keys that cannot be read.

    ``settings`` are those that may change while the server runs: keys, names, limits.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = read_keys(settings)
        self._asked: dict[str, deque[float]] = defaultdict(deque)
        self._preparing: Counter[str] = Counter()
        self._read_names()

    def _read_names(self) -> None:
        self._names = {_hostname(name) for name in self.settings.allowed_host}
        self._origins = {origin.rstrip("/").lower() for origin in self.settings.cors}

    def knows(self, key: str) -> bool:
        """Whether there is a key of that name (still). Not a checkpoint."""
        return key in self.keys

    def trusts(self, key: str) -> bool:
        """Whether who came with this key, empty for none, may hear more than that the server lives."""
        return not self.keys or key in self.keys

    def sees(self, key: str) -> str | None:
        """The key whose requests may be seen with this one; None for all: without keys, and with the operator's."""
        return None if key in ("", OPERATOR) else key

    def reload(self, settings: Settings, keys: dict[str, bytes]) -> None:
        """Go by other settings from now on; ``keys`` are what `read_keys` says of them. Not a checkpoint."""
        self.settings, self.keys = settings, keys
        self._read_names()

    async def admit(self, headers: Mapping[str, str], *, path: str, address: str | None) -> str:
        """The name of the key that a request has, empty where there are none.

        A checkpoint where the key is wrong: that takes a second. ``address`` is the server's own that it came to.
        Raises `UnauthorizedError` or `ForbiddenError`.
        """
        if self.keys:
            name = self._name(headers)
            if name is None and path not in OPEN_PATHS:
                await trio.sleep(WRONG_KEY_SECONDS)
                raise UnauthorizedError
            return name or ""
        if is_loopback(address):
            if not self.settings.no_auth and (proxy := next((name for name in PROXIES if name in headers), None)):
                raise ForbiddenError(
                    f"a proxy passes this on ({proxy}), so it may come from anywhere; start the server with --api-key, "
                    "or with --no-auth if everybody who reaches the proxy may use it",
                    code="no_api_key",
                )
            self._check_local(headers)
        elif not self.settings.no_auth:
            raise ForbiddenError(
                "this server has no API key and answers this machine only; start it with --api-key, or with --no-auth "
                "if everybody in reach may use it",
                code="no_api_key",
            )
        return ""

    @contextmanager
    def place(self, key: str, *, running: int) -> Iterator[None]:
        """One more answer of a key, of which so many run, is prepared in the block. Raises `TooManyRequestsError`."""
        most = self.settings.key_parallel
        if most and running + self._preparing[key] >= most:
            raise TooManyRequestsError(
                f"{most} requests of this key are being answered, as many as may be", code="key_busy", retry_after=1
            )
        self._preparing[key] += 1
        try:
            yield
        finally:
            self._preparing[key] -= 1

    def charge(self, key: str) -> None:
        """Count one more request of a key. Not a checkpoint. Raises `TooManyRequestsError`."""
        rate = self.settings.key_rate
        if not rate:
            return
        asked, now = self._asked[key], trio.current_time()
        while asked and asked[0] <= now - MINUTE:
            asked.popleft()
        if len(asked) >= rate:
            raise TooManyRequestsError(
                f"this key has asked {rate} times within a minute, as often as it may",
                code="rate_limited",
                retry_after=max(1, round(asked[0] + MINUTE - now)),
            )
        asked.append(now)

    def allows_origin(self, origin: str) -> bool:
        """Whether web pages from there may read answers (CORS). Not a checkpoint."""
        return origin.lower() in self._origins

    def _name(self, headers: Mapping[str, str]) -> str | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        # Clients that have another provider's token as well may send both.
        given = [_digest(token.strip() if scheme.lower() == "bearer" else ""), _digest(headers.get("x-api-key", ""))]
        # All are compared, whichever it is, so that the time says nothing.
        matches = [name for digest in given for name, known in self.keys.items() if hmac.compare_digest(digest, known)]
        return matches[0] if matches else None

    def _check_local(self, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "")
        if host and not self._is_local(host):
            raise ForbiddenError(
                "the Host header names another machine; without an API key only local names are answered. Allow it "
                "with --allowed-host, or start the server with --api-key",
                code="host_not_allowed",
            )
        origin = headers.get("origin", "")
        if origin and not self.allows_origin(origin) and not self._is_local(origin.partition("://")[2]):
            raise ForbiddenError(
                "a web page from elsewhere asks; without an API key only local ones are answered. Allow it with "
                "--cors, or start the server with --api-key",
                code="origin_not_allowed",
            )

    def _is_local(self, netloc: str) -> bool:
        name = _hostname(netloc)
        return name == "localhost" or name.endswith(".localhost") or is_loopback(name) or name in self._names


def _hostname(netloc: str) -> str:
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_loopback(address: str | None) -> bool:
    """Whether an IP address is this machine's own, or there is none; no name is."""
    try:
        return address is None or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
