"""The servers that are measured side by side: ours, those that PyPI has, and any other one by its URL.

All of them run at the same time, with the same model file, context, number of sequences and threads, and are asked in
turns; a server that nobody asks computes nothing.

The peers come with ``pip install ds4trio[bench]``: llama.cpp's own server code (in ``xllamacpp``) and
``llama_cpp.server``. What else a peer might be told to be faster is left at its default, as a user finds it.
"""

import importlib.util
import re
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from ds4trio.testing import ServerProcess, run_server

__all__ = ["CTX", "OURS", "THREADS", "Contender", "open_contenders", "open_ours"]

OURS = "ds4trio"
CTX = 8192
THREADS = 2
LISTENING = re.compile(r"(?:listening|running) on http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that speaks Chat Completions."""

    name: str
    host: str
    port: int


@asynccontextmanager
async def open_ours(
    model: str, *, parallel: int, flags: Sequence[str] = (), source: Path | None = None
) -> AsyncGenerator[ServerProcess, None]:
    """This server, as all of them run; the one whose package lies in ``source``, if it is given."""
    sizes = ("--ctx", str(CTX), "--parallel", str(parallel), "--threads", str(THREADS), "--any-model")
    # Without -P the directory that this runs in would come first.
    command = (sys.executable, *(("-P",) if source else ()), "-m", "ds4trio", "serve", "--port", "0", "--model", model)
    with TemporaryDirectory() as directory:
        async with run_server(
            *(*sizes, "--kv-disk-dir", directory, *flags),
            command=command,
            environment={"PYTHONPATH": str(source)} if source else None,
        ) as server:
            yield server


@asynccontextmanager
async def open_contenders(
    model: str, *, parallel: int, urls: Sequence[str] = (), flags: Sequence[str] = ()
) -> AsyncGenerator[list[Contender], None]:
    """Ours with ``flags``, the peers that are installed, and what runs at ``urls``."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(open_ours(model, parallel=parallel, flags=flags))
        contenders = [Contender(OURS, "127.0.0.1", ours.port)]
        for name, command in _installed(model, parallel).items():
            peer = await stack.enter_async_context(run_server(command=command, ready=LISTENING))
            contenders.append(Contender(name, "127.0.0.1", peer.port))
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme != "http" or parts.hostname is None:
                raise SystemExit(f"{url}: a peer is given as http://HOST:PORT")
            contenders.append(Contender(parts.netloc, parts.hostname, parts.port or 80))
        yield contenders


def _installed(model: str, parallel: int) -> dict[str, list[str]]:
    commands = {}
    if importlib.util.find_spec("xllamacpp"):
        commands["llama-server"] = [sys.executable, "-m", "benchmarks.llama_server", model, str(parallel)]
    if all(map(importlib.util.find_spec, ("fastapi", "uvicorn", "sse_starlette", "starlette_context"))):
        threads = {"n_threads": THREADS, "n_threads_batch": THREADS}
        # Unless told so it ends whatever it computes when the next request comes.
        values = {"host": "127.0.0.1", "port": 0, "n_ctx": CTX, **threads, "interrupt_requests": False}
        options = [part for name, value in values.items() for part in (f"--{name}", str(value))]
        commands["llama_cpp.server"] = [sys.executable, "-m", "llama_cpp.server", "--model", model, *options]
    return commands
