"""Which KV is written to the disk, and how it comes back from there and from the memory beside the context.

Theory of operation. A sequence is kept as blocks of `BLOCK` tokens, named by all that stands before them, so the same
conversation has the same blocks in every slot and after every restart. After each step `Keeper.save` copies the next
finished block of one sequence out of the memory, and the disk's own thread writes it. So what a kill -9 costs is the
block that was being filled, and no conversation is ever written as a whole. What is shorter than a block is kept where
it may be the last word of a conversation: when a client leaves in its prefill, and when the server stops.

When a prompt is placed and the disk has more of it than the slots, its blocks are read ahead, and `Keeper.load` puts
one of them into the memory before each step. Others compute meanwhile; when it ends, for whatever reason, the prompt is
computed from where it came to.

What `Resting` has copied to the memory beside the context comes back in the same way.

Where the memory cannot be cut, a block is a whole state and stands alone. They are written at some of the checkpoints,
so that all together are no more than twice the last, and at the two moments above.

Nothing here waits for a disk: `Disk` answers from memory, and its reads and writes are jobs for somebody else.
"""

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from ds4trio.cache import RamStore, Slot, State
from ds4trio.cache.disk import Block, Match, block_id
from ds4trio.cache.disk.block import TOKEN
from ds4trio.engine.batching.blocks import BLOCK, full_blocks
from ds4trio.engine.batching.cells import Cells
from ds4trio.engine.batching.resting import Resting
from ds4trio.engine.batching.sequence import Loading, Sequence

__all__ = ["Disk", "Keeper"]

Row = TypeVar("Row")

LEAST_TAIL = 32
"""Tokens of a block that is not full and still worth a file."""
AHEAD = 2
"""Blocks that are being read while one is put into the memory."""
SMOOTHING = 0.3
HOPE = 1.2
"""How much faster the disk is believed to be each time that it was not worth asking: so it is asked again one day."""
SAVING_SHARE = 0.5
"""Of what the last step took: so long may saving its blocks take, but one is saved in any case."""
ENDING_SECONDS = 0.25
"""What saving a conversation that ends may take."""
WORDS = 24
"""Tokens whose text says which prompt a block belongs to."""


class Disk(Protocol):
    """What is on disk, as `ds4trio.cache.disk` has it. Nothing here blocks for longer than a look at a directory."""

    root: bytes

    def match(self, tokens: list[int]) -> Match:
        """The longest beginning of ``tokens`` that can be read."""
        ...

    def missing(self, parent: bytes, start: int, tokens: list[int], *, whole: bool = False) -> Block | None:
        """The block to write for these tokens, or None if it is there or on its way."""
        ...

    def read(self, block: Block, then: Callable[[State | None], None]) -> None:
        """Have ``then`` called with a block's payload, in any thread; None: it cannot be had."""
        ...

    def has_room(self, size: int) -> bool:
        """Whether so many bytes would be taken now."""
        ...

    def write(self, block: Block, payload: State, words: str) -> bool:
        """Queue a block to be written; False: not now."""
        ...

    def pin(self, blocks: Iterable[Block]) -> None:
        """Keep these until they are unpinned."""
        ...

    def unpin(self, blocks: Iterable[Block]) -> None:
        """Undo one `pin` of each."""
        ...


