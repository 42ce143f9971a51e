"""Which tokens go into the next step. Pure: numbers in, numbers out, and the seconds of each step are handed in.

Whoever decodes gets its one token in each step. What else a step holds, chunks of prompts, is bounded by what the step
is expected to take (`StepCost`): so long does a running stream wait for its next token, and a newcomer for its first
step. The rules:

*Beside others* a step is filled with prompts as long as it is expected to stay within ``max_stall``. A few tokens go in
in any case, so a machine whose decoding alone takes longer gets on too.

*Alone* a prompt keeps nobody waiting but a newcomer, so its steps may take twice that; and twice that again where a
newcomer stops them, which it does as long as less than half is lost. A stopped step is work thrown away, of which there
may be some (`LOST_SHARE` of all): where none was for long, steps are longer still, and are stopped for as long as a
newcomer would otherwise wait for more than the twice. They are doubled further only where each doubling saves much:
where a step costs about the same whatever it holds. A doubling of which nothing is known is tried after one that did,
and small steps come first of all, to have something to compare with. Long steps end where a block does, so that all of
them can go to the disk: a kill costs one step, and not what the one before it left of a block too.

*Guesses* of what answers go on with are computed ahead as far as that is expected to bring more tokens per second and
costs no other answer more than a tenth of its speed, within ``max_stall``. Not beside prompts, which have a better use
for a step's time.

*The order* of prompts: a short text that was forced upon a running answer, then the most urgent, then the one with the
least left. But the oldest prompt comes first whenever it has had less than half (`LONG_SHARE`) of the prompts' time
since it became the oldest. So a short prompt overtakes a long one at once as long as that one has had its share, and
nothing starves, since each becomes the oldest one day.

*Memories that cannot roll back* want a chunk alone in its batch: it takes turns with a step of all that decode, and
both together stay within ``max_stall``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log2
from typing import Protocol

from ds4trio.engine.batching.blocks import BLOCK
from ds4trio.engine.batching.cost import StepCost, work_of

__all__ = ["Scheduler", "Share", "Work"]

# Prompt tokens that a step holds in any case: beside others or while nothing is known, and alone.
LEAST = 16
LEAST_ALONE = 64

# Alone, a prompt's step may take so many times the longest stall, twice as many where it gives way to newcomers, up to
# so many where no step was lost for long, and more where a doubling saves 30 % per token.
ALONE_STALLS = 2
LONGEST_ALONE_STALLS = 8
SAVES = 0.7
# A step may take this part of the time since the last one that was lost.
LOST_SHARE = 0.25

# Guesses are computed where that makes a step's answers so much faster in all, and none of them slower than this.
PAYS = 1.05
UNHURT = 0.9
# From 64 tokens on llama.cpp's flash attention on a CPU computes in another way, and the same tokens get slightly other
# logits: an answer must not depend on what was guessed.
MOST_AHEAD = 63

# The oldest prompt's part of the time that several prompts share.
LONG_SHARE = 0.5
# What it had beyond that, alone, lets others pass; but it never stands still for longer than twice so many steps.
AHEAD_STEPS = 8

# Steps of answers alone are many and alike: one of so many is enough to learn from.
ALIKE = 4

# Forced text is short (the frame of a tool call). A longer one is an answer that lost its KV and is computed again.
FORCED = 64


@dataclass(slots=True)
class Share:
    """The scheduler's ledger of a prompt: the seconds spent on prompts while it was the oldest, and on itself."""

    waited: float = 0.0
    served: float = 0.0


class Work(Protocol):
    """A sequence, as far as the scheduler is concerned."""

    share: Share

    @property
    def computed(self) -> int:
        """Tokens in its KV: the position of its next one."""
        ...

    @property
    def left(self) -> int:
        """Tokens that are known and not computed, at least 1."""
        ...

    @property
    def reach(self) -> int:
        """How many of these may go into one step, at least 1."""
        ...

    @property
    def answering(self) -> bool:
        """Whether it has its first token."""
        ...

    @property
    def priority(self) -> int:
        """Lower goes first; 0 is normal."""
        ...

    @property
    def likelihoods(self) -> Sequence[float]:
        """Of each token that is guessed to come next: how likely all up to it are right. Falling; empty for none."""
        ...


