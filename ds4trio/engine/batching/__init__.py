"""Which tokens are computed when: pure logic and bookkeeping between the requests and what computes.

`batcher` is the loop's body, `scheduler` composes each batch with what `cost` has learned of this machine, `sequence`
is a request, `leaders` says who waits for whom, `lookup` guesses how answers go on, `divergence` explains cache misses.
`memory` says what a context has to offer, and `cells` keeps it and the table of its slots in step. In `blocks`,
`resting` moves idle conversations to the memory beside it and `keeper` all of them to the disk. No thread, no ctypes.
"""

from ds4trio.engine.batching.batcher import Batcher
from ds4trio.engine.batching.memory import Cancellable, Memory, Outcome, Span
from ds4trio.engine.batching.scheduler import Scheduler
from ds4trio.engine.batching.sequence import Extension, Released, Sequence, Update, Writer

__all__ = [
    "Batcher",
    "Cancellable",
    "Extension",
    "Memory",
    "Outcome",
    "Released",
    "Scheduler",
    "Sequence",
    "Span",
    "Update",
    "Writer",
]
