"""A memory that is a table: what llama.cpp would hold, forget, share or spoil, without llama.cpp.

Theory of operation. It computes nothing, but remembers: a cell holds the token that was computed into it, a row of
logits is the whole history of its sequence as the cells have it (`History`). Whoever derives the next token from that
says something else as soon as a single cell is another one, missing, or was computed without the context it needed.
A token of which that is true is kept as its complement, ``~token``, so a mistake stays visible for ever after.

Cells follow llama.cpp's rules. There is a fixed number of them for all sequences, a copy shares them, and a batch that
does not find enough changes nothing. With sliding layers there is a second table: a cell whose position left the window
of its only sequence is taken again, whenever the search comes by, and all older ones of that sequence go with it; a
cell that is shared is never taken. Memories that cannot roll back have, besides their cells, the tokens that their
recurrent state has read.

Whatever would kill the process, or leave it with a memory of which nobody knows what it holds, is an `AssertionError`.
The clock moves by what a `Machine` says that a batch takes, and by nothing else.
"""

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from ds4trio.cache import MemoryKind, State
from ds4trio.engine.batching import Cancellable, Outcome, Span
from ds4trio.engine.batching.cost import work_of
from tests.engine.batching.machines import Machine

__all__ = ["KINDS", "WINDOW", "Batch", "FakeMemory", "History"]

WINDOW = 48
KINDS = {
    "full": MemoryKind(),
    "sliding": MemoryKind(window=WINDOW, checkpoint="part"),
    "hybrid": MemoryKind(whole_only=True, checkpoint="part"),
    "deepseek4": MemoryKind(whole_only=True, window=WINDOW, checkpoint="whole"),
}

History = list[int]
"""What a row of logits knows: the tokens before it, and the complement of those that were not computed rightly."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that was asked for, and what became of it."""

    spans: tuple[Span, ...]
    outcome: Outcome
    seconds: float

    @property
    def tokens(self) -> int:
        return sum(len(span.tokens) for span in self.spans)


