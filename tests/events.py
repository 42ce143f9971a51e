"""Answers that a model may give, made by Hypothesis, and how they are played through a protocol.

`output_events` are what one choice turns out to be, in the grammar of `ds4trio.chat.events`. `scripts` are whole
answers: each choice's events in random groups, the choices interleaved, with progress in between. `play` feeds such a
script to an `Answer`, as the lifeline would.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hypothesis import strategies as st

from ds4trio.api.answer import Answer, AnswerUsage, Delta, Ending, HeartbeatForm
from ds4trio.chat import ContentDelta, OutputEvent, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from ds4trio.engine import Phase, Progress, TokenLogprob

__all__ = [
    "Script",
    "Step",
    "USAGE",
    "output_events",
    "pieces",
    "play",
    "progresses",
    "scripts",
    "texts",
    "token_logprobs",
]

USAGE = AnswerUsage(prompt_tokens=30, cached_tokens=20, output_tokens=5, reasoning_tokens=2)

Step = tuple[int, Delta | Ending] | Progress
"""A choice's delta or end; or how far the computation is, for a beat."""


@dataclass(frozen=True, slots=True)
class Script:
    """A whole answer: what happens in which order, and for each choice what it comes to."""

    steps: tuple[Step, ...]
    events: tuple[tuple[OutputEvent, ...], ...]
    endings: tuple[Ending, ...]
    logprobs: tuple[tuple[TokenLogprob, ...], ...]
    usage: AnswerUsage = USAGE

    def text(self, choice: int) -> str:
        """The visible answer of one choice."""
        return "".join(event.text for event in self.events[choice] if isinstance(event, ContentDelta))

    def reasoning(self, choice: int) -> str:
        """The reasoning of one choice."""
        return "".join(event.text for event in self.events[choice] if isinstance(event, ReasoningDelta))

    def calls(self, choice: int) -> list[tuple[str, str]]:
        """Name and arguments of each call of one choice."""
        calls: list[tuple[str, str]] = []
        for event in self.events[choice]:
            match event:
                case ToolCallStart(_, name):
                    calls.append((name, ""))
                case ToolCallDelta(_, arguments):
                    name, so_far = calls[-1]
                    calls[-1] = (name, so_far + arguments)
        return calls


# Characters that break lines, JSON, server-sent events or a byte count if somebody forgets about them.
texts = st.text(
    st.one_of(st.sampled_from('a \n\r\u2028"\\{}:é😀'), st.characters(codec="utf-8")), min_size=1, max_size=9
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=4,
)


@st.composite
def pieces(draw: st.DrawFn, text: str, *, most: int = 4) -> list[str]:
    """A text in up to ``most`` pieces, none empty."""
    cuts = draw(st.lists(st.integers(1, max(1, len(text) - 1)), max_size=most - 1, unique=True).map(sorted))
    borders = [0, *cuts, len(text)]
    return [piece for start, end in pairwise(borders) if (piece := text[start:end])]


@st.composite
def output_events(draw: st.DrawFn, *, cut: bool = False, calls: bool = True) -> list[OutputEvent]:
    """The events of one choice. With ``cut`` calls may be incomplete; ``calls`` False leaves calls out."""
    kinds = ["reasoning", "content", "call"] if calls else ["content"]
    parts = draw(st.lists(st.sampled_from(kinds), max_size=5))
    events: list[OutputEvent] = []
    call = 0
    for part in parts:
        if part == "reasoning":
            events += map(ReasoningDelta, draw(pieces(draw(texts))))
        elif part == "content":
            events += map(ContentDelta, draw(pieces(draw(texts))))
        else:
            arguments = json.dumps(draw(st.dictionaries(texts, json_values, max_size=2)), ensure_ascii=False)
            if half := cut and draw(st.booleans()):
                arguments = arguments[: draw(st.integers(0, len(arguments) - 1))]
            events.append(ToolCallStart(call, draw(st.sampled_from(["read", "write_file", "mcp__shell.run"]))))
            events += [ToolCallDelta(call, piece) for piece in draw(pieces(arguments))]
            events.append(ToolCallEnd(call, complete=not half))
            call += 1
    return events