class Keeper(Generic[Row]):
    """Saves and loads the sequences of one memory. On the thread that computes.

    Conversations of fewer than ``least`` tokens are not kept; of a longer one each block is, from the first on.
    ``seconds`` says what computing some tokens from a position on would take, 0 while that is unknown; ``wake`` is
    called, from any thread, when there is something to do; ``text`` spells tokens.
    """

    def __init__(
        self,
        cells: Cells[Row],
        disk: Disk | None,
        resting: Resting[Row],
        *,
        least: int,
        seconds: Callable[[int, int], float],
        wake: Callable[[], None],
        text: Callable[[list[int]], str],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._cells = cells
        self._memory = cells.memory
        self._slots = cells.slots
        self._kind = cells.memory.kind
        self._disk = disk
        self._resting = resting
        self._least = least
        self._seconds = seconds
        self._wake = wake
        self._text = text
        self._clock = clock
        self._bytes_per_second = 0.0
        self._block_bytes = 0
        self._arrived = 0.0
        self._refused: set[bytes] = set()
        """Blocks that the memory does not take, although it has room."""
        self.save_seconds = 0.0
        """What copying a block out of the memory took the last time."""

    # --- from the disk ------------------------------------------------------------------------------------------------

    def placed(self, sequence: Sequence[Row], reusable: int) -> None:
        """Look what the disk has of a sequence that got its slot, and begin to load what is worth it."""
        match = self._match(sequence.tokens[:-1])
        if self._kind.whole_only:
            sequence.kept_until, sequence.written = match.length, 2 * match.length
        else:
            sequence.chain = full_blocks(match)
        rested = self._usable(self._resting.store.match(sequence.tokens[:-1]))
        best = rested if rested.length >= match.length else match
        wanted = tuple(block for block in best.blocks if block.whole or block.end > reusable)
        if best.length - reusable < LEAST_TAIL:
            return
        if best is match and not self._pays(wanted, reusable, match.length):
            return
        self._shelf(rested=best is rested).pin(wanted)
        sequence.loading = Loading(wanted, best.length, deque(wanted), rested=best is rested)
        self._read_ahead(sequence.loading)

    def load(self, sequence: Sequence[Row]) -> bool:
        """Put a block that has come into the memory; False if none has. May end the sequence's `Loading`.

        Idle slots give up cells where that needs more than there are.
        """
        loading, slot = sequence.loading, sequence.slot
        assert loading is not None
        assert slot is not None
        if not loading.payloads:
            return False
        block, asked = loading.asked.popleft()
        payload, arrived = loading.payloads.popleft()
        began, end = self._clock(), min(block.end, loading.length)
        if payload is None:
            self.stop(sequence)
        elif self._put(block, payload, slot, range(sequence.computed, end)):
            if loading.rested:
                self._resting.restored(end - sequence.computed, self._clock() - began)
            else:
                self._measure(len(payload), arrived - max(asked, self._arrived))
                self._arrived = arrived
                sequence.from_disk += end - sequence.computed
            sequence.computed = end
            if end == loading.length:
                self.stop(sequence)
            else:
                self._read_ahead(loading)
        else:
            self.stop(sequence)
            if block.whole:
                sequence.computed = 0
                self._cells.forget(slot)
        return True

    def stop(self, sequence: Sequence[Row]) -> None:
        """Load no more of a sequence; what it has stays."""
        if sequence.loading is not None:
            self._shelf(rested=sequence.loading.rested).unpin(sequence.loading.blocks)
            sequence.loading = None

    def _shelf(self, *, rested: bool) -> "RamStore | Disk":
        if rested:
            return self._resting.store
        assert self._disk is not None
        return self._disk

    def _match(self, tokens: list[int]) -> Match:
        """What the disk has of these tokens."""
        if self._disk is None:
            return Match()
        match = self._usable(self._disk.match(tokens))
        if self._kind.window and not self._kind.whole_only and match.blocks and match.blocks[-1].end > match.length:
            # The window that a block holds is the one before its end.
            return Match(match.blocks[:-1], match.blocks[-1].start)
        return match

    def _usable(self, match: Match) -> Match:
        """Without what the memory did not take."""
        for number, block in enumerate(match.blocks):
            if block.id in self._refused:
                return Match(match.blocks[:number], block.start)
        return match

    def _read_ahead(self, loading: Loading) -> None:
        while loading.waiting and len(loading.asked) < AHEAD:
            block = loading.waiting.popleft()
            loading.asked.append((block, self._clock()))

            def then(payload: State | None) -> None:
                loading.payloads.append((payload, self._clock()))
                self._wake()

            if loading.rested:
                then(self._resting.store.read(block))
            else:
                assert self._disk is not None
                self._disk.read(block, then)

    def _put(self, block: Block, payload: State, slot: Slot, positions: range) -> bool:
        start, end = positions.start, positions.stop
        needed = end if block.whole else len(positions)
        if not block.whole:
            self._cells.make_room(needed)
        while True:
            if block.whole:
                self._memory.clear(slot.id)
                if self._memory.restore(slot.id, payload, whole=True) and self._memory.end_position(slot.id) == end:
                    return True
            elif self._memory.append(slot.id, start, end, payload):
                return True
            if not self._kind.window and self._cells.free >= needed:
                # It is not for want of cells, and would not be the next time. (Sliding layers have cells of their own.)
                self._refused.add(block.id)
                return False
            if not self._cells.give_up(needed):
                return False

    def _pays(self, blocks: tuple[Block, ...], start: int, end: int) -> bool:
        """Whether reading is expected to beat computing; what was never measured is supposed to."""
        computing = self._seconds(start, end - start)
        if not computing or not self._bytes_per_second:
            return True
        if sum(block.size for block in blocks) / self._bytes_per_second < computing:
            return True
        self._bytes_per_second *= HOPE
        return False

    def _measure(self, size: int, seconds: float) -> None:
        rate = size / max(seconds, 1e-6)
        self._bytes_per_second += (SMOOTHING if self._bytes_per_second else 1.0) * (rate - self._bytes_per_second)

    # --- to the disk --------------------------------------------------------------------------------------------------

    def save(self, sequences: Iterable[Sequence[Row]], step_seconds: float) -> None:
        """Copy blocks that are full out of the memory, those that the disk has not: one of each sequence in turn."""
        if self._kind.whole_only or self._disk is None:
            return
        due = [
            (sequence, sequence.slot)
            for sequence in sequences
            if sequence.slot is not None
            and sequence.loading is None
            and sequence.computed >= BLOCK * (len(sequence.chain) + 1)
            and len(sequence.tokens) >= self._least
        ]
        until = self._clock() + SAVING_SHARE * step_seconds
        while due:
            due = [
                (sequence, slot)
                for sequence, slot in due
                if self._next(sequence.chain, slot, sequence.tokens, sequence.computed)
            ]
            if self._clock() >= until:
                return

    def checkpoint(self, sequence: Sequence[Row]) -> None:
        """A checkpoint was due at this position; keep it on disk too, if the last one there is far behind.

        All together are no more than twice the prompt, however long that becomes: its end comes first, and those before
        it are each twice as long as the one before.
        """
        position, prompt = sequence.computed, len(sequence.request.prompt)
        if sequence.borders:
            due = position >= 2 * sequence.kept_until and sequence.written + position <= prompt
        else:
            due = sequence.written + position <= 2 * prompt
        if due and prompt >= self._least and self._disk is not None:
            self._whole(sequence)

    def ended(self, sequence: Sequence[Row]) -> None:
        """Keep what a sequence leaves behind that ends now: full blocks, and all of a prefill that was given up."""
        self.stop(sequence)
        slot = sequence.slot
        if slot is None or len(sequence.tokens) < self._least or self._disk is None:
            return
        if self._kind.whole_only:
            if not sequence.answering and sequence.computed - sequence.kept_until >= BLOCK:
                self._whole(sequence)
            return
        until = self._clock() + ENDING_SECONDS
        while self._next(sequence.chain, slot, sequence.tokens, sequence.computed) and self._clock() < until:
            pass
        if not sequence.answering:
            self._block(sequence.chain, slot, sequence.tokens, sequence.computed, tail=True)

    def close(self) -> None:
        """Keep the ends of all conversations, before the server stops. All slots are idle."""
        if self._disk is None:
            return
        for slot in self._slots.slots:
            tokens = self._slots.tokens(slot)
            if len(tokens) < self._least or self._memory.end_position(slot.id) != len(tokens):
                continue
            match = self._match(tokens)
            if match.length == len(tokens):
                continue
            if self._kind.whole_only:
                self._state(slot, tokens)
                continue
            chain = full_blocks(match)
            while self._next(chain, slot, tokens, len(tokens)):
                pass
            self._block(chain, slot, tokens, len(tokens), tail=True)

    def _next(self, chain: list[bytes], slot: Slot, tokens: list[int], computed: int) -> bool:
        """Save the next full block behind ``chain`` of what is computed; False: there is none, or not now."""
        while True:
            before = len(chain)
            if self._block(chain, slot, tokens, computed):
                return True
            if len(chain) == before:
                return False

    def _block(self, chain: list[bytes], slot: Slot, tokens: list[int], computed: int, *, tail: bool = False) -> bool:
        """Have the block behind ``chain`` on disk, or the ``tail`` that is not full; True if it had to be written.

        The id of a full one is in ``chain`` then, whoever has written it.
        """
        assert self._disk is not None
        start = BLOCK * len(chain)
        own = tokens[start : min(start + BLOCK, computed)]
        if len(own) < (LEAST_TAIL if tail else BLOCK) or (tail and len(own) == BLOCK):
            return False
        parent = chain[-1] if chain else self._disk.root
        block = self._disk.missing(parent, start, own)
        if block is not None:
            payload = self._payload(slot, start, block.end)
            if payload is None or not self._write(block, payload, tokens):
                return False
        if not tail:
            chain.append(block.id if block is not None else block_id(parent, array(TOKEN, own)))
        return block is not None

    def _payload(self, slot: Slot, start: int, end: int) -> State | None:
        """The KV of some positions; None where the disk is behind, or the window before their end is gone."""
        assert self._disk is not None
        if not self._disk.has_room(self._block_bytes):
            return None
        window = self._kind.window
        if window and self._memory.first_position(slot.id) > max(start, end - window + 1):
            return None
        payload, self.save_seconds = self._resting.copy(slot, start, end)
        self._block_bytes = len(payload)
        return payload

    def _whole(self, sequence: Sequence[Row]) -> None:
        assert sequence.slot is not None
        if self._state(sequence.slot, sequence.tokens[: sequence.computed]):
            sequence.kept_until = sequence.computed
            sequence.written += sequence.computed

    def _state(self, slot: Slot, tokens: list[int]) -> bool:
        """Have the whole state of a slot that holds ``tokens`` on disk; False: not now."""
        assert self._disk is not None
        block = self._disk.missing(self._disk.root, 0, tokens, whole=True)
        return block is None or self._write(block, self._memory.save(slot.id, whole=True), tokens)

    def _write(self, block: Block, payload: State, tokens: list[int]) -> bool:
        assert self._disk is not None
        words = " ".join(self._text(tokens[:WORDS]).split()) if block.start == 0 else ""
        return self._disk.write(block, payload, words)
