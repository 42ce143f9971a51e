"""A process that writes blocks as fast as it can, from two threads, until somebody kills it.

``python -m tests.cache.disk.hammer DIRECTORY SPACE SEED`` prints the id of each block once it is said to be durable.
"""

import os
import random
import sys
import threading
from pathlib import Path

from ds4trio.cache.disk import BlockStore
from tests.cache.disk.blocks import blocks_of, payload_of

MOST_PAYLOAD = 100_000


def hammer(store: BlockStore, seed: int) -> None:
    """Write conversations that begin alike and go on differently."""
    chance = random.Random(seed)
    while True:
        tokens = [*range(chance.randrange(9)), *(chance.randrange(1 << 30) for _ in range(chance.randrange(1, 20)))]
        for block in blocks_of(store.root, tokens):
            if store.write(block, payload_of(block.id, MOST_PAYLOAD)):
                os.write(sys.stdout.fileno(), f"{block.id.hex()}\n".encode())


def main() -> None:
    directory, space, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    store = BlockStore(directory, fingerprint=b"model", space_bytes=space)
    store.open()
    threading.Thread(target=hammer, args=(store, seed)).start()
    hammer(store, seed + 1)


if __name__ == "__main__":
    main()
