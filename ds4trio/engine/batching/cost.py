"""How long a step takes: predicted, measured, corrected. Pure: the seconds are handed in.

A step computes ``tokens`` tokens of some sequences. What it costs grows with the tokens, and through attention with the
positions that each of them looks back at: the ``work`` of a step is the sum of its tokens' positions. How much it grows
depends on the size of the batch, and not smoothly, since kernels change with it (2 cores, flash attention: 64 tokens
cost no more than 48 at position 2000). So the sizes are put in buckets, one for each power of two, and each has a line
of its own:

    seconds = base + per_token · tokens + per_position · work        none of the three is ever negative

The base is there because a bucket is a factor of two wide: where memory is the limit, 127 tokens cost what 64 do.

*Learning.* A small Kalman filter per bucket: it knows for each combination of the three how sure it is, so a line fits
after about five steps, whatever they were. Its doubt grows a little with each step, which lets it follow a machine that
changes, and has a ceiling, so hours of steps that are all alike do not make it believe anything about others.

*Positions.* After a long prompt a line knows little of the beginning of the next one: what was put down to positions
may be due to tokens. So nearer to position 0 than it was measured lately, a bucket is not believed to be much cheaper.

*Surprises.* A step that takes 1.5 times more or less than a known bucket expects counts as 1.5 times only: one of them
may be an accident. Two in a row in the same direction are a machine that has changed its speed, which is true for the
buckets that are not in use just now as well: all of them are scaled.

*Buckets without a measurement* are predicted from the nearest measured ones: from the smaller one at the cost per token
of its largest steps, from the larger one by its line, the base included. Both err on the dear side as a rule, so the
cheaper one is believed. The same goes for buckets that were measured once or long ago, which count as a third opinion:
so none is avoided for ever because of a bad day.
"""

from bisect import bisect_right
from collections.abc import Sequence
from operator import mul
from typing import NamedTuple

__all__ = ["Line", "StepCost", "work_of"]


class Line(NamedTuple):
    """What a step costs; ``depth`` is the mean position where that was measured lately."""

    base: float = 0.0
    per_token: float = 0.0
    per_position: float = 0.0
    depth: float = 0.0

    def seconds(self, tokens: int, work: float) -> float:
        """What a step of so many tokens and so much work costs."""
        seconds = self.base + self.per_token * tokens + self.per_position * work
        if work < tokens * self.depth:
            # Nearer to position 0 than it was measured: it does not get cheaper faster than is likely.
            there = self.base + self.per_token * tokens + self.per_position * tokens * self.depth
            seconds = max(seconds, there * (POSITIONS + work / tokens) / (POSITIONS + self.depth))
        return seconds


# The variance of what a line says, in units of that of one measurement: before the first, and what each step adds.
DOUBT = 100.0
DRIFT = 0.1

# Positions at which attention is supposed to cost what the rest of a token does, before anything is known.
POSITIONS = 4096

# A known bucket has been measured so often, since the first step of a kind may load, allocate or compile something, and
# within so many steps.
ENOUGH = 2
LATELY = 128
SURPRISE = 1.5
# What was measured at some mean position says something up to twice that, and up to twice this in any case.
NEAR = 256

# How much the latest step counts in the mean position of those of its bucket.
LATEST = 0.3

# What every step takes at least: no clock is finer.
LEAST_SECONDS = 1e-6


def work_of(position: int, tokens: int) -> float:
    """The positions that ``tokens`` tokens from ``position`` on look at, in all."""
    return tokens * (position + tokens / 2)


