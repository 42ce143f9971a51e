"""The checker of streams finds what it is there to find: any event that is missing, doubled or out of place."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ds4trio.api.responses import Responses, ResponseStore
from ds4trio.chat import ContentDelta, ReasoningDelta
from tests.api.responses.scripts import FRAME, call, deltas, play, request
from tests.grammars.responses import check_responses_stream, sse_events

SCRIPT = deltas(
    ReasoningDelta("one"),
    ContentDelta("two"),
    ContentDelta("three"),
    *call("read", "{", "}"),
    *call("apply_patch", '{"input": "x', 'y"}', index=1),
)


def stream(members: dict[str, object]) -> list[dict[str, Any]]:
    answer = Responses(ResponseStore()).parse(request(**members)).answer(FRAME)
    return list(sse_events(play(answer, SCRIPT)))


def encoded(events: list[dict[str, Any]]) -> bytes:
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in numbered)


SHAPES = st.sampled_from([{}, {"reasoning": {"summary": "auto"}}])


@given(st.data(), SHAPES)
def test_a_missing_event_is_found(data: st.DataObject, members: dict[str, object]) -> None:
    events = stream(members)
    del events[data.draw(st.integers(0, len(events) - 1))]
    with pytest.raises((AssertionError, IndexError)):
        check_responses_stream(encoded(events))


@given(st.data(), SHAPES)
def test_a_doubled_event_is_found(data: st.DataObject, members: dict[str, object]) -> None:
    events = stream(members)
    index = data.draw(st.integers(0, len(events) - 1))
    assume(events[index]["type"] != "response.in_progress")
    with pytest.raises(AssertionError):
        check_responses_stream(encoded([*events[:index], events[index], *events[index:]]))


@given(st.data(), SHAPES)
def test_two_events_in_the_wrong_order_are_found(data: st.DataObject, members: dict[str, object]) -> None:
    events = stream(members)
    index = data.draw(st.integers(0, len(events) - 2))
    events[index], events[index + 1] = events[index + 1], events[index]
    with pytest.raises((AssertionError, IndexError)):
        check_responses_stream(encoded(events))


def test_comments_may_stand_anywhere() -> None:
    body = encoded(stream({}))
    check_responses_stream(b": hello\n\n" + body.replace(b"\n\n", b"\n\n: alive\n\n"))


def test_a_gap_in_the_numbers_is_found() -> None:
    body = encoded(stream({}))
    with pytest.raises(AssertionError):
        check_responses_stream(body.replace(b'"sequence_number": 4}', b'"sequence_number": 40}'))


def test_a_stream_without_its_end_is_found() -> None:
    with pytest.raises(AssertionError):
        check_responses_stream(encoded(stream({})[:-1]))
