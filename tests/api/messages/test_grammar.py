"""The checker itself: what a broken stream looks like to it."""

import json
import re

import pytest

from ds4trio.api.answer import Delta, Ending
from ds4trio.api.errors import InternalError
from ds4trio.api.messages.answer import MessagesStream
from ds4trio.chat import ContentDelta, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from tests.api.messages.answers import FRAME, USAGE, Run, stream
from tests.grammars.messages import check_messages_stream

WHOLE = stream(
    MessagesStream(FRAME, caching=False, hide_thinking=False),
    Run(
        [
            Delta((ReasoningDelta("hm"), ContentDelta("yes"), ToolCallStart(0, "f")), 3),
            Delta((ToolCallDelta(0, '{"a": 1}'), ToolCallEnd(0)), 7),
        ],
        [],
        Ending("stop", USAGE),
    ),
    [1],
).decode()
START, *_ = WHOLE.split("\n\n")
PING = 'event: ping\ndata: {"type":"ping"}\n\n'
ERROR = MessagesStream(FRAME, caching=False, hide_thinking=False).error(InternalError("broken")).decode()


def without(pattern: str) -> str:
    """The stream without the first event that matches."""
    events = WHOLE.split("\n\n")
    events.remove(next(event for event in events if re.search(pattern, event)))
    return "\n\n".join(events)


def test_the_whole_stream_is_sound() -> None:
    assert [block["type"] for block in check_messages_stream(WHOLE.encode())["content"]] == [
        "thinking",
        "text",
        "tool_use",
    ]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("", id="nothing"),
        pytest.param(": a comment\n\n", id="only a comment"),
        pytest.param(PING + WHOLE, id="ping first"),
        pytest.param(without("message_start"), id="no start"),
        pytest.param(f"{START}\n\n{WHOLE}", id="two starts"),
        pytest.param(without("content_block_start"), id="no block start"),
        pytest.param(without("content_block_stop"), id="no block stop"),
        pytest.param(without("signature_delta"), id="no signature"),
        pytest.param(without("text_delta"), id="empty block"),
        pytest.param(without("input_json_delta"), id="no arguments"),
        pytest.param(without('"tool_use","stop_sequence"'), id="no reason"),
        pytest.param(without("message_stop"), id="no stop"),
        pytest.param(WHOLE + PING, id="ping after the stop"),
        pytest.param(WHOLE + ERROR, id="error after the stop"),
        pytest.param(ERROR + WHOLE, id="stream after an error"),
        pytest.param(WHOLE.replace('"index":2', '"index":3'), id="wrong index"),
        pytest.param(WHOLE.replace("event: ping", "event: pong"), id="wrong name"),
        pytest.param(WHOLE.replace("ping", "keepalive"), id="unknown event"),
        pytest.param(WHOLE.replace("text_delta", "thinking_delta"), id="wrong delta"),
        pytest.param(WHOLE.replace('"stop_reason":"tool_use"', '"stop_reason":"end_turn"'), id="untrue reason"),
        pytest.param(WHOLE.replace('"stop_reason":"tool_use"', '"stop_reason":"error"'), id="unknown reason"),
        pytest.param(WHOLE.replace(json.dumps('{"a": 1}'), json.dumps('{"a": ')), id="half arguments"),
        pytest.param(WHOLE.replace(json.dumps('{"a": 1}'), json.dumps("[1]")), id="arguments no object"),
        pytest.param(WHOLE.removesuffix("\n"), id="last event not dispatched"),
    ],
)
def test_a_broken_stream_is_noticed(body: str) -> None:
    assert body != WHOLE
    with pytest.raises(AssertionError):
        check_messages_stream(body.encode())
