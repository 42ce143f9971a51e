"""llama.cpp's server, as ``xllamacpp`` has it, in a process of its own.

    python -m benchmarks.llama_server FILE.gguf SLOTS

Runs until it is killed.
"""

import signal
import sys

import xllamacpp

from benchmarks.peers import CTX, THREADS


def main() -> None:
    """Serve on a free port and say which."""
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.hostnames = ["127.0.0.1"]
    params.n_ctx = CTX
    params.kv_unified = True
    params.n_parallel = int(sys.argv[2])
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", file=sys.stderr, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
