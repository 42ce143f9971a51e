"""One ``llama_context`` with a unified KV: batches in, logits out, and the memory of its sequences.

Used by the worker thread only. Every method is one step of llama.cpp; what to compute is decided elsewhere.
"""

import ctypes
from array import array
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from ds4trio.cache import MemoryKind, State, room_for_state
from ds4trio.engine.base import EngineError
from ds4trio.engine.batching import Cancellable, Outcome, Span
from ds4trio.engine.llama.abort import AbortFlag
from ds4trio.engine.llama.adapters import Adapter, load_adapters
from ds4trio.engine.llama.model import Model

__all__ = ["Context", "ContextOptions", "Logits", "open_context"]

FLASH_ATTENTION = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}

# What ``llama_decode`` returns.
CODES = {0: Outcome.DONE, 1: Outcome.NO_CELLS, 2: Outcome.ABORTED}
STATE_FLAGS = {True: llama_cpp.LLAMA_STATE_SEQ_FLAGS_NONE, False: llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY}


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
    adapters: tuple[Adapter, ...] = ()


@dataclass(frozen=True, slots=True)
class Logits:
    """The logits of one row of the latest batch, one per token of the vocabulary; the next batch ends them."""

    context: llama_cpp.llama_context_p
    row: int
    _row_type: type[ctypes.Array[ctypes.c_float]]

    def array(self) -> npt.NDArray[np.float32]:
        """llama.cpp's own memory: what is written here is what the samplers see."""
        first = llama_cpp.llama_get_logits_ith(self.context, self.row).contents
        memory = self._row_type.from_address(ctypes.addressof(first))
        return np.frombuffer(memoryview(memory), dtype=np.float32)


