"""Whole answers for tests: what a model did, and the same cut into deltas at random places."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from ds4trio.api.answer import AnswerUsage, Delta, Ending, Frame, StreamAnswer
from ds4trio.chat import ContentDelta, OutputEvent, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from ds4trio.engine import Phase, Progress

FRAME = Frame("0123abcd", 1_700_000_000.5, "some-model")
PROGRESS = Progress(phase=Phase.DECODE, prompt_tokens=100, cached_tokens=0, output_tokens=3)
USAGE = AnswerUsage(prompt_tokens=100, cached_tokens=60, output_tokens=7, reasoning_tokens=2)


@dataclass(frozen=True)
class Run:
    """An answer in deltas, the blocks that it has to become, and how it ends."""

    deltas: Sequence[Delta]
    blocks: Sequence[dict[str, object]]
    ending: Ending


def pieces(text: str) -> st.SearchStrategy[list[str]]:
    """``text`` in one or more pieces, none of them empty."""
    places = st.lists(st.integers(1, max(1, len(text) - 1)), unique=True, max_size=6).map(sorted)
    return places.map(
        lambda cuts: [
            piece for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True) if (piece := text[begin:end])
        ]
    )


# Characters that JSON, server-sent events or UTF-8 make something of.
texts = st.text('ab \n\r\t"\\{}:\0\x85é\u2028漢😀', max_size=20)
arguments = st.dictionaries(texts, texts | st.integers() | st.booleans(), max_size=3)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Any answer that a `Reader` may give."""
    events: list[OutputEvent] = []
    blocks: list[dict[str, object]] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["thinking", "text", "tool_use"]), max_size=5)):
        if kind == "tool_use":
            values = draw(arguments)
            events.append(ToolCallStart(calls, "look_up"))
            events += [ToolCallDelta(calls, piece) for piece in draw(pieces(json.dumps(values)))]
            events.append(ToolCallEnd(calls))
            blocks.append({"type": kind, "name": "look_up", "input": values})
            calls += 1
            continue
        text = draw(texts.filter(bool))
        make = ReasoningDelta if kind == "thinking" else ContentDelta
        events += [make(piece) for piece in draw(pieces(text))]
        if blocks and blocks[-1]["type"] == kind:
            blocks[-1][kind] = f"{blocks[-1][kind]}{text}"
        else:
            blocks.append({"type": kind, kind: text})
    ending = draw(
        st.sampled_from(
            [Ending("stop", USAGE), Ending("length", USAGE), Ending("stop", USAGE, stop_sequence="\n\nHuman:")]
        )
    )
    cuts = [0, *sorted(draw(st.lists(st.integers(0, len(events)), max_size=8))), len(events)]
    deltas = [
        Delta(tuple(events[begin:end]), count) for count, (begin, end) in enumerate(itertools.pairwise(cuts), start=1)
    ]
    return Run(deltas, blocks, ending)


def stream(answer: StreamAnswer, run: Run, beats: Sequence[int]) -> bytes:
    """The whole stream with a beat in every form before each of the deltas whose numbers ``beats`` has."""
    body = answer.start(PROGRESS)
    for number, delta in enumerate(run.deltas):
        for _ in range(beats.count(number)):
            body += answer.beat(PROGRESS, "both") + answer.beat(PROGRESS, "event") + answer.beat(PROGRESS, "comment")
        body += answer.delta(0, delta)
    return body + answer.end(0, run.ending) + answer.beat(PROGRESS, "event") + answer.finish(USAGE)
