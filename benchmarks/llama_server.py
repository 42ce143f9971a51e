"""llama.cpp's server, as ``xllamacpp`` has it, in a process of its own.

    python -m benchmarks.llama_server FILE.gguf SLOTS

Runs until it is killed.
"""

import os
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
    # In one piece and on a line of its own, since the server's threads log to the same stream.
    os.write(sys.stderr.fileno(), f"\nlistening on {server.listening_address}\n".encode())
    signal.pause()


if __name__ == "__main__":
    main()
