"""Clients that a server cannot see leave: one that stops reading, and one whose machine is gone without a FIN."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio

from ds4trio.testing import ServerProcess, chat_body, open_client, run_server

pytestmark = pytest.mark.slow

STALL_TIMEOUT = 3.0
# The kernel's timers, one more heartbeat until there are bytes to be missed, and this process's own delays.
MOST_SECONDS = STALL_TIMEOUT + 3.5
# With greedy decoding the demo model never comes to an end here.
ENDLESS = "What is the capital of France?"
GONE = r"cancelled in \w+ .*: the client (has gone|took no bytes)"

CLIENT = """
import json, socket, sys, time
body = json.dumps({"stream": True, "temperature": 0, "messages": [{"role": "user", "content": sys.argv[2]}]}).encode()
connection = socket.create_connection(("10.213.7.1", int(sys.argv[1])))
connection.sendall(b"POST /v1/chat/completions HTTP/1.1\\r\\nhost: localhost\\r\\ncontent-type: application/json\\r\\n"
                   b"content-length: %d\\r\\n\\r\\n%s" % (len(body), body))
print(connection.recv(65536)[:12].decode(), flush=True)
time.sleep(600)
"""


async def others_are_unharmed(server: ServerProcess, host: str = "127.0.0.1") -> None:
    async with open_client(server.port, chat_body("Hello!", max_tokens=3), host=host) as client:
        assert b"[DONE]" in await client.read_all()


async def test_client_that_stops_reading_is_freed() -> None:
    async with (
        run_server("--stall-timeout", str(STALL_TIMEOUT)) as server,
        open_client(server.port, chat_body(ENDLESS, temperature=0), receive_buffer=2048) as stuck,
    ):
        await stuck.read_until(b"finish_reason")
        await others_are_unharmed(server)
        # On a slow machine it takes a while until so much was written that the client's window is full.
        with trio.fail_after(60):
            await server.wait_log(GONE)
        await others_are_unharmed(server)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[str]:
    """A namespace with a wire to this one; gives its name. Its only addresses are 10.213.7.1 (here) and .2 (there)."""
    name = f"ds4trio{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    _ip("link", "add", "ds4here", "type", "veth", "peer", "name", "ds4there", "netns", name)
    try:
        _ip("address", "add", "10.213.7.1/30", "dev", "ds4here")
        _ip("link", "set", "ds4here", "up")
        _ip("-n", name, "address", "add", "10.213.7.2/30", "dev", "ds4there")
        _ip("-n", name, "link", "set", "ds4there", "up")
        yield name
    finally:
        # The namespace goes some time after it was deleted, and its wire with it: the next test needs the name now.
        _ip("link", "delete", "ds4here")
        _ip("netns", "delete", name)


@pytest.mark.parametrize("prompt", [ENDLESS, "river table green " * 800], ids=["decode", "prefill"])
async def test_client_that_vanishes_without_a_fin_is_freed(network: str, prompt: str) -> None:
    ready = re.compile(r"on http://10\.213\.7\.1:(\d+), try")
    flags = ("--host", "10.213.7.1", "--no-auth", "--stall-timeout", str(STALL_TIMEOUT), "--heartbeat-interval", "1")
    async with run_server(*flags, ready=ready) as server:
        command = ["ip", "netns", "exec", network, sys.executable, "-c", CLIENT, str(server.port), prompt]
        client = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        try:
            assert client.stdout is not None
            assert (await client.stdout.receive_some()).startswith(b"HTTP/1.1 200")
            _ip("-n", network, "link", "set", "ds4there", "down")
            vanished = trio.current_time()
            line = await server.wait_log(GONE)
            assert line.at - vanished < MOST_SECONDS
            await others_are_unharmed(server, host="10.213.7.1")
        finally:
            client.kill()
            await client.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="a socket vanishes by a packet filter of Linux")
@pytest.mark.parametrize("prompt", [ENDLESS, "river table green " * 800], ids=["decode", "prefill"])
async def test_client_that_takes_no_packet_is_freed(prompt: str) -> None:
    """The same without a wire to cut, and so without root."""
    async with (
        run_server("--stall-timeout", str(STALL_TIMEOUT), "--heartbeat-interval", "1") as server,
        open_client(server.port, chat_body(prompt, temperature=0)) as client,
    ):
        await client.read()
        client.vanish()
        line = await server.wait_log(GONE)
        assert STALL_TIMEOUT - 1 < line.at - client.sent_at - (client.over_at or 0) < MOST_SECONDS
        await others_are_unharmed(server)
