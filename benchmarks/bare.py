"""What llama.cpp does when nobody serves anything: a loop over llama-cpp-python's C functions, in its own process.

    python -m benchmarks.bare FILE.gguf

Reads lines like ``{"decode": 4, "tokens": 100}`` or ``{"prefill": 2500}`` from standard input, and answers each with
the seconds that it took. The yardstick for a server: no queue, no sockets, no text, no Trio. It has the same
threads, context and cache, since all of these change what a step costs.
"""

import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random

import llama_cpp
import trio

from benchmarks.peers import CTX, THREADS

__all__ = ["Bare", "open_bare"]

UBATCH = 512
MOST_STREAMS = 16
OPENING = 50
"""Tokens that are there before a decode is measured."""


class Bare:
    """The process, from outside."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process

    async def decode(self, streams: int, tokens: int) -> float:
        """Seconds for ``tokens`` tokens in each of so many sequences. A checkpoint."""
        return await self._ask({"decode": streams, "tokens": tokens})

    async def prefill(self, tokens: int) -> float:
        """Seconds for a prompt of so many tokens, up to the first token of its answer. A checkpoint."""
        return await self._ask({"prefill": tokens})

    async def _ask(self, question: dict[str, int]) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        await self._process.stdin.send_all(json.dumps(question).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            data = await self._process.stdout.receive_some()
            if not data:
                raise EOFError("the bare loop has ended")
            answer += data
        return float(json.loads(answer))


@asynccontextmanager
async def open_bare(model: str) -> AsyncGenerator[Bare, None]:
    """The loop, for the length of the block."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "benchmarks.bare", model], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Bare(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


class _Loop:
    def __init__(self, model: str) -> None:
        llama_cpp.llama_backend_init()
        self._silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silent, None)
        loaded = llama_cpp.llama_model_load_from_file(model.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = CTX
        params.n_batch = params.n_ubatch = UBATCH
        params.n_seq_max = MOST_STREAMS
        params.n_threads = params.n_threads_batch = THREADS
        params.kv_unified = True
        self._context = llama_cpp.llama_init_from_model(loaded, params)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(UBATCH, 0, 1)
        self._greedy = llama_cpp.llama_sampler_init_greedy()
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))
        self._dice = Random(0)

    def decode(self, streams: int, tokens: int) -> float:
        llama_cpp.llama_memory_clear(self._memory, True)
        for sequence in range(streams):
            self._step([(self._word(), position, sequence) for position in range(OPENING)])
        begun = time.perf_counter()
        last = [self._word()] * streams
        for position in range(OPENING, OPENING + tokens):
            self._step([(token, position, sequence) for sequence, token in enumerate(last)], rows=streams)
            last = [llama_cpp.llama_sampler_sample(self._greedy, self._context, row) for row in range(streams)]
        return time.perf_counter() - begun

    def prefill(self, tokens: int) -> float:
        llama_cpp.llama_memory_clear(self._memory, True)
        begun = time.perf_counter()
        for start in range(0, tokens, UBATCH):
            end = min(tokens, start + UBATCH)
            self._step([(self._word(), position, 0) for position in range(start, end)], rows=int(end == tokens))
        llama_cpp.llama_sampler_sample(self._greedy, self._context, -1)
        return time.perf_counter() - begun

    def _word(self) -> int:
        return self._dice.randrange(self._vocabulary // 100, self._vocabulary)

    def _step(self, entries: list[tuple[int, int, int]], *, rows: int = 0) -> None:
        batch = self._batch
        for row, (token, position, sequence) in enumerate(entries):
            batch.token[row], batch.pos[row] = token, position
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
            batch.logits[row] = row >= len(entries) - rows
        batch.n_tokens = len(entries)
        if llama_cpp.llama_decode(self._context, batch):
            raise SystemExit("llama.cpp could not compute a batch")
        llama_cpp.llama_synchronize(self._context)


def main() -> None:
    """Answer until the input ends."""
    loop = _Loop(sys.argv[1])
    for line in sys.stdin:
        question = json.loads(line)
        if "decode" in question:
            seconds = loop.decode(question["decode"], question["tokens"])
        else:
            seconds = loop.prefill(question["prefill"])
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
