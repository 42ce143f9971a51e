"""The whole examination: how long the prompt has to be, then one step after the other."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import h11
import msgspec
import trio

from ds4trio.engine.breakdown import first_leaf
from ds4trio.probe.measures import (
    Ask,
    after_cancel,
    behind_others,
    beside_reader,
    first_token,
    long_prompt,
    short_prompt,
    whole_answer,
    with_deadline,
)
from ds4trio.probe.report import Row
from ds4trio.probe.target import ProbeError, Target
from ds4trio.testing import Gap, StreamClient, gaps

__all__ = ["Plan", "Step", "plan", "steps"]

PREFILL = 12.0
"""Seconds that the long prompt is to take; heartbeats of a few seconds show in it."""
QUICK_PREFILL = 3.0
FIRST_SIZE = 100
"""Tokens of the first prompt that is timed; the next ones are four times as long."""
LONG_ENOUGH = 1.5
"""Seconds that a prompt has to take to tell the rate."""
UNKNOWN_CONTEXT = 4096
SHARE_OF_CONTEXT = 0.7
"""What a prompt may take of it: words are not exactly tokens, and there is an answer."""
ANSWER = 64
OTHERS = 4
"""Clients in front of one who waits; many servers run four at once."""
STAY = 0.5
"""Of a prefill, after which one hangs up."""
PATIENCE = 0.4
"""Of a prefill: the deadline of one who tries again and again."""
TRIES = 8
LONG_ANSWER = 1500
READING = 8.0
"""Seconds of watching others beside a reader."""
REST = 0.5
MOST_QUOTED = 120
"""Characters of what went wrong."""

Troubles = (
    EOFError,
    OSError,
    h11.RemoteProtocolError,
    trio.BrokenResourceError,
    trio.TooSlowError,
    msgspec.DecodeError,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """A prompt of ``size`` words, which are about ``tokens`` and take about ``prefill`` seconds, as measured.

    The examination takes ``least`` to ``most`` seconds, more where the server goes on computing for those who left.
    """

    size: int
    tokens: int
    prefill: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Step:
    """A measurement and its name; `measure` never raises for what a server does, it says so in its rows."""

    name: str
    measure: Callable[[], Awaitable[list[Row]]]


async def plan(target: Target, *, quick: bool = False) -> Plan:
    """Measure the rate with short prompts; a checkpoint. Raises `ProbeError` where they are not answered."""
    most = int(SHARE_OF_CONTEXT * (target.context or UNKNOWN_CONTEXT))
    size = min(FIRST_SIZE, most)
    try:
        while True:
            client = await whole_answer(target.ask, long_prompt(size), 2)
            took = client.times_of_tokens[0]
            tokens = _prompt_tokens(client) or size
            # Some servers count the same for every prompt.
            if took >= LONG_ENOUGH or 4 * max(tokens, size) > most:
                break
            size *= 4
    except Troubles as error:
        raise ProbeError(f"a prompt of about {size} tokens was not answered: {_said(error)}") from None
    rate, per_word = tokens / took, tokens / size
    tokens = min(most, max(FIRST_SIZE, int((QUICK_PREFILL if quick else PREFILL) * rate)))
    prefill = tokens / rate
    # The prompt itself, half of it and its rest, the queue; at worst also again from the start, and for those who left.
    extra = 2 * READING + 20 * REST
    return Plan(min(most, int(tokens / per_word)), tokens, prefill, 4 * prefill + extra, 10 * prefill + 2 * extra)


def steps(target: Target, plan: Plan) -> list[Step]:
    """What there is to measure, to be done in this order."""
    examination = _Examination(target.ask, plan)
    named: list[tuple[str, Callable[[], Awaitable[list[Row]]]]] = [
        ("a long prompt", examination.alone),
        ("behind others", examination.queue),
        ("hanging up", examination.cancel),
        ("a fixed deadline", examination.deadline),
        ("a slow reader", examination.slow_reader),
    ]
    return [Step(name, examination.guarded(name, measure)) for name, measure in named]


class _Examination:
    """The steps; later ones compare with what the first one measured."""

    def __init__(self, ask: Ask, plan: Plan) -> None:
        self._ask = ask
        self._plan = plan
        self._prompt = long_prompt(plan.size)
        self._prefill = plan.prefill

    def guarded(self, name: str, measure: Callable[[], Awaitable[list[Row]]]) -> Callable[[], Awaitable[list[Row]]]:
        """A step that ends in any case, with the server at rest."""
        limit = 20 * self._plan.prefill + 60

        async def step() -> list[Row]:
            rows: list[Row] = []
            try:
                with trio.fail_after(limit):
                    rows = await measure()
                    await trio.sleep(REST)
                    # Whoever computes for one client at a time, or for those who left, is done when this is answered.
                    await first_token(self._ask, short_prompt())
            except* Troubles as group:
                rows = rows or [Row(name.replace(" ", "_"), name, f"no figure: {_said(group)}", {})]
            return rows

        return step

    async def alone(self) -> list[Row]:
        client = await whole_answer(self._ask, self._prompt, ANSWER)
        self._prefill = client.times_of_tokens[0]
        tokens = _prompt_tokens(client)
        counted = f"{tokens:,} tokens" if tokens else f"about {self._plan.tokens:,} tokens"
        # At once: what comes in between would take the place of a server that keeps one conversation.
        again = await whole_answer(self._ask, self._prompt, 2)
        first_byte = min([client.arrivals[0].at, *([client.started_at] if client.started_at is not None else [])])
        return [
            Row("prompt", "the prompt", counted, {"tokens": tokens or None}),
            Row("first_byte", "first byte of its answer", _seconds(first_byte), {"seconds": first_byte}),
            Row("first_token", "its first token", _seconds(self._prefill), {"seconds": self._prefill}),
            _silence("prefill", "longest silence in its prefill", client, decode=False),
            _silence("decode", "longest silence in its answer", client, decode=True),
            self._retry("retry_after_answer", "the same prompt again after its answer: first token", again),
        ]

    def _retry(self, key: str, what: str, client: StreamClient) -> Row:
        share, tokens, cached = client.times_of_tokens[0] / self._prefill, _prompt_tokens(client), _cached(client)
        counted = "" if cached is None else f" ({cached:,} of {tokens:,} tokens were cached, as it says)"
        return Row(key, what, f"{_share(share)}{counted}", {"share": share, "cached_tokens": cached})

    async def queue(self) -> list[Row]:
        size = self._plan.size // (OTHERS + 1)
        client = await behind_others(self._ask, others=OTHERS, tokens=size)
        tokens = self._plan.tokens // (OTHERS + 1)
        what = f"longest silence behind {OTHERS} prompts of {tokens:,} tokens, up to the first token"
        return [_silence("queue", what, client, decode=False)]

    async def cancel(self) -> list[Row]:
        prompt = long_prompt(self._plan.size)
        late = await after_cancel(self._ask, prompt, stay=STAY * self._prefill)
        again = await whole_answer(self._ask, prompt, 2)
        return [
            Row(
                "after_cancel",
                f"another client's first token after a hang-up at {STAY:g} of a prefill, beyond idle",
                _seconds(late),
                {"seconds": late},
            ),
            self._retry(
                "retry_after_cancel",
                f"the prompt that was hung up on at {STAY:g} of its prefill, again: first token",
                again,
            ),
        ]

    async def deadline(self) -> list[Row]:
        prompt = long_prompt(self._plan.size)
        answered = await with_deadline(self._ask, prompt, patience=PATIENCE * self._prefill, tries=TRIES)
        what = f"a client that hangs up after {PATIENCE:g} prefills and tries again"
        if answered is None:
            return [Row("deadline", what, f"never answered in {TRIES} tries", {"tries": None, "prefills": None})]
        tries, seconds = answered
        share = seconds / self._prefill
        shown = f"answered in try {tries}, after {share:.2g} prefills"
        return [Row("deadline", what, shown, {"tries": tries, "prefills": share})]

    async def slow_reader(self) -> list[Row]:
        reads = await beside_reader(self._ask, stuck=False, answer=LONG_ANSWER, seconds=READING)
        stuck = await beside_reader(self._ask, stuck=True, answer=LONG_ANSWER, seconds=READING)
        return [
            Row(
                "slow_reader",
                "a short prompt's first token, at worst, beside a client that takes no bytes of a long answer",
                f"{_seconds(stuck)} (beside one that reads {_seconds(reads)})",
                {"seconds": stuck, "beside_one_that_reads": reads},
            )
        ]


def _silence(key: str, what: str, client: StreamClient, *, decode: bool) -> Row:
    by_bytes, by_events = (_longest(gaps(client, between), decode=decode) for between in ("bytes", "events"))
    shown = f"{_seconds(by_bytes)} between bytes, {_seconds(by_events)} between parsed events"
    return Row(f"silence_{key}", what, shown, {"bytes": by_bytes, "events": by_events})


def _longest(found: list[Gap], *, decode: bool) -> float:
    return max((gap.seconds for gap in found if (gap.phase == "decode") is decode), default=0.0)


def _prompt_tokens(client: StreamClient) -> int:
    """As the server counts them; 0 where it does not say."""

    def count(name: str) -> int:
        value = client.usage.get(name)
        return value if isinstance(value, int) and value > 0 else 0

    cached = count("cache_read_input_tokens") + count("cache_creation_input_tokens")
    return count("prompt_tokens") or count("input_tokens") + cached


def _cached(client: StreamClient) -> int | None:
    """How many tokens of the prompt were not computed, if the server says so."""
    usage = client.usage
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    cached = details.get("cached_tokens", usage.get("cache_read_input_tokens")) if isinstance(details, dict) else None
    return cached if isinstance(cached, int) else None


def _seconds(value: float) -> str:
    """Two digits that matter, but no more precise than a millisecond."""
    if abs(value) < 0.0095:
        return f"{1000 * value:.0f} ms"
    digits = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f} s"


def _share(value: float) -> str:
    return f"{100 * value:.2g} % of the first prefill"


def _said(group: BaseException) -> str:
    error = first_leaf(group)
    if isinstance(error, trio.TooSlowError):
        return "it took too long"
    return " ".join(str(error).split())[:MOST_QUOTED] or type(error).__name__
