"""One ``llama_context`` with a unified KV: batches in, logits out, and the memory of its sequences.

Used by the worker thread only. Every method is one step of llama.cpp; what to compute is decided elsewhere.
"""

import ctypes
import enum
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import llama_cpp
import numpy as np
import numpy.typing as npt

from ds4trio.engine.base import EngineError
from ds4trio.engine.llama.abort import AbortFlag
from ds4trio.engine.llama.model import Model

__all__ = ["Context", "ContextOptions", "Outcome", "Span", "open_context"]

FLASH_ATTENTION = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextOptions:
    """Sizes in tokens; ``kv_type_*`` are the names that ggml gives its types."""

    context_length: int
    sequences: int
    ubatch: int
    threads: int
    flash_attention: str
    kv_type_k: str
    kv_type_v: str


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one sequence in a batch, from ``position`` on; ``wants_logits`` for the last of them."""

    sequence_id: int
    position: int
    tokens: Sequence[int]
    wants_logits: bool


class Outcome(enum.Enum):
    """How ``llama_decode`` ended.

    The memory has changed after `DONE`, may have after `FAILED`, and has after `ABORTED` where it cannot roll back.
    """

    DONE = 0
    NO_CELLS = 1
    ABORTED = 2
    FAILED = -1


class Context:
    """An open ``llama_context``. A batch holds at most ``ubatch`` tokens."""

    def __init__(self, pointer: llama_cpp.llama_context_p, vocabulary_size: int) -> None:
        self.pointer = pointer
        self._row_type = ctypes.c_float * vocabulary_size
        self.length = int(llama_cpp.llama_n_ctx(pointer))
        # llama.cpp takes no larger ubatch than the context, and a larger batch than that aborts the process.
        self.ubatch = int(llama_cpp.llama_n_ubatch(pointer))
        self._memory = llama_cpp.llama_get_memory(pointer)
        self._batch = llama_cpp.llama_batch_init(self.ubatch, 0, 1)

    def decode(self, spans: Sequence[Span]) -> tuple[Outcome, list[int]]:
        """Compute one batch and say for each span in which row its logits are (-1: it wanted none)."""
        batch, row, rows = self._batch, 0, []
        for span in spans:
            for offset, token in enumerate(span.tokens):
                batch.token[row] = token
                batch.pos[row] = span.position + offset
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = span.sequence_id
                batch.logits[row] = 0
                row += 1
            batch.logits[row - 1] = span.wants_logits
            rows.append(row - 1 if span.wants_logits else -1)
        batch.n_tokens = row
        code = llama_cpp.llama_decode(self.pointer, batch)
        # A GPU computes on after llama_decode has returned, up to a batch behind: what is told to be done has to be.
        llama_cpp.llama_synchronize(self.pointer)
        return (Outcome(code) if code in (0, 1, 2) else Outcome.FAILED), rows

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """The logits of a row that `decode` named, one per token of the vocabulary; the next `decode` ends them.

        They are llama.cpp's own memory: what is written here is what the samplers see.
        """
        first = llama_cpp.llama_get_logits_ith(self.pointer, row).contents
        memory = self._row_type.from_address(ctypes.addressof(first))
        return np.frombuffer(memoryview(memory), dtype=np.float32)

    def copy_prefix(self, source: int, target: int, tokens: int) -> None:
        """Let ``target`` begin with the first ``tokens`` of ``source``; the cells are shared, not copied."""
        llama_cpp.llama_memory_seq_rm(self._memory, target, -1, -1)
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, tokens)

    def truncate(self, sequence_id: int, tokens: int) -> None:
        """Keep the first ``tokens`` of a sequence."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence_id, tokens, -1)

    def clear(self, sequence_id: int) -> None:
        """Forget a sequence."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence_id, -1, -1)

    def first_position(self, sequence_id: int) -> int:
        """The oldest position that is still there; above 0 once a sliding window has moved on."""
        return max(0, int(llama_cpp.llama_memory_seq_pos_min(self._memory, sequence_id)))

    def cells_of(self, sequence_id: int) -> int:
        """How many positions a sequence has, by its last one."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence_id)) + 1

    def close(self) -> None:
        """Free the batch; the context is freed by `open_context`."""
        llama_cpp.llama_batch_free(self._batch)


@contextmanager
def open_context(model: Model, options: ContextOptions, abort: AbortFlag) -> Iterator[Context]:
    """Make a context for the length of the block. Raises `EngineError` when the memory does not suffice."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = options.context_length
    params.n_batch = params.n_ubatch = options.ubatch
    params.n_seq_max = options.sequences
    params.n_threads = params.n_threads_batch = options.threads
    params.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
    params.type_k = getattr(llama_cpp, f"GGML_TYPE_{options.kv_type_k.upper()}")
    params.type_v = getattr(llama_cpp, f"GGML_TYPE_{options.kv_type_v.upper()}")
    params.kv_unified = True
    params.swa_full = False
    pointer = llama_cpp.llama_init_from_model(model.pointer, params)
    if not pointer:
        raise EngineError(
            f"llama.cpp cannot make a context of {options.context_length} tokens: not enough memory, or these cache "
            "types do not go with this model; try a smaller --ctx, or --cache-type-k f16 --cache-type-v f16"
        )
    abort.install(pointer)
    context = Context(pointer, model.vocabulary.size)
    try:
        yield context
    finally:
        context.close()
        llama_cpp.llama_free(pointer)