class FakeMemory:
    """Implements `Memory` for one kind, with so many ``cells`` and ``sequences``.

    A test sets ``cancel_before`` or ``cancel_within`` to the one who leaves just before or inside the next batch,
    ``newcomer_within`` to have it stopped by one who comes, and ``fail_next`` to let it fail.
    """

    def __init__(
        self, kind: MemoryKind, *, cells: int, sequences: int, ubatch: int, machine: Machine, save_seconds: float = 0.0
    ) -> None:
        self.kind = kind
        self.cells = cells
        self.ubatch = ubatch
        self.now = 0.0
        self.batches: list[Batch] = []
        self.saves = self.ranges = 0
        self.cancel_before: Cancellable | None = None
        self.cancel_within: Cancellable | None = None
        self.newcomer_within = False
        self.fail_next = False
        self._machine = machine
        self._save_seconds = save_seconds
        self._sequences = sequences
        self._cells = _Cells(cells)
        # As many as llama.cpp makes: a window for each sequence, and what a batch adds before anything can be dropped.
        self._slides = bool(kind.window) and not kind.whole_only
        self._sliding = _Cells(kind.window * sequences + ubatch, window=kind.window)
        self._read: dict[int, list[int]] = {}
        """What the recurrent state of a sequence has read."""
        self._spoilt: set[int] = set()

    @property
    def used(self) -> int:
        """How many cells hold something."""
        return self._cells.used

    def history(self, sequence_id: int) -> History:
        """What a sequence holds."""
        return self._cells.tokens(sequence_id)

    # --- Memory -------------------------------------------------------------------------------------------------------

    def decode(
        self, spans: Sequence[Span], owners: Collection[Cancellable], *, may_abort: bool, gives_way: float = 0.0
    ) -> tuple[Outcome, Sequence[Sequence[History]]]:
        self._check(spans)
        tokens = sum(len(span.tokens) for span in spans)
        seconds = self._machine(tokens, sum(work_of(span.position, len(span.tokens)) for span in spans))
        outcome = self._outcome(spans, owners, tokens, may_abort=may_abort)
        if outcome is Outcome.DONE and gives_way and self.newcomer_within:
            outcome = Outcome.ABORTED
        self.newcomer_within = False
        rows: list[list[History]] = [[] for _ in spans]
        match outcome:
            case Outcome.DONE:
                rows = self._compute(spans)
            case Outcome.ABORTED:
                seconds /= 2
                self._abort(spans, tokens)
            case Outcome.FAILED:
                self._spoilt.update(span.sequence_id for span in spans)
            case Outcome.NO_CELLS | Outcome.SKIPPED:
                seconds = 0.0
        self.now += seconds
        self.batches.append(Batch(tuple(spans), outcome, seconds))
        return outcome, rows

    def copy(self, source: int, target: int, tokens: int) -> None:
        self._known(source, target)
        assert source != target
        assert source not in self._spoilt, "a copy of a spoilt sequence"
        self.clear(target)
        if self.kind.whole_only:
            self._cells.share(source, target, self._cells.end(source))
            self._read[target] = [*self._read.get(source, [])]
            return
        assert tokens <= self._cells.end(source), "a copy of more than there is"
        self._cells.share(source, target, tokens)
        self._sliding.share(source, target, tokens)

    def truncate(self, sequence_id: int, tokens: int) -> None:
        self._known(sequence_id)
        if self.kind.whole_only:
            assert self.kind.checkpoint == "part", "compressed cells cannot be cut"
            assert len(self._read.get(sequence_id, [])) <= tokens, "a recurrent state cannot be cut"
        self._cells.cut(sequence_id, tokens)
        self._sliding.cut(sequence_id, tokens)

    def clear(self, sequence_id: int) -> None:
        self._known(sequence_id)
        self._spoilt.discard(sequence_id)
        self._read.pop(sequence_id, None)
        self._cells.cut(sequence_id, 0)
        self._sliding.cut(sequence_id, 0)

    def first_position(self, sequence_id: int) -> int:
        self._known(sequence_id)
        return (self._sliding if self._slides else self._cells).first(sequence_id)

    def end_position(self, sequence_id: int) -> int:
        self._known(sequence_id)
        if self.kind.whole_only:
            return min(self._cells.end(sequence_id), len(self._read.get(sequence_id, [])))
        return (self._sliding if self._slides else self._cells).end(sequence_id)

    def state_bytes(self, sequence_id: int, *, whole: bool) -> int:
        return len(self._state(sequence_id, whole=whole))

    def save(self, sequence_id: int, *, whole: bool) -> State:
        self.now += self._save_seconds
        self.saves += 1
        return self._state(sequence_id, whole=whole)

    def _state(self, sequence_id: int, *, whole: bool) -> bytearray:
        self._known(sequence_id)
        assert sequence_id not in self._spoilt, "the state of a spoilt sequence"
        assert whole or self.kind.checkpoint == "part", "this memory's states have no parts"
        tokens = self._cells.tokens(sequence_id) if whole else []
        first, rest = 0, self._read.get(sequence_id, [])
        if self._slides:
            first, rest = self._sliding.within_window(sequence_id)
        return bytearray(array("q", [whole, len(tokens), *tokens, first, *rest]).tobytes())

    def restore(self, sequence_id: int, data: State, *, whole: bool) -> bool:
        self._known(sequence_id)
        is_whole, count, *values = array("q", bytes(data))
        tokens, first, rest = values[:count], values[count], values[count + 1 :]
        assert whole == is_whole, "a part in place of a whole state, or the other way round"
        self._spoilt.discard(sequence_id)
        if whole:
            self.clear(sequence_id)
            if not self._cells.fill(sequence_id, 0, tokens):
                return False
        if self.kind.whole_only:
            self._read[sequence_id] = rest
        elif self._slides:
            self._sliding.cut(sequence_id, 0)
            if not self._sliding.fill(sequence_id, first, rest):
                return False
        return True

    def save_range(self, sequence_id: int, start: int, end: int) -> State:
        self._known(sequence_id)
        assert not self.kind.whole_only, "only whole sequences can be had"
        assert end <= self._cells.end(sequence_id), "more than there is"
        self.ranges += 1
        tokens = self._cells.tokens(sequence_id)[start:end]
        sliding = self._sliding.range(sequence_id, start, end) if self._slides else {}
        pairs = (number for pair in sliding.items() for number in pair)
        return bytearray(array("q", [start, len(tokens), *tokens, *pairs]).tobytes())

    def append(self, sequence_id: int, start: int, end: int, data: State) -> bool:
        self._known(sequence_id)
        assert not self.kind.whole_only, "only whole sequences can be had"
        assert self._cells.end(sequence_id) == start, "a part that does not continue the sequence"
        first, count, *rest = array("q", bytes(data))
        tokens, sliding = rest[:count], dict(zip(rest[count::2], rest[count + 1 :: 2], strict=True))
        if not self._cells.fill(sequence_id, start, tokens[start - first : end - first]):
            return False
        if self._slides:
            since = min((position for position in sliding if position >= start), default=end)
            found = [sliding[position] for position in sorted(sliding) if since <= position < end]
            if not self._sliding.fill(sequence_id, since, found):
                self._cells.cut(sequence_id, start)
                return False
        return True

    # --- a batch ------------------------------------------------------------------------------------------------------

    def _known(self, *sequence_ids: int) -> None:
        assert all(0 <= sequence_id < self._sequences for sequence_id in sequence_ids), "an unknown sequence"

    def _check(self, spans: Sequence[Span]) -> None:
        ids = [span.sequence_id for span in spans]
        self._known(*ids)
        assert len(set(ids)) == len(ids) > 0, "each sequence once"
        assert sum(len(span.tokens) for span in spans) <= self.ubatch, "more tokens than a ubatch has"
        for span in spans:
            assert span.tokens, "an empty span"
            assert span.sequence_id not in self._spoilt, "a spoilt sequence"
            ends = {self._cells.end(span.sequence_id)}
            if self.kind.whole_only:
                ends.add(len(self._read.get(span.sequence_id, [])))
            elif self._slides:
                ends.add(self._sliding.end(span.sequence_id))
            assert ends == {span.position}, "positions that do not continue the sequence"

    def _outcome(
        self, spans: Sequence[Span], owners: Collection[Cancellable], tokens: int, *, may_abort: bool
    ) -> Outcome:
        before, within, failing = self.cancel_before, self.cancel_within, self.fail_next
        self.cancel_before, self.cancel_within, self.fail_next = None, None, False
        if before is not None:
            before.cancelled = True
        if any(owner.cancelled for owner in owners):
            self.cancel_within = within
            return Outcome.SKIPPED
        if not self._cells.find(tokens) or (self._slides and not self._sliding.find(tokens)):
            self.cancel_within = within
            return Outcome.NO_CELLS
        if within is not None:
            within.cancelled = True
            if may_abort and within in owners:
                assert len(spans) == 1 or not self.kind.whole_only, "an abort that spoils what is somebody else's"
                return Outcome.ABORTED
        return Outcome.FAILED if failing else Outcome.DONE

    def _compute(self, spans: Sequence[Span]) -> list[list[History]]:
        computed = [
            [*span.tokens] if self._sees_all(span.sequence_id) else [~token for token in span.tokens] for span in spans
        ]
        for table in (self._cells, self._sliding) if self._slides else (self._cells,):
            # All cells are found before the first of them is taken.
            places = iter(table.find(sum(map(len, computed))))
            for span, tokens in zip(spans, computed, strict=True):
                table.put(span.sequence_id, span.position, tokens, places)
        if self.kind.whole_only:
            for span, tokens in zip(spans, computed, strict=True):
                self._read.setdefault(span.sequence_id, []).extend(tokens)
        histories = [self._cells.tokens(span.sequence_id) for span in spans]
        return [
            [history[: len(history) - behind] for behind in reversed(range(span.rows))]
            for span, history in zip(spans, histories, strict=True)
        ]

    def _sees_all(self, sequence_id: int) -> bool:
        """Whether the next token finds what it needs: the window, or the state that goes with the cells."""
        if self.kind.whole_only:
            return self._read.get(sequence_id, []) == self._cells.tokens(sequence_id)
        if self._slides:
            needed = self._cells.tokens(sequence_id)[1 - self.kind.window :]
            return self._sliding.within_window(sequence_id)[1] == needed
        return True

    def _abort(self, spans: Sequence[Span], tokens: int) -> None:
        if self.kind.whole_only:
            self._spoilt.update(span.sequence_id for span in spans)
        if self._slides:
            # What the batch has put into cells is taken back; what was in them before is not.
            for place in self._sliding.find(tokens):
                self._sliding.empty(place)


