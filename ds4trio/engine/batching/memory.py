"""What a batcher computes with: batches in, rows of logits out, and the memory of the sequences. Types only."""

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ds4trio.cache import MemoryKind, State

__all__ = ["Cancellable", "Memory", "Outcome", "Span"]

Row_co = TypeVar("Row_co", covariant=True)


class Cancellable(Protocol):
    """What can own a part of a batch."""

    cancelled: bool


@dataclass(slots=True)
class Span:
    """Tokens of one sequence in a batch, from ``position`` on; logits are wanted for so many ``rows`` at their end."""

    sequence_id: int
    position: int
    tokens: Sequence[int]
    rows: int


class Outcome(enum.Enum):
    """How a batch ended.

    The memory has changed after `DONE`, may have after `FAILED`, and has after `ABORTED` where it cannot roll back.
    `SKIPPED`: one of the owners was cancelled before the batch began.
    """

    DONE = 0
    NO_CELLS = 1
    ABORTED = 2
    SKIPPED = 3
    FAILED = -1


class Memory(Protocol[Row_co]):
    """A context of ``cells`` cells, each the KV of a token, for all sequences together.

    A batch holds at most ``ubatch`` tokens; ``kind`` says which of the calls are allowed when.
    """

    kind: MemoryKind
    cells: int
    ubatch: int

    def decode(
        self, spans: Sequence[Span], owners: Collection[Cancellable], *, may_abort: bool, gives_way: float = 0.0
    ) -> tuple[Outcome, Sequence[Sequence[Row_co]]]:
        """Compute one batch and give each span's rows of logits, valid until the next batch.

        A cancel of one of the ``owners`` ends the batch with `Outcome.ABORTED` if it ``may_abort``; so does a newcomer
        in its first ``gives_way`` seconds.
        """
        ...

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let ``target`` hold the first ``tokens`` of ``source``; all of them where only whole sequences can be."""
        ...

    def truncate(self, sequence_id: int, tokens: int) -> None:
        """Keep the first ``tokens`` of a sequence."""
        ...

    def clear(self, sequence_id: int) -> None:
        """Forget a sequence."""
        ...

    def first_position(self, sequence_id: int) -> int:
        """The oldest position that is still there; above 0 once a sliding window has moved on."""
        ...

    def end_position(self, sequence_id: int) -> int:
        """The position that comes next."""
        ...

    def state_bytes(self, sequence_id: int, *, whole: bool) -> int:
        """How many bytes `save` would return."""
        ...

    def save(self, sequence_id: int, *, whole: bool) -> State:
        """The state of a sequence, or the part of it that cannot be cut (`MemoryKind.checkpoint`)."""
        ...

    def restore(self, sequence_id: int, data: State, *, whole: bool) -> bool:
        """Bring a state back; False if there is no room for it."""
        ...

    def save_range(self, sequence_id: int, start: int, end: int) -> State:
        """The KV of some positions. Not where only whole sequences can be had."""
        ...

    def append(self, sequence_id: int, start: int, end: int, data: State) -> bool:
        """Bring positions from a saved range back to a sequence that ends at ``start``; False if there is no room."""
        ...
