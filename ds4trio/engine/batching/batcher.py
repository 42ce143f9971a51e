"""What becomes of sequences: placed where most of their prompt is known, computed batch by batch, kept or given up.

Theory of operation. A step is one batch. Before it, sequences without a slot get one, with as much of their prompt as
the slots have; then the scheduler says how many tokens of each go in. After it, what was computed is booked, and
where a row of logits came out the sequence's writer continues the answer. Three things can go wrong, and none of them
ends a request: a batch is aborted because one of its owners left (the others repeat that step), the KV is full (idle
prefixes go first, then the youngest sequence waits with its state saved), or two requests want the same prefix at the
same time (the second waits until the first has computed it).

Where the memory cannot cut a suffix off, checkpoints are the way back: at the end of the system prompt, at the last
turns, at every `CHECKPOINT_EVERY` tokens and at the prompt's end. Chunks end where one is due.

No thread, no mailbox, no llama.cpp: `Memory` is what computes, and a test's may be a table.
"""

import logging
import math
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Generic, TypeVar

from ds4trio.cache import Checkpoint, KvUse, Match, Placement, SlotTable, common_prefix
from ds4trio.engine.base import Divergence, EngineError, FinishReason, GrammarError
from ds4trio.engine.batching.cells import Cells
from ds4trio.engine.batching.divergence import BEFORE, FROM, divergence
from ds4trio.engine.batching.keeper import Disk, Keeper
from ds4trio.engine.batching.leaders import finds_leader, follows
from ds4trio.engine.batching.memory import Memory, Outcome
from ds4trio.engine.batching.resting import Resting
from ds4trio.engine.batching.scheduler import Scheduler
from ds4trio.engine.batching.sequence import Released, Sequence, Update
from ds4trio.engine.breakdown import breakdown

__all__ = ["Batcher", "borders"]

log = logging.getLogger("ds4trio.engine")

Row = TypeVar("Row")

CHECKPOINT_EVERY = 2048
"""Tokens of prefill."""
LAST_TURNS = 4
"""Turns at the end of a prompt that get a checkpoint each."""
GENERATION_PROMPT = 16
"""Tokens that begin an answer, at most: what is before them is worth a checkpoint."""
WORTH_SAVING = 64
"""Cells of a sequence's own: fewer are computed again sooner than saved and restored with all the others."""
ROLLING_SHARE = 0.05
"""Of a chunk's time, what saving the state after it may take: a cancel then loses no more than the chunk that runs."""


def borders(prompt_tokens: int, turns: tuple[int, ...]) -> list[int]:
    """Where checkpoints of a prompt are due, ascending, where its memory needs them.

    The last one is the start of the generation prompt where that is known: the next turn may write the beginning of
    an answer differently. Else it is before the last token, which the same request again needs computed.
    """
    every = range(CHECKPOINT_EVERY, prompt_tokens, CHECKPOINT_EVERY)
    end = () if turns and turns[-1] >= prompt_tokens - GENERATION_PROMPT else (prompt_tokens - 1,)
    return sorted({*turns[:1], *turns[-LAST_TURNS:], *every, *end} - {0})


