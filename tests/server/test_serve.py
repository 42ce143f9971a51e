"""What `ds4trio serve` asks of its process."""

import os
import re
import resource
import signal
import socket
import ssl
import sys
from pathlib import Path

import httpx2
import pytest
import trio
import trustme

from ds4trio.config import Settings
from ds4trio.server.serve import FILES, listen
from ds4trio.testing import ServerProcess, chat_body, open_client, run_server

FEW = 256


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="limits of other processes are read from /proc")
async def test_it_may_have_more_connections_than_a_shell_allows() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    shell = f'ulimit -S -n {FEW}; exec "{sys.executable}" -m ds4trio serve --port 0 "$@"'
    async with run_server("--engine", "simulated", command=("sh", "-c", shell, "sh")) as server:
        limits = await trio.Path(f"/proc/{server.pid}/limits").read_text()
    match = re.search(r"Max open files +(\d+)", limits)
    assert match is not None
    assert int(match[1]) == (FILES if hard == resource.RLIM_INFINITY else min(FILES, hard))


async def status_of(server: ServerProcess, key: str, *, path: str = "/v1/models") -> int:
    async with open_client(server.port, method="GET", path=path, headers={"x-api-key": key}) as client:
        await client.read_all()
    assert client.status is not None
    return client.status


async def test_a_hangup_reads_the_keys_again_and_nobody_notices(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a:first\n")
    slow = ("--engine", "simulated", "--prefill-tps", "10", "--api-key-file", str(keys))
    async with run_server(*slow) as server:
        headers = {"x-api-key": "first"}
        async with open_client(server.port, chat_body("x" * 4000), headers=headers) as running:
            await running.read()
            keys.write_text("b:second\n")
            server.process.send_signal(signal.SIGHUP)
            await server.wait_log("SIGHUP: 1 API keys")
            assert await status_of(server, "second") == 200
            assert await status_of(server, "first") == 401
            keys.write_text("")
            server.process.send_signal(signal.SIGHUP)
            await server.wait_log("nothing changes: .*no key")
            assert await status_of(server, "second") == 200
            assert (await status_of(server, "second", path="/requests")) == 200
            assert running.status == 200
            running.reset()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_other_machines_are_not_served_without_a_key_or_a_word(host: str) -> None:
    command = [sys.executable, "-m", "ds4trio", "serve", "--engine", "simulated", "--port", "0", "--host", host]
    told = await trio.run_process(command, check=False, capture_stderr=True)
    assert told.returncode == 1
    assert b"--api-key" in told.stderr
    assert b"Traceback" not in told.stderr


async def test_https_by_a_certificate_of_ones_own(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(tmp_path / "cert.pem", append=number > 0)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    flags = ("--engine", "simulated", "--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    async with (
        run_server(*flags, ready=re.compile(r"on https://127\.0\.0\.1:(\d+), try")) as server,
        httpx2.AsyncClient(verify=context, http2=True) as client,
    ):
        url = f"https://localhost:{server.port}/v1/chat/completions"
        async with client.stream("POST", url, json=chat_body("hi")) as answer:
            assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
            assert (await answer.aread()).endswith(b"data: [DONE]\n\n")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such timer")
def test_a_socket_that_was_inherited_finds_vanished_clients_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        monkeypatch.setattr("ds4trio.server.serve.FIRST_INHERITED", os.dup(plain.fileno()))
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "1")
        with listen(Settings(stall_timeout=7)) as listener:
            assert listener.getsockname() == plain.getsockname()
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
