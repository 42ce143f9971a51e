"""From the engine's text to what a client sees: stop strings, single calls, usage."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.api.answer import AnswerUsage
from ds4trio.chat import ContentDelta, OutputEvent, TextReader, Tool, ToolCallDelta, ToolCallEnd, ToolCallStart
from ds4trio.chat.dialects import HERMES, DialectReader
from ds4trio.engine import Finished, GenerationRequest, Progress, TextDelta, Usage
from ds4trio.server.choices import Choice, Tally

REQUEST = GenerationRequest(prompt=[1, 2, 3], max_tokens=100)
CALL = '<tool_call>\n{"name": "read", "arguments": {"path": "a\\nb"}}\n</tool_call>'
USAGE = Usage(3, 1, 9)


def choice(*, stop: tuple[str, ...] = (), single_call: bool = False) -> Choice:
    reader = DialectReader(HERMES, tools=(Tool("read"),), prompt_end="")
    return Choice(REQUEST, lambda: reader, stop=stop, single_call=single_call)


def played(one: Choice, pieces: list[str]) -> tuple[list[OutputEvent], str, str | None]:
    events: list[OutputEvent] = []
    for number, piece in enumerate(pieces, 1):
        if (delta := one.read(TextDelta(piece, number))) is not None:
            events += delta.events
        if one.complete:
            break
    end = one.cut_short(Progress(prompt_tokens=3), 1.0) if one.complete else Finished("stop", USAGE)
    delta, ending = one.finish(end)
    events += delta.events if delta is not None else ()
    return events, ending.reason, ending.stop_sequence


def content(events: list[OutputEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, ContentDelta))


def calls(events: list[OutputEvent]) -> int:
    return sum(isinstance(event, ToolCallEnd) for event in events)


@given(text=st.text("ab\n", max_size=30), stop=st.text("ab\n", min_size=1, max_size=3), size=st.integers(1, 5))
def test_content_ends_before_the_first_stop_string(text: str, stop: str, size: int) -> None:
    one = Choice(REQUEST, TextReader, stop=(stop,))
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    events, reason, found = played(one, pieces)
    assert content(events) == text.partition(stop)[0]
    assert (reason, found) == ("stop", stop if stop in text else None)


@pytest.mark.parametrize("stop", ["\n", '"', "{", "read", "tool", "<"])
def test_stop_strings_are_not_looked_for_in_tool_calls(stop: str) -> None:
    events, reason, found = played(choice(stop=(stop,)), list(CALL))
    assert [type(event) for event in events if not isinstance(event, ToolCallDelta)] == [ToolCallStart, ToolCallEnd]
    assert (reason, found) == ("stop", None)


def test_no_stop_string_reaches_over_a_call() -> None:
    events, _, found = played(choice(stop=("xy",)), list(f"x{CALL}y"))
    assert content(events) == "xy"
    assert calls(events) == 1
    assert found is None


def test_single_call_ends_after_the_first() -> None:
    one = choice(single_call=True)
    events, reason, _ = played(one, list(CALL + CALL))
    assert one.complete
    assert calls(events) == 1
    assert reason == "stop"


def test_half_a_call_is_an_answer_that_was_cut_off() -> None:
    _, reason, _ = played(choice(), list(CALL[:-25]))
    assert reason == "length"


def test_stop_string_of_the_engine_is_only_named_where_it_is_the_client_s() -> None:
    for mine in (True, False):
        one = Choice(REQUEST, TextReader, engine_stop=mine)
        _, ending = one.finish(Finished("stop", USAGE, "END"))
        assert ending.stop_sequence == ("END" if mine else None)


def test_a_prompt_that_choices_share_counts_once() -> None:
    tally = Tally()
    tally.add(AnswerUsage(10, 4, 5, 2), shared=False)
    tally.add(AnswerUsage(10, 9, 7, 1), shared=True)
    assert tally.usage == AnswerUsage(10, 4, 12, 3)


THOUGHTFUL = "<think>" + "thinking " * 20 + "</think>" + "said " * 10


@given(size=st.integers(1, 8))
def test_tokens_that_come_together_are_counted_as_what_they_are(size: int) -> None:
    pieces = re.findall(r"<think>|</think>|\w+ ", THOUGHTFUL)
    dialect = replace(HERMES, think_start="<think>", think_ends=("</think>",))
    one = Choice(REQUEST, lambda: DialectReader(dialect, tools=(), prompt_end=""))
    for start in range(0, len(pieces), size):
        together = pieces[start : start + size]
        one.read(TextDelta("".join(together), start + len(together)))
    _, ending = one.finish(Finished("stop", Usage(3, 0, len(pieces))))
    assert ending.usage.reasoning_tokens == pytest.approx(22, abs=2)


@given(st.lists(st.builds(TextDelta, st.text(), st.integers(), st.booleans(), tokens=st.tuples(st.integers()))))
def test_joined_texts_lose_nothing(deltas: list[TextDelta]) -> None:
    joined: list[TextDelta] = []
    for delta in deltas:
        both = joined[-1].joined(delta) if joined else None
        joined[-1:] = [both] if both is not None else [*joined[-1:], delta]
    assert "".join(delta.text for delta in joined) == "".join(delta.text for delta in deltas)
    assert [token for delta in joined for token in delta.tokens] == [token for each in deltas for token in each.tokens]
    assert [delta for delta in joined if delta.special] == [delta for delta in deltas if delta.special]
    assert [delta.output_tokens for delta in joined[-1:]] == [delta.output_tokens for delta in deltas[-1:]]
    assert all(one.special or other.special for one, other in pairwise(joined))