class Context:
    """An open ``llama_context``; implements `Memory`. A batch holds at most ``ubatch`` tokens."""

    def __init__(
        self, pointer: llama_cpp.llama_context_p, abort: AbortFlag, kind: MemoryKind, vocabulary_size: int
    ) -> None:
        self.pointer = pointer
        self.kind = kind
        self._abort = abort
        self.cells = int(llama_cpp.llama_n_ctx(pointer))
        # llama.cpp takes no larger ubatch than the context, and a larger batch than that aborts the process.
        self.ubatch = int(llama_cpp.llama_n_ubatch(pointer))
        self._memory = llama_cpp.llama_get_memory(pointer)
        self._batch = _Batch(self.ubatch)
        row_type = ctypes.c_float * vocabulary_size
        self._rows = [Logits(pointer, row, row_type) for row in range(self.ubatch)]
        self._spare = int(llama_cpp.llama_n_seq_max(pointer)) - 1

    def decode(
        self, spans: Sequence[Span], owners: Collection[Cancellable], *, may_abort: bool, gives_way: float = 0.0
    ) -> tuple[Outcome, list[list[Logits]]]:
        """See `Memory.decode`."""
        self._batch.fill(spans)
        ends = accumulate(len(span.tokens) for span in spans)
        rows = [self._rows[end - span.rows : end] for span, end in zip(spans, ends, strict=True)]
        with self._abort.batch(owners, may_abort=may_abort, gives_way=gives_way) as valid:
            if not valid:
                return Outcome.SKIPPED, rows
            code = llama_cpp.llama_decode(self.pointer, self._batch.struct)
            # A GPU computes on after llama_decode has returned, up to a batch behind: what is done has to be done.
            llama_cpp.llama_synchronize(self.pointer)
        return CODES.get(code, Outcome.FAILED), rows

    def copy(self, source: int, target: int, tokens: int) -> None:
        """See `Memory.copy`; the cells are shared, not copied."""
        llama_cpp.llama_memory_seq_rm(self._memory, target, -1, -1)
        start, end = (-1, -1) if self.kind.whole_only else (0, tokens)
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, start, end)

    def truncate(self, sequence_id: int, tokens: int) -> None:
        """See `Memory.truncate`."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence_id, tokens, -1)

    def clear(self, sequence_id: int) -> None:
        """See `Memory.clear`."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence_id, -1, -1)

    def first_position(self, sequence_id: int) -> int:
        """See `Memory.first_position`."""
        return max(0, int(llama_cpp.llama_memory_seq_pos_min(self._memory, sequence_id)))

    def end_position(self, sequence_id: int) -> int:
        """See `Memory.end_position`."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence_id)) + 1

    def state_bytes(self, sequence_id: int, *, whole: bool) -> int:
        """See `Memory.state_bytes`."""
        return int(llama_cpp.llama_state_seq_get_size_ext(self.pointer, sequence_id, STATE_FLAGS[whole]))

    def save(self, sequence_id: int, *, whole: bool) -> State:
        """See `Memory.save`."""
        data = room_for_state(self.state_bytes(sequence_id, whole=whole))
        buffer = (ctypes.c_uint8 * len(data)).from_buffer(data)
        flags = STATE_FLAGS[whole]
        written = llama_cpp.llama_state_seq_get_data_ext(self.pointer, buffer, len(data), sequence_id, flags)
        return data[:written]

    def restore(self, sequence_id: int, data: State, *, whole: bool) -> bool:
        """See `Memory.restore`."""
        buffer = (ctypes.c_uint8 * len(data)).from_buffer(data)
        flags = STATE_FLAGS[whole]
        return bool(llama_cpp.llama_state_seq_set_data_ext(self.pointer, buffer, len(data), sequence_id, flags))

    def save_range(self, sequence_id: int, start: int, end: int) -> State:
        """See `Memory.save_range`: the spare sequence shares the cells for as long as it takes."""
        llama_cpp.llama_memory_seq_cp(self._memory, sequence_id, self._spare, start, end)
        data = self.save(self._spare, whole=True)
        self.clear(self._spare)
        return data

    def append(self, sequence_id: int, start: int, end: int, data: State) -> bool:
        """See `Memory.append`."""
        restored = self.restore(self._spare, data, whole=True) and self.end_position(self._spare) >= end
        if restored:
            llama_cpp.llama_memory_seq_cp(self._memory, self._spare, sequence_id, start, end)
        self.clear(self._spare)
        return restored and self.end_position(sequence_id) == end


class _Batch:
    """A ``llama_batch`` over arrays of our own, filled by slices: ctypes would take a while for each token."""

    def __init__(self, most: int) -> None:
        self._tokens = array("i", bytes(4 * most))
        self._positions = array("i", bytes(4 * most))
        self._sequences = array("i", bytes(4 * most))
        self._counts = array("i", [1]) * most
        self._wanted = array("b", bytes(most))
        # Each token has a list of sequences, of one here.
        first, size = self._sequences.buffer_info()[0], self._sequences.itemsize
        self._lists = array("Q", range(first, first + size * most, size))
        self.struct = llama_cpp.llama_batch(
            token=_pointer(self._tokens, llama_cpp.llama_token),
            pos=_pointer(self._positions, llama_cpp.llama_pos),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=_pointer(self._lists, ctypes.POINTER(llama_cpp.llama_seq_id)),
            logits=_pointer(self._wanted, ctypes.c_int8),
        )

    def fill(self, spans: Sequence[Span]) -> None:
        """Hold these, and nothing else."""
        end = 0
        for span in spans:
            start, count = end, len(span.tokens)
            end += count
            assert end <= len(self._tokens), "an array that grows leaves the place that llama.cpp looks at"
            if count == 1:
                self._tokens[start] = span.tokens[0]
                self._positions[start] = span.position
                self._sequences[start] = span.sequence_id
                self._wanted[start] = span.rows
                continue
            self._tokens[start:end] = array("i", span.tokens)
            self._positions[start:end] = array("i", range(span.position, span.position + count))
            self._sequences[start:end] = array("i", [span.sequence_id]) * count
            self._wanted[start:end] = array("b", bytes(count - span.rows) + b"\1" * span.rows)
        self.struct.n_tokens = end


def _pointer(numbers: "array[int]", kind: type[Any]) -> Any:
    return ctypes.cast(numbers.buffer_info()[0], ctypes.POINTER(kind))


@contextmanager
def open_context(model: Model, options: ContextOptions, abort: AbortFlag) -> Iterator[Context]:
    """Make a context for the length of the block, with its adapters.

    Raises `EngineError` when the memory does not suffice, or where an adapter does not go with the model.
    """
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = options.context_length
    params.n_batch = params.n_ubatch = options.ubatch
    params.n_seq_max = options.sequences + 1  # one to move ranges through
    params.n_threads = params.n_threads_batch = options.threads
    params.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
    params.type_k = getattr(llama_cpp, f"GGML_TYPE_{options.kv_type_k.upper()}")
    params.type_v = getattr(llama_cpp, f"GGML_TYPE_{options.kv_type_v.upper()}")
    params.kv_unified = True
    params.swa_full = False
    with load_adapters(model, options.adapters) as adapters:
        pointer = llama_cpp.llama_init_from_model(model.pointer, params)
        if not pointer:
            raise EngineError(
                f"llama.cpp cannot make a context of {options.context_length} tokens: not enough memory, or these "
                "cache types do not go with this model; try a smaller --ctx, or --cache-type-k f16 --cache-type-v f16"
            )
        try:
            adapters.use_in(pointer)
            abort.install(pointer)
            yield Context(pointer, abort, model.memory, model.vocabulary.size)
        finally:
            llama_cpp.llama_free(pointer)
