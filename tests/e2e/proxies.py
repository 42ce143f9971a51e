"""Real proxies with the configurations of ``examples/``, each in front of a server on this machine."""

import shutil
import subprocess
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
import trio

__all__ = ["HOST", "Kind", "open_proxy"]

Kind = Literal["nginx", "caddy"]

EXAMPLES = Path(__file__).parents[2] / "examples"
HOST = "llm.example.org"
UPSTREAM = "127.0.0.1:8000"
PACKAGES: Mapping[Kind, str] = {"nginx": "nginx-light", "caddy": "caddy"}

NGINX = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def _replaced(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} is not once in the example"
        text = text.replace(old, new)
    return text


def _nginx(folder: Path, port: int, upstream: int, without: str) -> list[str]:
    folder.mkdir()
    lines = (EXAMPLES / "nginx" / "ds4trio.conf").read_text().splitlines()
    kept = [line for line in lines if not without or not line.strip().startswith(without)]
    changes = {"listen 8080;": f"listen 127.0.0.1:{port};", f"http://{UPSTREAM};": f"http://127.0.0.1:{upstream};"}
    (folder / "site.conf").write_text(_replaced("\n".join(kept), changes))
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def _caddy(folder: Path, port: int, upstream: int) -> list[str]:
    folder.mkdir()
    example = (EXAMPLES / "caddy" / "Caddyfile").read_text()
    changes = {f"{HOST} {{": f"http://{HOST}:{port} {{", f"proxy {UPSTREAM}": f"proxy 127.0.0.1:{upstream}"}
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + _replaced(example, changes))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


@asynccontextmanager
async def open_proxy(kind: Kind, folder: Path, upstream: int, *, without: str = "") -> AsyncGenerator[int, None]:
    """The port of a proxy to a server's port ``upstream``; nginx's can leave ``without`` one of its directives.

    Skips the test where the proxy is not installed.
    """
    if shutil.which(kind) is None:
        pytest.skip(f"{kind} is not installed here: apt install {PACKAGES[kind]}")
    with trio.socket.socket() as free:
        await free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = _nginx(folder, port, upstream, without) if kind == "nginx" else _caddy(folder, port, upstream)
    environment = {"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin"}
    process = await trio.lowlevel.open_process(command, stderr=subprocess.DEVNULL, env=environment)
    try:
        with trio.fail_after(20):
            while not await _answers(port):
                assert process.poll() is None, f"{kind} does not take its configuration"
                await trio.sleep(0.05)
        yield port
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _answers(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True