@dataclass(slots=True, eq=False)
class _Cell:
    place: int
    position: int
    token: int
    owners: set[int] = field(default_factory=set)


class _Cells:
    """A table of cells, shared among sequences. With a window, those that left it are taken again."""

    def __init__(self, count: int, *, window: int = 0) -> None:
        self._table: list[_Cell | None] = [None] * count
        self._window = window
        self._head = 0
        self._sequences: dict[int, dict[int, _Cell]] = {}
        """Of each sequence: its cells by position, in ascending order."""

    @property
    def used(self) -> int:
        return sum(cell is not None for cell in self._table)

    def first(self, sequence_id: int) -> int:
        return next(iter(self._sequences.get(sequence_id, {})), 0)

    def end(self, sequence_id: int) -> int:
        return next(reversed(self._sequences.get(sequence_id, {})), -1) + 1

    def tokens(self, sequence_id: int) -> list[int]:
        return [cell.token for cell in self._sequences.get(sequence_id, {}).values()]

    def within_window(self, sequence_id: int) -> tuple[int, list[int]]:
        """What a token that comes next can see: from which position on, and the tokens."""
        start = self.end(sequence_id) - self._window + 1
        cells = [cell for cell in self._sequences.get(sequence_id, {}).values() if cell.position >= start]
        return (cells[0].position if cells else 0), [cell.token for cell in cells]

    def range(self, sequence_id: int, start: int, end: int) -> dict[int, int]:
        """The tokens at some positions, as far as they are still there."""
        held = self._sequences.get(sequence_id, {})
        return {position: cell.token for position, cell in held.items() if start <= position < end}

    def find(self, count: int) -> list[int]:
        """Places for so many tokens, going round from where the last search ended; none if there are not enough."""
        size, places = len(self._table), []
        for step in range(size):
            place = (self._head + step) % size
            if self._free(self._table[place]):
                places.append(place)
                if len(places) == count:
                    return places
        return []

    def put(self, sequence_id: int, position: int, tokens: Sequence[int], places: Iterator[int]) -> None:
        held = self._sequences.setdefault(sequence_id, {})
        for offset, (token, place) in enumerate(zip(tokens, places, strict=False)):
            self.empty(place)
            cell = _Cell(place, position + offset, token, {sequence_id})
            self._table[place] = held[cell.position] = cell
            self._head = place + 1

    def fill(self, sequence_id: int, first: int, tokens: list[int]) -> bool:
        """Put a saved state into a sequence that is empty; False if there is no room."""
        places = self.find(len(tokens))
        self.put(sequence_id, first, tokens[: len(places)], iter(places))
        return len(places) == len(tokens)

    def empty(self, place: int) -> None:
        """Make a place free that was found, and drop what its sequence has before it: positions have no gaps."""
        cell = self._table[place]
        if cell is None:
            return
        (owner,) = cell.owners
        for position in [position for position in self._sequences[owner] if position <= cell.position]:
            self._drop(owner, position)

    def share(self, source: int, target: int, end: int) -> None:
        held = self._sequences.setdefault(target, {})
        for position, cell in self._sequences.get(source, {}).items():
            if position < end:
                cell.owners.add(target)
                held[position] = cell

    def cut(self, sequence_id: int, end: int) -> None:
        for position in [position for position in self._sequences.get(sequence_id, {}) if position >= end]:
            self._drop(sequence_id, position)

    def _drop(self, sequence_id: int, position: int) -> None:
        cell = self._sequences[sequence_id].pop(position)
        cell.owners.remove(sequence_id)
        if not cell.owners:
            self._table[cell.place] = None

    def _free(self, cell: _Cell | None) -> bool:
        if cell is None:
            return True
        if not self._window or len(cell.owners) > 1:
            return False
        (owner,) = cell.owners
        return self.end(owner) - cell.position >= self._window
