"""Which tokens are computed when: pure logic and bookkeeping between the requests and what computes.

`batcher` is the loop's body, `scheduler` composes each batch with what `cost` has learned of this machine, `sequence`
is a request, `memory` says what a context has to offer, `divergence` explains cache misses. No thread, no ctypes.
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