class Scheduler:
    """Decides the steps of one context, and learns what they take.

    A step holds at most ``ubatch`` tokens, which is at least twice the number of sequences, and should take at most
    ``max_stall`` seconds. ``mixed`` is false for memories that cannot roll back. ``stoppable`` says that a running step
    can be stopped and computed again.
    """

    def __init__(self, *, ubatch: int, max_stall: float, mixed: bool = True, stoppable: bool = False) -> None:
        self._ubatch = ubatch
        self._max_stall = max_stall
        self._mixed = mixed
        self._stoppable = stoppable and mixed
        self._cost = StepCost()
        self._chunk_was_last = False
        self._since_lost = inf
        self._alike = 0
        self._usual_answers, self._usual_seconds = 0, 0.0

    def plan(self, works: Sequence[Work], *, reserved: float = 0.0, awaited: bool = False) -> list[int]:
        """How many tokens of each of ``works`` the next step takes; they come in the order of arrival, oldest first.

        ``reserved`` seconds of a stall are taken already, by something else than computing. With ``awaited`` somebody
        who is not among them waits for the step's end too.
        """
        if all(map(_decodes, works)):
            return self._ahead(works)
        prompts = self._in_order(works)
        if len(works) == 1 and not awaited:
            return [self._alone(works[0])]

        take = [0] * len(works)
        decoding = [index for index, work in enumerate(works) if _decodes(work)]
        stall = self._max_stall - min(reserved, self._max_stall / 2)
        decode = len(decoding), sum(work_of(works[index].computed, 1) for index in decoding)
        if self._mixed or (decoding and self._chunk_was_last):
            for index in decoding:
                take[index] = 1
        if self._mixed:
            self._fill(take, works, prompts, stall, beside=decode)
        elif not any(take):
            turn = self._cost.predict(*decode) if decoding else 0.0
            self._fill(take, works, prompts[:1], stall - turn, beside=(0, 0.0))
        return take

    def expected(self, works: Sequence[Work], take: Sequence[int]) -> float:
        """Seconds that the step of ``take`` is expected to take; 0.0 before any step was measured."""
        if len(works) == sum(take) == self._usual_answers:
            return self._usual_seconds
        done = sum(work_of(work.computed, count) for work, count in zip(works, take, strict=True))
        return self._cost.predict(sum(take), done)

    def gives_way(self, works: Sequence[Work], seconds: float) -> float:
        """For how long a step that takes so many ``seconds`` may be stopped by a newcomer."""
        lone = len(works) == 1 and not works[0].answering
        if not (self._stoppable and lone and seconds > self._max_stall):
            return 0.0
        may_be_lost = seconds / 2
        if seconds <= LOST_SHARE * self._since_lost:
            may_be_lost = max(may_be_lost, seconds - ALONE_STALLS * self._max_stall)
        return may_be_lost

    def lost(self) -> None:
        """Note that a step was stopped, and its work thrown away."""
        self._since_lost = 0.0

    def learn(self, works: Sequence[Work], take: Sequence[int], seconds: float) -> None:
        """Note what the step that computed ``take`` took, before ``works`` are advanced by it. It was not empty."""
        tokens = sum(take)
        self._since_lost += seconds
        if tokens == len(works) and all(map(_decodes, works)):
            self._chunk_was_last = False
            self._usual_answers, self._usual_seconds = tokens, seconds
            self._alike += 1
            if self._alike % ALIKE and self._cost.known(tokens):
                return
        else:
            self._alike = 0
        prompts = [index for index, work in enumerate(works) if not _decodes(work)]
        self._chunk_was_last = any(take[index] for index in prompts)
        spans = [(count, work_of(work.computed, count)) for work, count in zip(works, take, strict=True)]
        self._cost.learn(tokens, sum(work for _, work in spans), seconds)
        parts = self._cost.parts(spans, seconds)
        spent = sum(parts[index] for index in prompts)
        if spent and (oldest := _oldest(works)) is not None:
            share = works[oldest].share
            share.served += parts[oldest]
            least = (share.served - AHEAD_STEPS * max(seconds, self._max_stall)) / LONG_SHARE
            share.waited = max(least, share.waited + spent)

    def seconds(self, position: int, tokens: int) -> float:
        """What a prefill of so many tokens from a position on would take alone; 0.0 before any step was measured."""
        size = min(self._ubatch, max(self._cost.horizon // 2, LEAST_ALONE))
        return self._cost.predict(size, work_of(position + tokens // 2, size)) * tokens / size

    def _ahead(self, works: Sequence[Work]) -> list[int]:
        """A step of running answers alone: one token of each, and of what is guessed to follow as much as pays."""
        if not any(work.likelihoods for work in works):
            return [1] * len(works)
        # The likeliest first, and of those that are equally likely one of each answer in turn.
        guesses = sorted(
            (-likely, place, index) for index, work in enumerate(works) for place, likely in enumerate(work.likelihoods)
        )
        tokens, done = len(works), sum(work_of(work.computed, 1) for work in works)
        plain = self._cost.predict(tokens, done)
        take, best = [1] * tokens, [1] * tokens
        expected = [1.0] * tokens
        most = 0.0
        for unlikely, _, index in guesses[: max(0, min(self._ubatch, MOST_AHEAD) - tokens)]:
            done += work_of(works[index].computed + take[index], 1)
            take[index] += 1
            expected[index] -= unlikely
            tokens += 1
            seconds = self._cost.predict(tokens, done)
            if not 0 < seconds <= self._max_stall:
                break
            gain = sum(expected) / len(works) * plain / seconds
            if gain > max(most, PAYS) and min(expected) * plain >= UNHURT * seconds:
                best, most = [*take], gain
        return best

    def _in_order(self, works: Sequence[Work]) -> list[int]:
        """Those that do not decode, first served first."""
        oldest = _oldest(works)
        if oldest is not None:
            share = works[oldest].share
            owed = share.served < LONG_SHARE * share.waited

        def turn(index: int) -> tuple[bool, bool, int, int]:
            work = works[index]
            return not _forced(work), not (index == oldest and owed), work.priority, work.left

        return sorted((index for index, work in enumerate(works) if not _decodes(work)), key=turn)

    @property
    def _longest_alone(self) -> float:
        """Seconds that a step of a prompt that is alone may take."""
        if not self._stoppable:
            return ALONE_STALLS * self._max_stall
        affordable = min(LOST_SHARE * self._since_lost, LONGEST_ALONE_STALLS * self._max_stall)
        return max(2 * ALONE_STALLS * self._max_stall, affordable)

    def _alone(self, work: Work) -> int:
        most = min(work.reach, self._ubatch)
        least = LEAST_ALONE if self._cost.known(LEAST) else LEAST
        trusted = min(most, max(self._cost.horizon, least))
        fitting = self._cost.fit(work.computed, trusted, self._longest_alone)
        size = max(fitting, min(most, least))
        larger = least
        while larger < most and least == LEAST_ALONE:
            larger = min(2 * larger, most)
            if larger <= size:
                continue
            worth = self._saves(work, larger, size) if self._cost.known(larger) else self._may_save(work, larger)
            if not worth:
                break
            size = larger
        # A few tokens more cost less than a step of their own.
        if most - size < LEAST:
            size = most
        beyond_a_block = (work.computed + size) % BLOCK if size < work.reach else 0
        return max(size - beyond_a_block, min(size, BLOCK))

    def _may_save(self, work: Work, unknown: int) -> bool:
        """Whether to try a size: half of it saves enough for sure."""
        half = unknown // 2
        sure = self._cost.sure(half, work_of(work.computed, half))
        return sure and self._saves(work, half, LEAST if half == LEAST_ALONE else half // 2)

    def _saves(self, work: Work, larger: int, smaller: int) -> bool:
        """Whether a step of ``larger`` tokens is worth its time: each doubling saves enough, of ``smaller`` and of all.

        The prediction for one size may be a third off, but hardly so much that it hides all the doublings before it.
        """
        doublings = ((other, log2(larger / other)) for other in (smaller, LEAST))
        rate = self._rate(work, larger)
        return all(rate <= SAVES**count * self._rate(work, other) for other, count in doublings)

    def _rate(self, work: Work, tokens: int) -> float:
        return self._cost.predict(tokens, work_of(work.computed, tokens)) / tokens

    def _fill(
        self,
        take: list[int],
        works: Sequence[Work],
        prompts: Sequence[int],
        seconds: float,
        *,
        beside: tuple[int, float],
    ) -> None:
        """Put prompts into a step of ``seconds`` that holds ``beside``, tokens and their work, already."""
        decoding, done = beside
        tokens = decoding
        most = min(self._ubatch, max(self._cost.horizon, decoding + LEAST))
        for index in prompts:
            work = works[index]
            room = min(work.reach, most - tokens)
            fitting = self._cost.fit(work.computed, room, seconds, beside=(tokens, done))
            take[index] = count = max(fitting, min(room, LEAST - (tokens - decoding)))
            if count < work.reach:
                return
            tokens += count
            done += work_of(work.computed, count)


def _decodes(work: Work) -> bool:
    return work.answering and work.left == 1


def _forced(work: Work) -> bool:
    return work.answering and work.left <= FORCED


def _oldest(works: Sequence[Work]) -> int | None:
    """The prompt that came first, if there is one."""
    return next((index for index, work in enumerate(works) if not _decodes(work) and not _forced(work)), None)