class Batcher(Generic[Row]):
    """Computes sequences on one memory. Everything here runs on the one thread that computes.

    ``state_bytes`` limits the checkpoints, and as much again the states of those that wait for cells; what goes beyond
    is computed again. Conversations that rest may take ``rest_bytes`` outside of the cells. ``tell`` hands an update to
    a sequence's listener; ``flush`` sends what was told, unless it can wait for the seconds that it gets. ``text``
    spells tokens. What is at least ``least_kept`` tokens long is kept on ``disk``, if there is one; ``wake`` is called,
    from any thread, when a block of it has come and a step is due. With ``draft`` what answers repeat is guessed and
    computed ahead, where the memory can roll back.
    """

    def __init__(
        self,
        memory: Memory[Row],
        *,
        slots: int,
        state_bytes: int,
        rest_bytes: int,
        scheduler: Scheduler,
        tell: Callable[[Sequence[Row], Update], None],
        flush: Callable[[float], None],
        text: Callable[[list[int]], str],
        disk: Disk | None = None,
        least_kept: int = 0,
        wake: Callable[[], None] = lambda: None,
        draft: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.sequences: list[Sequence[Row]] = []
        """All that are not ended, oldest first."""
        self._memory = memory
        self._kind = memory.kind
        self._slots = SlotTable(slots, memory.kind, checkpoint_bytes=state_bytes)
        self._cells = Cells(memory, self._slots)
        self._resting = Resting(self._cells, space_bytes=rest_bytes, seconds=scheduler.seconds, clock=clock)
        self._state_bytes = state_bytes
        self._scheduler = scheduler
        self._tell = tell
        self._flush = flush
        self._text = text
        self._clock = clock
        self._save_seconds = 0.0
        self._drafts = draft and not memory.kind.whole_only
        self._room_for_drafts = True
        self._keeper = Keeper(
            self._cells,
            disk,
            self._resting,
            least=least_kept,
            seconds=scheduler.seconds,
            wake=wake,
            text=text,
            clock=clock,
        )

    def add(self, sequence: Sequence[Row]) -> None:
        """Compute a sequence from the next step on; its listener hears `Released` in the end."""
        self.sequences.append(sequence)

    @property
    def use(self) -> KvUse:
        """What the memory holds, but for the latest tokens of answers."""
        saved = sum(len(sequence.saved.data) for sequence in self.sequences if sequence.saved is not None)
        beside = self._slots.checkpoint_bytes + saved + self._resting.store.size
        return replace(self._slots.use(self._memory.cells), beside_bytes=beside)

    def drop_cancelled(self) -> None:
        """Let go of those that were cancelled."""
        for sequence in [sequence for sequence in self.sequences if sequence.cancelled]:
            self._end(sequence)

    def close(self) -> None:
        """Let go of all; what they leave is kept on disk."""
        for sequence in [*self.sequences]:
            self._end(sequence)
        self._keeper.close()

    def step(self) -> bool:
        """One batch: place, compose, decode, and act on what came of it. Blocks.

        False: nothing could be done. Then nothing can before another request comes, one leaves, or a block has come.
        """
        before = len(self.sequences)
        self._place_all()
        moved = self._load_all() or len(self.sequences) < before
        placed = [sequence for sequence in self.sequences if sequence.slot is not None and sequence.loading is None]
        if self._drafts:
            self._guess(placed)
        loading = len(placed) < len(self.sequences) and any(sequence.loading for sequence in self.sequences)
        take = self._scheduler.plan(placed, reserved=self._keeper.save_seconds, awaited=loading)
        work = [(sequence, count) for sequence, count in zip(placed, take, strict=True) if count]
        if not work:
            return moved
        owners = [sequence for sequence, _ in work]
        spans = [sequence.span(count) for sequence, count in work]
        expected = self._scheduler.expected(placed, take)
        # A batch may take seconds: what is known before it starts is told before it starts. And no sooner: whoever
        # hears of it wants the interpreter, which is free while llama.cpp computes (a hop that is fought for costs a
        # step 5 %).
        self._flush(expected)
        started = self._clock()
        # An abort spoils every sequence of a batch where the memory cannot roll back, so there it may only hit a
        # batch that is one sequence's own.
        may_abort = not self._kind.whole_only or len(owners) == 1
        gives_way = 0.0 if loading else self._scheduler.gives_way(placed, expected)
        outcome, rows = self._memory.decode(spans, owners, may_abort=may_abort, gives_way=gives_way)
        match outcome:
            case Outcome.DONE:
                seconds = self._clock() - started
                self._scheduler.learn(placed, take, seconds)
                self._room_for_drafts = True
                for (sequence, count), of_span in zip(work, rows, strict=True):
                    self._advance(sequence, count, of_span, seconds)
            case Outcome.ABORTED:
                self._scheduler.lost()
                for sequence in owners:
                    self._roll_back(sequence)
            case Outcome.NO_CELLS if any(count > sequence.left for sequence, count in work):
                self._room_for_drafts = False  # nobody gives up cells for a guess
            case Outcome.NO_CELLS:
                self._make_room(sum(take))
            case Outcome.FAILED:
                for sequence in owners:
                    self._fail(sequence, EngineError("llama.cpp could not compute a batch"))
            case Outcome.SKIPPED:
                pass
        took = self._clock() - started
        self._keeper.save(self.sequences, took)
        self._resting.charge(took)
        return True

    def tidy(self) -> bool:
        """While nobody wants anything: copy a block of what rests, so that its cells cost nobody anything later.

        False: there is nothing to do.
        """
        return self._resting.tidy()

    def _guess(self, placed: list[Sequence[Row]]) -> None:
        """Guess how answers go on."""
        for sequence in placed:
            if self._room_for_drafts and sequence.answering and sequence.left == 1:
                sequence.guess()
            else:
                sequence.guessed, sequence.likelihoods = [], []

    def _load_all(self) -> bool:
        """Go on with all that come from the disk; False if nothing has come."""
        some = False
        for sequence in [*self.sequences]:
            if sequence.loading is None:
                continue
            self._flush(math.inf)
            if not self._keeper.load(sequence):
                continue
            some = True
            self._book(sequence)
            if sequence.loading is None:
                sequence.loaded()
            self._tell(sequence, sequence.progress)
        return some

    # --- where a sequence goes ----------------------------------------------------------------------------------------

    def _place_all(self) -> None:
        waiting = [sequence for sequence in self.sequences if sequence.slot is None]
        if not waiting:
            return
        short_of_cells = [sequence.priority for sequence in waiting if sequence.preempted]
        for sequence in waiting:
            if sequence.preempted:
                continue
            if not sequence.begun and any(priority <= sequence.priority for priority in short_of_cells):
                # Whoever has begun and waits for cells would wait for ever if newcomers took them.
                continue
            self._cells.look_at_windows()
            if follows(sequence):
                continue
            match = self._slots.match(sequence.tokens)
            if not finds_leader(sequence, match, self.sequences, self._kind):
                self._place(sequence, match)

    def _place(self, sequence: Sequence[Row], match: Match) -> None:
        """Give a sequence its slot, with as much of its prompt as any slot still has."""
        self._flush(math.inf)  # bringing a state back may take its time
        if not sequence.begun:
            sequence.divergence = self._divergence(sequence, match)
        saved = sequence.saved
        if sequence.begun and (running := [other for other in self.sequences if other.slot is not None]):
            # It lost its cells once, and gets them back when there is room for all it had: for its own state, or for
            # what others share with it and the rest computed again.
            for other in running:
                self._book(other)
            room = self._memory.cells - self._slots.busy_cells
            if saved is not None and saved.position > room:
                saved = None
            if saved is None and sequence.left - match.reusable > room:
                sequence.preempted = True  # until another of those that run has ended
                return
        placement = self._slots.place(sequence.tokens, match, saved=saved, older=sequence.older)
        if placement is None:
            return
        slot, keep = placement.slot, placement.keep
        if not self._cells.bring_back(placement):
            self._cells.forget(slot)
            log.warning("sequence %d does not hold the %d positions it should: computed anew", slot.id, keep)
            keep = 0
        elif placement.from_whole_state:
            sequence.rolling = placement.checkpoint
        sequence.saved, sequence.older = None, []
        sequence.place(slot, keep)
        if self._kind.checkpoint is not None:
            due = borders(len(sequence.request.prompt), sequence.request.turns)
            sequence.borders = [border for border in reversed(due) if border > keep]
        if sequence.writer is None:
            try:
                sequence.writer = sequence.begin()
            except Exception as error:  # one request's fault must not end the others
                self._fail(sequence, _failure(error))
                return
        self._keeper.placed(sequence, keep)
        end = sequence.loading.length if sequence.loading is not None else sequence.computed
        self._resting.make_way(end, len(sequence.tokens) - end)
        self._tell(sequence, sequence.progress)

    def _divergence(self, sequence: Sequence[Row], match: Match) -> Divergence | None:
        nearest = self._slots.nearest(match)
        if nearest is None:
            return None
        slot, position = nearest.slot, nearest.shared
        return divergence(
            sequence.tokens,
            position,
            cached=self._slots.tokens(slot, max(0, position - BEFORE), position + FROM),
            lost=self._slots.length(slot) - position,
            turns=sequence.request.turns,
            text=self._text,
        )

    # --- after a batch ------------------------------------------------------------------------------------------------

    def _advance(self, sequence: Sequence[Row], count: int, rows: Seq[Row], seconds: float) -> None:
        """Book a computed span and continue the answer where it reached the end of what is known."""
        assert sequence.slot is not None
        count = min(count, sequence.left)  # guesses are booked once they are found to be right
        sequence.computed += count
        if count > 1 or sequence.computed <= len(sequence.request.prompt):
            self._book(sequence)
            if self._kind.checkpoint is not None:
                self._checkpoint(sequence, seconds)
        if rows:
            self._continue(sequence, rows)
        elif not sequence.answering:  # else it is a text that the guide forced, and not the prompt's
            self._tell(sequence, sequence.progress)

    def _book(self, sequence: Sequence[Row]) -> None:
        """Let others share what was computed. Single tokens of an answer wait for its end."""
        assert sequence.slot is not None
        known = self._slots.length(sequence.slot)
        self._slots.extend(sequence.slot, sequence.tokens[known : sequence.computed])

    def _checkpoint(self, sequence: Sequence[Row], seconds: float) -> None:
        """Save the state where that is due, and where a cancel would lose it and saving is cheap."""
        slot = sequence.slot
        assert slot is not None
        due = bool(sequence.borders) and sequence.borders[-1] == sequence.computed
        if not due and not (self._kind.whole_only and self._save_seconds <= ROLLING_SHARE * seconds):
            return
        started = self._clock()
        whole = self._kind.checkpoint == "whole"
        checkpoint = Checkpoint(sequence.computed, self._memory.save(slot.id, whole=whole), whole)
        self._save_seconds = self._clock() - started
        sequence.rolling = checkpoint
        if due:
            sequence.borders.pop()
            self._slots.note(slot, checkpoint)
            if self._kind.whole_only:
                self._keeper.checkpoint(sequence)

    def _continue(self, sequence: Sequence[Row], rows: Seq[Row]) -> None:
        """Continue an answer from the row behind its latest token, and as far as what was guessed to follow is right.

        Each token is drawn from its own row as if nothing had been guessed, so no answer's distribution changes.
        """
        assert sequence.writer is not None
        drafted, accepted = sequence.guessed[: len(rows) - 1], 0
        failure: EngineError | None = None
        reason: FinishReason | None = None
        while reason is None:
            try:
                extension = sequence.writer.extend(rows[accepted])
            except Exception as error:  # one request's fault must not end the others
                failure = _failure(error)
                break
            if not sequence.answering:
                sequence.answered = time.perf_counter()
                self._tell(sequence, sequence.progress)
            sequence.tokens += extension.tokens
            for delta in extension.deltas:
                self._tell(sequence, delta)
            reason = extension.reason
            right = common_prefix(drafted[accepted:], extension.tokens) if drafted else 0
            accepted += right
            if right < len(extension.tokens):
                break
        if drafted:
            self._settle(sequence, len(drafted), accepted)
        if failure is not None:
            self._tell(sequence, failure)
        elif reason is not None:
            self._tell(sequence, sequence.finished(reason))
        else:
            return
        self._end(sequence)

    def _settle(self, sequence: Sequence[Row], drafted: int, accepted: int) -> None:
        """Keep what was guessed right."""
        assert sequence.slot is not None
        sequence.computed += accepted
        sequence.drafted += drafted
        sequence.accepted += accepted
        if accepted < drafted:
            self._memory.truncate(sequence.slot.id, sequence.computed)

    def _roll_back(self, sequence: Sequence[Row]) -> None:
        """After an abort: the batch never happened. Where the memory cannot roll back, go to the latest checkpoint."""
        slot = sequence.slot
        assert slot is not None
        if not self._kind.whole_only:
            self._memory.truncate(slot.id, sequence.computed)
            return
        # Whatever was saved of this sequence since it was placed is later than what it began with.
        latest = sequence.rolling or next(reversed(slot.checkpoints), None)
        sequence.computed = 0
        if latest is not None and self._cells.bring(Placement(slot, None, latest.position, latest)):
            sequence.computed = latest.position
        else:
            self._memory.clear(slot.id)
        self._slots.cut(slot, sequence.computed)

    # --- when cells run short -----------------------------------------------------------------------------------------

    def _make_room(self, tokens: int) -> None:
        """The KV has no cells for the batch: idle prefixes go first, then the youngest sequence waits."""
        if self._cells.give_up(tokens):
            return
        placed = [sequence for sequence in self.sequences if sequence.slot is not None]
        if len(placed) == 1:
            self._fail(placed[0], EngineError("the KV cache has no room for this request; try a larger --ctx"))
            return
        # The least urgent, and of those the youngest: max takes the first of equals.
        self._preempt(max(reversed(placed), key=lambda sequence: sequence.priority))
        log.info("KV is full: one of %d requests waits and goes on later", len(placed))

    def _preempt(self, sequence: Sequence[Row]) -> None:
        """Take a sequence's cells; its state is kept outside of them while there is room for it."""
        slot = sequence.slot
        assert slot is not None
        self._keeper.stop(sequence)
        self._book(sequence)
        kept = sum(len(other.saved.data) for other in self.sequences if other.saved is not None)
        if (
            self._slots.own_cells(slot) >= WORTH_SAVING
            and kept + self._memory.state_bytes(slot.id, whole=True) <= self._state_bytes
        ):
            state = self._memory.save(slot.id, whole=True)
            sequence.saved, sequence.older = Checkpoint(sequence.computed, state, True), slot.checkpoints
        self._cells.forget(slot)
        self._slots.release(slot)
        sequence.slot, sequence.computed, sequence.rolling, sequence.preempted = None, 0, None, True

    def _fail(self, sequence: Sequence[Row], error: EngineError) -> None:
        """End a sequence of which nobody knows what is in its KV."""
        if sequence.slot is not None:
            self._cells.forget(sequence.slot)
            sequence.computed = 0
        self._tell(sequence, error)
        self._end(sequence)

    def _end(self, sequence: Sequence[Row]) -> None:
        """Leave the KV as a prefix for others and tell the request's nursery that nothing works for it."""
        self.sequences.remove(sequence)
        if sequence.writer is not None and not sequence.keeps_writer:
            sequence.writer.close()
        if sequence.slot is not None:
            self._book(sequence)
            self._keeper.ended(sequence)
            self._slots.release(sequence.slot)
            sequence.slot = None
        self._tell(sequence, Released())
        for other in self.sequences:
            other.preempted = False


def _failure(error: Exception) -> EngineError:
    """What a request hears of an exception. Only an `EngineError` may say more: others may quote a prompt."""
    if isinstance(error, EngineError):
        # A grammar's fault may quote the request, and so may what caused an error.
        said = type(error).__name__ if isinstance(error, GrammarError) else str(error)
        log.info("a request failed: %s%s", said, f"\n{breakdown(error.__cause__)}" if error.__cause__ else "")
        return error
    log.error("an answer could not be continued: %s", breakdown(error))
    return EngineError(f"the answer could not be continued ({type(error).__name__}); this is a defect of the server")
