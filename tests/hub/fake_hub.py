"""A Hugging Face Hub on this machine, with as much of its API as huggingface-hub needs to download a model."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["FakeHub", "serving_hub"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE = 1 << 16


@dataclass
class FakeHub:
    """Repositories by name, each with its files; and what was asked of them."""

    repositories: dict[str, Mapping[str, Path]]
    gated: set[str] = field(default_factory=set)
    """Files of these come with the token ``hf_good`` only."""
    cut_after: int | None = None
    """Bytes of the next file after which its connection breaks, once."""
    stop_after: int | None = None
    """Bytes of each file after which nothing more comes."""
    broken: bool = False
    """Whether everything is answered with 503."""
    foreign: bool = False
    """Whether everything is answered with a page, as by the portal of a hotel."""
    asked: list[str] = field(default_factory=list)
    """Each request: its method, its path, and where its range begins."""
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""


@contextmanager
def serving_hub(repositories: Mapping[str, Mapping[str, Path]]) -> Iterator[FakeHub]:
    """Serve on a free port for the length of the block."""
    hub = FakeHub(dict(repositories))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing: it would stand between the lines of the tests."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path, _, _ = self.path.partition("?")
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        self.hub.asked.append(f"{self.command} {path}" + (f" from {start}" if start else ""))
        if self.hub.broken:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "")
        elif self.hub.foreign:
            self._head(HTTPStatus.OK, {"Content-Type": "text/html", "Content-Length": "7"})
            self.wfile.write(b"Welcome")
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            self._describe(match[1])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._give(match[1], match[2], start)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "")

    def _describe(self, repository: str) -> None:
        files = self.hub.repositories.get(repository)
        if files is None:
            self._refuse(HTTPStatus.NOT_FOUND, "RepoNotFound")
            return
        siblings = [{"rfilename": name, "size": path.stat().st_size} for name, path in files.items()]
        text = json.dumps({"_id": "1", "id": repository, "sha": COMMIT, "siblings": siblings}).encode()
        self._head(HTTPStatus.OK, {"Content-Type": "application/json", "Content-Length": str(len(text))})
        self.wfile.write(text)

    def _give(self, repository: str, name: str, start: int) -> None:
        file = self.hub.repositories.get(repository, {}).get(name)
        if file is None:
            self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound")
            return
        if repository in self.hub.gated and (token := self.headers.get("Authorization")) != "Bearer hf_good":
            self._refuse(HTTPStatus.FORBIDDEN if token else HTTPStatus.UNAUTHORIZED, "GatedRepo")
            return
        size = file.stat().st_size
        headers = {"ETag": f'"{hashlib.sha256(file.name.encode()).hexdigest()}"', "X-Repo-Commit": COMMIT}
        headers |= {"Accept-Ranges": "bytes", "Content-Length": str(size - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self._head(HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK, headers)
        if self.command == "GET":
            self._send(file, start)

    def _send(self, path: Path, start: int) -> None:
        cut, self.hub.cut_after = self.hub.cut_after, None
        sent = 0
        with path.open("rb") as file:
            file.seek(start)
            while data := file.read(PIECE):
                self.wfile.write(data)
                sent += len(data)
                if cut is not None and sent >= cut:
                    self.close_connection = True
                    return
                if self.hub.stop_after is not None and sent >= self.hub.stop_after:
                    self.hub.released.wait()
                    self.close_connection = True
                    return

    def _refuse(self, status: HTTPStatus, code: str) -> None:
        self._head(status, {"X-Error-Code": code, "Content-Length": "0"})

    def _head(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