@st.composite
def token_logprobs(draw: st.DrawFn, *, tops: bool = True) -> TokenLogprob:
    """A token of any bytes, whole characters or not, with alternatives."""
    logprob = st.floats(-20, 0)
    data = st.one_of(texts.map(str.encode), st.binary(min_size=1, max_size=3))
    top = draw(st.lists(token_logprobs(tops=False), max_size=2)) if tops else []
    return TokenLogprob(draw(st.integers(0, 2**31 - 1)), draw(data), draw(logprob), tuple(top))


@st.composite
def progresses(draw: st.DrawFn) -> Progress:
    """How far a computation may be."""
    cached, prefilled, prompt = sorted(draw(st.tuples(*[st.integers(0, 100_000)] * 3)))
    return Progress(
        phase=draw(st.sampled_from(Phase)),
        queue_position=1,
        queue_length=draw(st.integers(1, 9)),
        prompt_tokens=prompt,
        cached_tokens=cached,
        prefilled_tokens=prefilled,
        output_tokens=draw(st.integers(0, 999)),
        rate=draw(st.one_of(st.just(0.0), st.floats(0.5, 5000))),
    )


@st.composite
def scripts(draw: st.DrawFn, *, n: int = 1, calls: bool = True, logprobs: bool = False) -> Script:
    """A whole answer of ``n`` choices that run side by side."""
    choices = [draw(_choices(calls=calls, logprobs=logprobs)) for _ in range(n)]
    waiting: list[list[Step]] = [
        [*((index, delta) for delta in choice.deltas), (index, choice.ending)] for index, choice in enumerate(choices)
    ]
    steps: list[Step] = []
    while any(waiting):
        if draw(st.integers(0, 3)) == 0:
            steps.append(draw(progresses()))
        steps.append(draw(st.sampled_from([queue for queue in waiting if queue])).pop(0))
    return Script(
        tuple(steps),
        tuple(choice.events for choice in choices),
        tuple(choice.ending for choice in choices),
        tuple(choice.logprobs for choice in choices),
    )


def play(answer: Answer, script: Script, *, form: HeartbeatForm = "both") -> bytes:
    """All bytes of the answer; each progress is a chunk of prefill and a beat."""
    written = [answer.start(Progress())]
    for step in script.steps:
        match step:
            case Progress():
                written += [answer.prefill(step), answer.beat(step, form)]
            case (choice, Delta() as delta):
                written.append(answer.delta(choice, delta))
            case (choice, Ending() as ending):
                written.append(answer.end(choice, ending))
    return b"".join([*written, answer.finish(script.usage)])


@dataclass(frozen=True, slots=True)
class _Choice:
    events: tuple[OutputEvent, ...]
    deltas: tuple[Delta, ...]
    ending: Ending

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return tuple(token for delta in self.deltas for token in delta.logprobs)


@st.composite
def _choices(draw: st.DrawFn, *, calls: bool, logprobs: bool) -> _Choice:
    cut = draw(st.booleans())
    events = tuple(draw(output_events(cut=cut, calls=calls)))
    deltas = tuple(draw(_deltas(events)))
    if logprobs:
        tokens = st.lists(token_logprobs(), max_size=3).map(tuple)
        deltas = tuple(replace(delta, logprobs=draw(tokens)) for delta in deltas)
    # What was cut off ends with the limit, or with a stop string of the client's own.
    stopped = cut and draw(st.booleans())
    ending = Ending(
        reason="length" if cut and not stopped else "stop",
        usage=USAGE,
        stop_sequence="END" if stopped else None,
        prefill_seconds=draw(st.sampled_from([0.0, 1.5])),
        decode_seconds=draw(st.sampled_from([0.0, 0.25])),
    )
    return _Choice(events, deltas, ending)


@st.composite
def _deltas(draw: st.DrawFn, events: Sequence[OutputEvent]) -> list[Delta]:
    """The events in random groups, some of them empty."""
    deltas: list[Delta] = []
    rest = list(events)
    while rest:
        size = draw(st.integers(0, 3))
        group, rest = rest[:size], rest[size:]
        deltas.append(Delta(tuple(group), output_tokens=len(deltas) + 1))
    return deltas
