"""Whom the doctor asks, with which key, and what it makes of an address."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ds4trio.config import Settings
from ds4trio.doctor import network, rounds
from ds4trio.doctor.findings import Finding
from ds4trio.doctor.rehearsal import Rehearsal

PROPS = json.dumps({"build_info": "ds4trio 1", "model_alias": "local"}).encode()


class Stranger(HTTPServer):
    """Answers everybody with one status, and keeps what it is sent."""

    def __init__(self, status: int, location: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.location = status, location
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Stranger

    def do_GET(self) -> None:
        key = self.headers["Authorization"]
        self.server.keys.append(key)
        known = bool(key) and self.server.status == 401
        self.send_response((302 if self.server.location else 200) if known else self.server.status)
        if known and self.server.location:
            self.send_header("Location", self.server.location + self.path)
        self.send_header("Content-Length", str(len(PROPS)))
        self.end_headers()
        self.wfile.write(PROPS)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def stranger(status: int, location: str = "") -> Iterator[Stranger]:
    with Stranger(status, location) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def nothing_but_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No llama.cpp is started, and the shell of whoever runs this says nothing."""
    monkeypatch.setattr(rounds, "rehearse", lambda *_: Rehearsal())
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY", *network.ADDRESSES):
        monkeypatch.delenv(name, raising=False)


def examined(url: str = "", url_keys: tuple[str, ...] = (), **settings: Any) -> dict[str, Finding]:
    found = rounds.examine(Settings(engine="simulated", **settings), url=url, url_keys=url_keys)
    return {finding.check: finding for finding in found}


def test_a_key_with_a_colon_is_sent_whole() -> None:
    with stranger(401) as server:
        found = examined(port=server.server_port, api_key=("alice:ab:cd",))
    assert server.keys == [None, "Bearer ab:cd"]
    assert "ds4trio 1 with local answers there" in found["port"].says


def test_a_key_of_the_file_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nalice:k1\n")
    with stranger(401) as server:
        examined(port=server.server_port, api_key_file=str(file))
    assert server.keys == [None, "Bearer k1"]


def test_nobody_who_does_without_gets_a_key() -> None:
    with stranger(200) as server:
        examined(port=server.server_port, api_key=("k",))
    assert server.keys == [None]


def test_another_server_gets_the_key_that_was_given_for_it_and_no_other() -> None:
    with stranger(401) as server:
        found = examined(server.url, port=1, api_key=("k",))
        assert server.keys == [None]
        assert "a server that asks for a key" in found["server"].says
        examined(server.url, ("me:mine",), port=1, api_key=("k",))
        assert server.keys == [None, None, "Bearer mine"]
        server.keys.clear()
        examined(f"http://localhost:{server.server_port}/v1", port=server.server_port, api_key=("k",))
        assert server.keys == [None, "Bearer k"]  # it is the one that the settings describe


def test_a_key_goes_nowhere_else_by_a_redirection() -> None:
    with stranger(200) as elsewhere, stranger(401, elsewhere.url) as server:
        examined(port=server.server_port, api_key=("k",))
    assert server.keys == [None, "Bearer k"]
    assert elsewhere.keys == [None]


def test_keys_that_cannot_be_read_are_a_problem(tmp_path: Path) -> None:
    found = examined(port=0, api_key_file=str(tmp_path / "none"))
    assert found["keys"].status == "problem"
    assert found["port"].status == "ok"


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_an_address_is_advised_without_its_version_twice(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    with stranger(200) as server:
        found = examined(f"{server.url}{end}")
    assert found["server"].status == "ok"
    assert found["client"].fix == f"for this server: export OPENAI_BASE_URL={server.url}/v1"


@pytest.mark.parametrize("url", ["http://[::1", "127.0.0.1:8000", "http://host:port"])
def test_what_is_no_address_is_a_problem(url: str) -> None:
    finding = examined(url)["server"]
    assert (finding.status, f"{url!r} is no server's address" in finding.says) == ("problem", True)


@pytest.mark.parametrize("host", ["[::1]", "[::1", "a]b"])
def test_what_is_no_host_is_a_problem(host: str) -> None:
    finding = examined(host=host)["port"]
    assert (finding.status, "without brackets" in finding.fix) == ("problem", True)
