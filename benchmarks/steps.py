"""Where the time of a step goes, in a server that runs in this process: llama.cpp, and what is ours beside it.

    python -m benchmarks.steps [--model FILE.gguf]

Clocks are put around the functions that a token passes on its way, on the computing thread and on the event loop;
what one of them calls of the others counts for those. The client is a process of its own. Reading the clocks costs
about a microsecond each, which is part of the figures.
"""

import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import hypercorn.trio.tcp_server
import llama_cpp
import trio

from benchmarks.report import Report, benchmark
from ds4trio.api.chat_completions.answer import ChatStream
from ds4trio.config import Settings
from ds4trio.engine.answer_text import AnswerText
from ds4trio.engine.batching import Batcher, Scheduler, Sequence
from ds4trio.engine.llama.context import Context
from ds4trio.engine.llama.continuation import Continuation
from ds4trio.engine.llama.engine import LlamaGeneration
from ds4trio.engine.llama.sampler import Sampler
from ds4trio.engine.llama.worker import Worker
from ds4trio.server.choices import Choice
from ds4trio.server.serve import serve

ANSWER = 200
STREAMS = (1, 4)
MOST = 0.03
"""Of a step, what may be ours on the thread that computes."""

LLAMA = "llama_decode"
ON_THE_THREAD = {
    "the rest of a step": (Batcher, "step"),
    "compose: guess": (Sequence, "guess"),
    "compose: plan": (Scheduler, "plan"),
    "learn": (Scheduler, "learn"),
    "fill the batch": (Context, "decode"),
    LLAMA: (llama_cpp, "llama_decode"),
    "sample": (Sampler, "sample"),
    "continue": (Continuation, "extend"),
    "detokenize": (AnswerText, "take"),
    "hop": (Worker, "_flush"),
}
ON_THE_LOOP = {
    "receive": (LlamaGeneration, "_receive"),
    "read": (Choice, "read"),
    "write down": (ChatStream, "delta"),
    "send": (hypercorn.trio.tcp_server.TCPServer, "protocol_send"),
}

# Many answers at once over one connection each, with nothing but the standard library.
CLIENT = """
import http.client, json, sys, threading
def ask(number):
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    body = {"messages": [{"role": "user", "content": f"Tell me a story, number {number} of {sys.argv[3]}."}],
            "stream": True, "temperature": 0, "ignore_eos": True, "max_tokens": int(sys.argv[4])}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    connection.getresponse().read()
threads = [threading.Thread(target=ask, args=(number,)) for number in range(int(sys.argv[2]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@dataclass
class Clocks:
    """Seconds and calls by name; ``steps`` are the batches."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _inner: threading.local = field(default_factory=threading.local)

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function with a clock."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self._inner.seconds = getattr(self._inner, "seconds", 0.0), 0.0
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - begun
                self.seconds[name] += took - self._inner.seconds
                self.calls[name] += 1
                self._inner.seconds = outer + took

        return timed

    def around_coroutine(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same coroutine function with a clock; whatever runs while it waits counts too."""

        async def timed(*args: Any) -> Any:
            begun = time.perf_counter()
            try:
                return await function(*args)
            finally:
                self.seconds[name] += time.perf_counter() - begun
                self.calls[name] += 1

        return timed


async def measure(port: int, streams: int, seed: int, clocks: Clocks) -> None:
    """Let clients come and count from zero."""
    clocks.seconds.clear()
    clocks.calls.clear()
    arguments = [str(port), str(streams), str(seed), str(ANSWER)]
    await trio.run_process([sys.executable, "-c", CLIENT, *arguments], stdout=subprocess.DEVNULL)


def tell(report: Report, streams: int, clocks: Clocks) -> None:
    """A row for the thread and one for the loop, with their parts."""
    steps = clocks.calls[LLAMA]
    tokens = clocks.calls["read"]

    def parts(names: dict[str, Any], count: int) -> str:
        return ", ".join(f"{name} {1e6 * clocks.seconds[name] / count:.0f}" for name in names if clocks.calls[name])

    whole = sum(clocks.seconds[name] for name in ON_THE_THREAD)
    ours = whole - clocks.seconds[LLAMA] - clocks.seconds["sample"]
    report.add(
        f"the thread, {streams} answers at once, {steps} steps: microseconds of a step",
        parts(ON_THE_THREAD, steps),
        "for scale",
        True,
    )
    report.add(
        f"of that, what is neither llama.cpp's decoding nor its sampling ({streams})",
        f"{100 * ours / whole:.1f} %",
        f"≤ {100 * MOST:.0f} %",
        ours <= MOST * whole,
    )
    report.add(
        f"the loop, {streams} answers at once: microseconds of a token", parts(ON_THE_LOOP, tokens), "for scale", True
    )
    report.series[f"steps {streams}"] = {
        name: 1e6 * clocks.seconds[name] / (steps if name in ON_THE_THREAD else tokens)
        for name in (*ON_THE_THREAD, *ON_THE_LOOP)
    }


@benchmark("steps")
async def main(report: Report, model: str) -> None:
    """Measure a server in this process."""
    clocks = Clocks()
    ready = trio.Event()
    port = 0

    def on_ready(url: str, _: str) -> None:
        nonlocal port
        port = int(url.rpartition(":")[2])
        ready.set()

    settings = Settings(model=model, port=0, ctx=8192, threads=2, kv_disk=False)
    with ExitStack() as stack:
        for what, (owner, name) in {**ON_THE_THREAD, **ON_THE_LOOP}.items():
            around = clocks.around_coroutine if what == "send" else clocks.around
            stack.enter_context(patch.object(owner, name, around(what, getattr(owner, name))))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve, settings, on_ready=on_ready))
            await ready.wait()
            for number, streams in enumerate((1, *STREAMS)):
                await measure(port, streams, number, clocks)
                if number:  # the first one warms up
                    tell(report, streams, clocks)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    main()
