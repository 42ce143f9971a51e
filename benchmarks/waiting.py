"""A thousand clients in the queue while a prefill holds all cores: how late their heartbeats are, what each one takes.

    python -m benchmarks.waiting [--clients 1000] [--interval 5] [--model FILE.gguf]

The clients come over some seconds and then listen. A beat is late by what has passed since the last byte before it,
less the interval: the time the server's loop was late, the time the bytes took, and the time until the client's own
process got one of the busy cores. What a client takes is what the server's resident memory grew by.
"""

import re
import statistics
from itertools import pairwise
from pathlib import Path

import click
import trio

from benchmarks.report import Report, benchmark, milliseconds, percentile
from ds4trio.server.serve import allow_files
from ds4trio.testing import ServerProcess, chat_body, fresh_prompt, open_client, run_server

CTX = 8192
COMING = 10.0
"""Seconds over which the clients come."""
BEATS = 4
SETTLING = 8.0
LATE = 0.025
EACH_KB = 60


class Listener:
    """One client that waits; when it heard something."""

    def __init__(self) -> None:
        self.heard: list[float] = []

    async def listen(self, port: int, request: bytes) -> None:
        """Wait for ever."""
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request)
            while await stream.receive_some():
                self.heard.append(trio.current_time())


def request_of(port: int, number: int) -> bytes:
    """Short, and never the same."""
    body = f'{{"stream": true, "messages": [{{"role": "user", "content": "Say {number}."}}], "max_tokens": 4}}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


def resident_kb(pid: int) -> int:
    """The process's resident memory."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1])


async def prefill_for_ever(server: ServerProcess) -> None:
    """One long prompt after the other, each of them for a minute or so."""
    while True:
        async with open_client(server.port, chat_body(fresh_prompt(CTX - 200), max_tokens=1)) as client:
            await client.read_all()


async def crowd(server: ServerProcess, report: Report, clients: int, interval: float) -> None:
    """Let them come, listen for some beats, and count."""
    listeners = [Listener() for _ in range(clients)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prefill_for_ever, server)
        await server.wait_log("prefill chunk")
        await trio.sleep(SETTLING)  # llama.cpp's own buffers grow in its first steps
        before = resident_kb(server.pid)
        for number, listener in enumerate(listeners):
            nursery.start_soon(listener.listen, server.port, request_of(server.port, number))
            await trio.sleep(COMING / clients)
        settled = trio.current_time() + interval
        await trio.sleep_until(settled + BEATS * interval)
        each = (resident_kb(server.pid) - before) / clients
        nursery.cancel_scope.cancel()
    late = []
    for listener in listeners:
        beats = [at for at in listener.heard if at >= settled - interval]
        late += [max(0.0, beat - last - interval) for last, beat in pairwise(beats)]
    firsts = [min(listener.heard) for listener in listeners if listener.heard]
    report.add("clients that wait and hear", f"{len(firsts)} of {clients}", "all", len(firsts) == clients)
    expected = clients * (BEATS - 1)
    report.add(f"beats, one per {interval:g} s", f"{len(late)}", f"≥ {expected}", len(late) >= expected)
    p50, p99 = statistics.median(late), percentile(late, 0.99)
    report.add(
        f"{clients} waiting clients, all cores at a prefill: how late their beats are",
        f"{milliseconds(late)}",
        f"p99 ≤ {1000 * LATE:.0f} ms",
        p99 <= LATE,
    )
    report.add("memory of the server per waiting client", f"{each:.0f} KB", f"≤ {EACH_KB} KB", each <= EACH_KB)
    some = sorted(late)[:: max(1, len(late) // 200)]
    report.series["lateness"] = {"milliseconds": [round(1000 * value, 2) for value in some]}
    report.series["waiting"] = {"p50": p50, "p99": p99, "max": max(late), "kb": each}


@benchmark("waiting")
@click.option("--clients", default=1000, show_default=True)
@click.option("--interval", default=5.0, show_default=True, help="seconds between two beats")
async def main(report: Report, model: str, clients: int, interval: float) -> None:
    """Measure one server under a crowd."""
    allow_files()
    flags = ("--ctx", str(CTX), "--parallel", "1", "--max-queue", str(clients), "--no-kv-disk")
    async with run_server("--model", model, *flags, "--heartbeat-interval", str(interval)) as server:
        await crowd(server, report, clients, interval)


if __name__ == "__main__":
    main()
