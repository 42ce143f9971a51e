"""Requests that are wrong in their bodies, or in everything else: method, path, query, headers."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import quote

from benchmarks.fuzz.bodies import CANARY, body_of, odd_text

__all__ = ["Asking", "Corpus"]

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW", "post", "A" * 100)
TYPES = (
    "application/json",
    "application/json; charset=utf-16",
    "application/json; charset=nonsense",
    "text/plain",
    "multipart/form-data",
    "multipart/form-data; boundary=x",
    "application/x-www-form-urlencoded",
    "application/",
    "",
    "\xff",
)
HEADERS: Mapping[str, tuple[str, ...]] = {
    "priority": ("u=0", "u=9", "u=-1", "i, u", "u=\xff", "u=1e9", "((", "u=7, u=0", "u=" + "9" * 1000),
    "x-stainless-read-timeout": ("1", "0", "-1", "nan", "inf", "1e400", "x", ""),
    "x-stainless-timeout": ("600", "0.0001", "NaN", "\xff"),
    "accept": ("text/html", "text/html;q=x", "*/*;q=nan", ",;,", "\xff", "text/event-stream"),
    "accept-encoding": ("gzip", "x;q=9"),
    "content-encoding": ("gzip", "nonsense"),
    "authorization": ("Bearer", "Bearer x", "Basic ====", "\xff\xfe", "Bearer " + "x" * 5000),
    "x-api-key": ("x", "\xe9"),
    "user-agent": ("", "codex_cli", "claude-cli/\xff", "python-httpx2/1", "x" * 5000),
    "origin": ("null", "http://localhost", "http://[", "https://evil.example", "\xff"),
    "range": ("bytes=0-0", "bytes=-1", "x"),
    "if-none-match": ("*", '"x"'),
    "if-modified-since": ("yesterday",),
    "cookie": ("a=b; =; \xff",),
    "forwarded": ("for=1.2.3.4",),
    "x-forwarded-for": ("1.2.3.4",),
    "anthropic-version": ("2023-06-01", "x"),
    "x-http-method-override": ("DELETE",),
    "expect": ("100-continue",),
}
PLACES = (
    "x",
    "..",
    "%00",
    "%ff%fe",
    "%2e%2e%2f",
    "a" * 3000,
    "%F0%9F%98%80",
    "resp_",
    "req_0",
    "*",
    "a%0d%0ab",
    "%",
    "",
)
QUERIES = (
    "",
    "limit=5",
    "limit=0",
    "limit=-1",
    "limit=%D9%A3",
    "limit=9" + "9" * 500,
    "order=asc",
    "order=x",
    "after=%ff",
)
MORE_QUERIES = ("limit=1&limit=2", "a=b;c", "&&&===", "%00=%00", "stream=true", "after=msg_1", "x=" + "y" * 5000)
PATHS = (
    "/v1",
    "/v1/",
    "//health",
    "/v1/models/",
    "/health/",
    "/.env",
    "/v1/chat/completions/",
    "/%2e%2e/",
    "/v1//models",
)


@dataclass(frozen=True, slots=True)
class Asking:
    """A request as bytes, and what is needed to judge its answer."""

    method: str
    target: str
    data: bytes
    endless: bool = False


class Corpus:
    """What the server's own description says that may be asked, as the matter that bad requests are made of."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        schemas = document["components"]["schemas"].values()
        self._members = sorted({name for schema in schemas for name in schema.get("properties", {})})
        self._endpoints: list[tuple[str, str]] = []
        self._examples: list[tuple[str, Any]] = []
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                self._endpoints.append((method.upper(), path))
                content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                for example in content.get("examples", {}).values():
                    self._examples.append((path, _marked(example["value"])))

    def body(self, random: Random) -> Asking:
        """A good request with a body that is nearly right."""
        path, good = random.choice(self._examples)
        return _asking("POST", path, {"content-type": "application/json"}, body_of(random, good, self._members))

    def oddity(self, random: Random) -> Asking:
        """A request whose body is good, if it has one, and little else."""
        method, path = random.choice(self._endpoints)
        examples = [good for known, good in self._examples if known == path]
        body = body_of(random, random.choice(examples), self._members) if examples and random.random() < 0.7 else b""
        headers = {"content-type": random.choice(TYPES) if random.random() < 0.4 else "application/json"}
        if random.random() < 0.4:
            method = random.choice(METHODS)
        if random.random() < 0.15:
            path = random.choice(PATHS)
        while "{" in path:
            before, _, rest = path.partition("{")
            place = random.choice(PLACES) if random.random() < 0.8 else quote(odd_text(random)[:500], errors="replace")
            path = before + place + rest.partition("}")[2]
        if random.random() < 0.5:
            path += "?" + "&".join(random.choices(QUERIES + MORE_QUERIES, k=random.randint(1, 2)))
        for name in random.sample(list(HEADERS), k=random.choice([0, 0, 1, 2, 4])):
            headers[name] = random.choice(HEADERS[name])
        return _asking(method, path, headers, body)


def _marked(value: Any) -> Any:
    """An example whose words are known again where they should not be."""
    match value:
        case dict():
            return {key: inner if key == "model" else _marked(inner) for key, inner in value.items()}
        case list():
            return [_marked(inner) for inner in value]
        case str():
            return value.replace("Paris", CANARY)
        case _:
            return value


def _asking(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Asking:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"{method} {target} HTTP/1.1\r\nhost: localhost\r\n{lines}content-length: {len(body)}\r\n\r\n"
    endless = method == "GET" and target.startswith("/requests/events")
    return Asking(method, target, head.encode("latin1") + body, endless)