class StepCost:
    """Predicts the seconds of a step and learns from each measured one."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._steps = 0
        self._surprise = 1.0

    def predict(self, tokens: int, work: float) -> float:
        """The seconds that a step of so many tokens and so much work will take; 0.0 before any step was measured."""
        return self._line(tokens, work).seconds(tokens, work)

    def known(self, tokens: int) -> bool:
        """Whether steps of about so many tokens were measured often enough to be judged."""
        bucket = self._buckets.get(_floor(tokens))
        return bucket is not None and bucket.measured >= ENOUGH

    def sure(self, tokens: int, work: float) -> bool:
        """Whether steps like this one are known, lately and not only much nearer to position 0."""
        bucket = self._buckets.get(_floor(tokens))
        return bucket is not None and self._trusts(bucket) and work <= 2 * tokens * bucket.farthest

    @property
    def horizon(self) -> int:
        """Twice the largest size that is known: no prediction reaches further. 0: none is."""
        return 2 * max(filter(self.known, self._buckets), default=0)

    def fit(self, position: int, most: int, seconds: float, *, beside: tuple[int, float] = (0, 0.0)) -> int:
        """How many tokens from ``position`` on, ``most`` at most, a step of ``seconds`` has room for.

        ``beside`` are the tokens and the work that the step has already.
        """
        tokens, done = beside

        def predicted(total: int) -> float:
            step = done + work_of(position, total - tokens)
            return min(line.seconds(total, step) for line in lines)

        # More tokens cost more within a bucket, but not from one bucket to the next, so the largest is asked first.
        top = tokens + most
        while top > tokens:
            low = max(_floor(top), tokens + 1)
            lines = self._lines(low)
            if (found := bisect_right(range(low, top + 1), seconds, key=predicted)) > 0:
                return low + found - 1 - tokens
            top = low - 1
        return 0

    def parts(self, spans: Sequence[tuple[int, float]], seconds: float) -> list[float]:
        """Divide what a step took, once it was learnt, among its spans: each is given by its tokens and its work."""
        total = sum(tokens for tokens, _ in spans)
        whole = sum(work for _, work in spans)
        line = self._line(total, whole)
        per_token = line.per_token + line.base / total
        weights = [per_token * tokens + line.per_position * work for tokens, work in spans]
        return [seconds * weight / sum(weights) for weight in weights]

    def learn(self, tokens: int, work: float, seconds: float) -> None:
        """Correct the predictions by a step that was measured."""
        seconds = max(seconds, LEAST_SECONDS)
        floor = _floor(tokens)
        if self.sure(tokens, work):
            self._notice(seconds / self.predict(tokens, work))
            expected = self.predict(tokens, work)
            seconds = min(max(seconds, expected / SURPRISE), expected * SURPRISE)
        elif (bucket := self._buckets.get(floor)) is None:
            self._buckets[floor] = _Bucket(floor, self._line(tokens, work).per_position)
        elif not self._trusts(bucket) and _surprising(seconds / bucket.line.seconds(tokens, work)):
            bucket.doubt()
        self._steps += 1
        self._buckets[floor].last = self._steps
        self._buckets[floor].learn(tokens, work, seconds)

    def _notice(self, ratio: float) -> None:
        """Scale all that is known after two steps in a row that took far longer, or were far shorter, than expected."""
        before, self._surprise = self._surprise, ratio
        if _surprising(before) and _surprising(ratio) and (before > 1) == (ratio > 1):
            factor = min(before, ratio) if ratio > 1 else max(before, ratio)
            self._surprise = 1.0
            for bucket in self._buckets.values():
                bucket.scale(factor)

    def _trusts(self, bucket: "_Bucket") -> bool:
        return bucket.measured >= ENOUGH and self._steps - bucket.last <= LATELY

    def _line(self, tokens: int, work: float) -> Line:
        """The line that is believed."""
        return min(self._lines(tokens), key=lambda line: line.seconds(tokens, work))

    def _lines(self, tokens: int) -> list[Line]:
        """The line of the bucket that is in charge, and its neighbours' where that one is not to be trusted."""
        floor = _floor(tokens)
        lines = []
        if (bucket := self._buckets.get(floor)) is not None:
            lines.append(bucket.line)
            if self._trusts(bucket):
                return lines
        smaller = max((other for other in self._buckets if other < floor), default=None)
        larger = min((other for other in self._buckets if other > floor), default=None)
        if smaller is not None:
            line = self._buckets[smaller].line
            lines.append(Line(0.0, line.per_token + line.base / (2 * smaller), line.per_position, line.depth))
        if larger is not None:
            lines.append(self._buckets[larger].line)
        return lines or [Line()]


class _Bucket:
    """The line of the steps of ``floor`` up to twice as many tokens."""

    def __init__(self, floor: int, per_position: float) -> None:
        # In units in which base, tokens and positions weigh the same, so that a first error is shared among all three.
        self._units = (1.0, 1 / floor, 1 / (floor * POSITIONS))
        self._weights = [0.0, 0.0, per_position / self._units[2]]
        self._doubt = _full_doubt()
        self.measured = self.last = 0
        self.farthest = float(NEAR)
        self._depth = 0.0

    @property
    def line(self) -> Line:
        base, per_token, per_position = map(mul, self._weights, self._units)
        return Line(base, per_token, per_position, self._depth)

    def learn(self, tokens: int, work: float, seconds: float) -> None:
        self.measured += 1
        self.farthest = max(self.farthest, work / tokens)
        self._depth += LATEST * (work / tokens - self._depth)
        step = list(map(mul, (1, tokens, work), self._units))
        expected = _dot(self._weights, step)
        error = seconds - expected

        doubt = self._doubt
        for index in range(3):
            doubt[index][index] = min(doubt[index][index] + DRIFT, DOUBT)
        toward = [_dot(row, step) for row in doubt]
        reach = _dot(toward, step)
        spread = 1 + reach
        self._doubt = [
            [value - pull * other / spread for value, other in zip(row, toward, strict=True)]
            for row, pull in zip(doubt, toward, strict=True)
        ]
        self._weights = [
            max(least, weight + error * pull / spread)
            for least, weight, pull in zip((LEAST_SECONDS, 0.0, 0.0), self._weights, toward, strict=True)
        ]
        # What could not become negative is made up for by all.
        self.scale((expected + error * reach / spread) / _dot(self._weights, step))

    def doubt(self) -> None:
        """Let the next measurement count for more than all before."""
        self._doubt = _full_doubt()

    def scale(self, factor: float) -> None:
        self._weights = [weight * factor for weight in self._weights]


def _full_doubt() -> list[list[float]]:
    return [[DOUBT, 0.0, 0.0], [0.0, DOUBT, 0.0], [0.0, 0.0, DOUBT]]


def _surprising(ratio: float) -> bool:
    return not 1 / SURPRISE <= ratio <= SURPRISE


def _floor(tokens: int) -> int:
    """The largest power of two up to ``tokens``: the name of their bucket."""
    return 1 << (tokens.bit_length() - 1)


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
