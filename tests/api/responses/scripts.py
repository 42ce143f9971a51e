"""Answers for tests: what a model might write, cut in pieces as an engine might cut it."""

import json
from dataclasses import dataclass

from hypothesis import strategies as st

from ds4trio.api.answer import Answer, AnswerUsage, Delta, Ending, Frame
from ds4trio.api.errors import ApiError
from ds4trio.chat import ContentDelta, OutputEvent, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from ds4trio.engine import Phase, Progress, TokenLogprob

FRAME = Frame(id="00ff", created=1_700_000_000.7, model="tiny")
USAGE = AnswerUsage(prompt_tokens=100, cached_tokens=40, output_tokens=20, reasoning_tokens=5)
PROGRESS = Progress(phase=Phase.DECODE, prompt_tokens=100, prefilled_tokens=100, output_tokens=3)
STOP = Ending("stop", USAGE)
LENGTH = Ending("length", USAGE)

TOOLS = [
    {"type": "function", "name": "read", "parameters": {"type": "object"}, "strict": False},
    {"type": "custom", "name": "apply_patch"},
    {"type": "local_shell"},
    {"type": "namespace", "name": "agents", "description": "", "tools": [{"type": "function", "name": "spawn"}]},
]
NAMES = ("read", "apply_patch", "local_shell", "agents__spawn", "never_offered")


def request(**members: object) -> bytes:
    return json.dumps({"input": "hello", "stream": True, "store": False, "tools": TOOLS, **members}).encode()


def deltas(*events: OutputEvent) -> list[Delta]:
    """Each event in a delta of its own."""
    return [Delta((event,), number) for number, event in enumerate(events, 1)]


def call(name: str, *fragments: str, index: int = 0, complete: bool = True) -> list[OutputEvent]:
    fed: list[OutputEvent] = [ToolCallDelta(index, fragment) for fragment in fragments]
    return [ToolCallStart(index, name), *fed, ToolCallEnd(index, complete)]


def play(answer: Answer, script: list[Delta], ending: Ending = STOP) -> bytes:
    """The bytes of an answer that ends well."""
    body = answer.start(PROGRESS) if answer.streams else b""
    body += b"".join(answer.delta(0, delta) for delta in script)
    return body + answer.end(0, ending) + answer.finish(ending.usage)


@dataclass(frozen=True)
class Performance:
    """A whole answer: its deltas, where beats fall, and how it ends."""

    script: list[Delta]
    beats: list[bool]
    end: Ending | ApiError

    def run(self, answer: Answer) -> bytes:
        body = answer.start(PROGRESS)
        for delta, beats in zip(self.script, self.beats, strict=True):
            body += answer.delta(0, delta)
            if beats:
                body += answer.beat(PROGRESS, "both")
        if isinstance(self.end, ApiError):
            return body + answer.error(self.end)
        return body + answer.end(0, self.end) + answer.finish(self.end.usage)


TEXT = st.text(min_size=1, max_size=30)
JSON_OBJECTS = st.one_of(
    st.builds(lambda text: {"input": text}, st.text(max_size=40)),
    st.builds(lambda words: {"command": words}, st.lists(st.text(max_size=5), max_size=3)),
    st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3),
)
LOGPROBS = st.lists(
    st.builds(
        lambda data, top: TokenLogprob(1, data, -0.5, tuple(TokenLogprob(2, t, -1.5) for t in top)),
        st.binary(max_size=4),
        st.lists(st.binary(max_size=4), max_size=2),
    ),
    max_size=3,
).map(tuple)


@st.composite
def fragments(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    return [piece for piece in pieces if piece]


@st.composite
def output_events(draw: st.DrawFn) -> list[OutputEvent]:
    """Any answer that the grammar of `ds4trio.chat.events` allows; calls may be incomplete."""
    events: list[OutputEvent] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["reasoning", "content", "call"]), max_size=5)):
        if kind == "reasoning":
            events += [ReasoningDelta(piece) for piece in draw(fragments(draw(TEXT)))]
        elif kind == "content":
            events += [ContentDelta(piece) for piece in draw(fragments(draw(TEXT)))]
        else:
            arguments = json.dumps(draw(JSON_OBJECTS), ensure_ascii=draw(st.booleans()))
            if half := draw(st.booleans()):
                arguments = arguments[: draw(st.integers(0, len(arguments) - 1))]
            pieces = draw(fragments(arguments))
            events += call(draw(st.sampled_from(NAMES)), *pieces, index=calls, complete=not half)
            calls += 1
    return events


ENDS = st.one_of(
    st.sampled_from([STOP, LENGTH]),
    st.builds(
        lambda code: ApiError("went wrong", code=code), st.sampled_from([None, "cancelled", "context_length_exceeded"])
    ),
)


@st.composite
def performances(draw: st.DrawFn) -> Performance:
    events = draw(output_events())
    script: list[Delta] = []
    while events:
        count = draw(st.integers(0, 4))
        script.append(Delta(tuple(events[:count]), len(script), draw(LOGPROBS)))
        events = events[count:]
    beats = draw(st.lists(st.booleans(), min_size=len(script), max_size=len(script)))
    return Performance(script, beats, draw(ENDS))
