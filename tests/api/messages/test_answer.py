"""Streams and documents: the grammar, the ``anthropic`` SDK's own types and accumulator, and each truth by itself."""

import json
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.parsed_message import ParsedMessage
from anthropic.types.shared import ErrorResponse
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ds4trio.api.answer import AnswerUsage, Delta, Ending
from ds4trio.api.errors import (
    ApiError,
    ContextLengthError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    TooManyRequestsError,
    UnknownModelError,
)
from ds4trio.api.messages import Messages
from ds4trio.api.messages.answer import MessagesDocument, MessagesStream
from ds4trio.api.messages.signature import carried
from ds4trio.chat import ContentDelta, OutputEvent, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from ds4trio.engine import Progress
from tests.api.messages.answers import FRAME, PROGRESS, USAGE, Run, runs, stream
from tests.grammars.messages import check_messages_stream, sse_events

EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
beat_places = st.lists(st.integers(0, 8), max_size=5)


def new_stream(*, caching: bool = False, hide_thinking: bool = False) -> MessagesStream:
    return MessagesStream(FRAME, caching=caching, hide_thinking=hide_thinking)


def new_document(*, caching: bool = False, hide_thinking: bool = False) -> MessagesDocument:
    return MessagesDocument(FRAME, caching=caching, hide_thinking=hide_thinking)


def run_of(*events: OutputEvent, ending: Ending | None = None) -> Run:
    return Run([Delta(events, 1)], [], ending or Ending("stop", USAGE))


def streamed(run: Run, **options: bool) -> dict[str, Any]:
    return check_messages_stream(stream(new_stream(**options), run, []))


def documented(run: Run, **options: bool) -> dict[str, Any]:
    answer = new_document(**options)
    for delta in run.deltas:
        assert answer.delta(0, delta) == b""
    assert answer.end(0, run.ending) == b""
    document: dict[str, Any] = json.loads(answer.finish(USAGE))
    return document


def bare(blocks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Blocks without what is made up for them."""
    return [{name: value for name, value in block.items() if name not in {"id", "signature"}} for block in blocks]


@given(runs(), beat_places, st.booleans())
def test_a_stream_is_what_the_model_did(run: Run, beats: list[int], caching: bool) -> None:
    message = check_messages_stream(stream(new_stream(caching=caching), run, beats))
    assert bare(message["content"]) == run.blocks


@given(runs(), beat_places)
def test_the_sdk_knows_every_event_and_accumulates_the_same_message(run: Run, beats: list[int]) -> None:
    body = stream(new_stream(), run, beats)
    snapshot: ParsedMessage[None] | None = None
    buffers: dict[int, bytes] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in sse_events(body):
            if value["type"] == "ping":
                continue  # the SDK drops it by its event name
            event = EVENT.validate_python(value)
            snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    assert snapshot is not None
    theirs = snapshot.model_dump(mode="json", exclude_unset=True, warnings=False)
    assert theirs.pop("stop_details") is None  # the accumulator's own
    assert theirs == check_messages_stream(body)


@given(runs(), st.booleans(), st.booleans())
def test_a_document_says_the_same_as_a_stream(run: Run, caching: bool, hide_thinking: bool) -> None:
    document = documented(run, caching=caching, hide_thinking=hide_thinking)
    Message.model_validate(document)
    message = streamed(run, caching=caching, hide_thinking=hide_thinking)
    for block in [*document["content"], *message["content"]]:
        block.pop("id", None)
    assert document == message


@given(runs())
def test_hidden_thinking_comes_back_in_its_signature(run: Run) -> None:
    message = streamed(run, hide_thinking=True)
    thinking = [block for block in message["content"] if block["type"] == "thinking"]
    assert all(block["thinking"] == "" for block in thinking)
    wanted = [block["thinking"] for block in run.blocks if block["type"] == "thinking"]
    assert [carried(block["signature"]) for block in thinking] == wanted


def test_a_signature_is_the_same_for_the_same_text_only() -> None:
    def sign(text: str) -> str:
        signature: str = streamed(run_of(ReasoningDelta(text)))["content"][0]["signature"]
        return signature

    assert sign("hm") == sign("hm") != sign("hmm")


CALL = (ToolCallStart(0, "bash"), ToolCallDelta(0, '{"command": "rm'))
WHOLE_CALL = (*CALL, ToolCallDelta(0, ' -r old"}'), ToolCallEnd(0))


@pytest.mark.parametrize(
    ("run", "reason", "sequence"),
    [
        pytest.param(run_of(), "end_turn", None, id="nothing"),
        pytest.param(run_of(ContentDelta("yes")), "end_turn", None, id="text"),
        pytest.param(run_of(*WHOLE_CALL), "tool_use", None, id="call"),
        pytest.param(run_of(*WHOLE_CALL, ContentDelta("done")), "tool_use", None, id="text-after-call"),
        pytest.param(
            run_of(ContentDelta("yes"), ending=Ending("stop", USAGE, "END")), "stop_sequence", "END", id="stop-string"
        ),
        pytest.param(run_of(ContentDelta("y"), ending=Ending("length", USAGE)), "max_tokens", None, id="cut-text"),
        pytest.param(
            run_of(*WHOLE_CALL, ending=Ending("stop", USAGE, "END")),
            "stop_sequence",
            "END",
            id="stop-string-after-call",
        ),
    ],
)
@pytest.mark.parametrize("answer", [streamed, documented])
def test_stop_reasons_are_true(
    answer: Callable[[Run], dict[str, Any]], run: Run, reason: str, sequence: str | None
) -> None:
    message = answer(run)
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (Ending("length", USAGE), "max_tokens"),
        (Ending("stop", USAGE, stop_sequence="END"), "stop_sequence"),
        (Ending("stop", USAGE), "max_tokens"),
    ],
)
def test_half_a_command_never_looks_like_a_whole_one(ending: Ending, reason: str) -> None:
    whole = (ToolCallStart(0, "bash"), ToolCallDelta(0, "{}"), ToolCallEnd(0))
    half = (ToolCallStart(1, "bash"), ToolCallDelta(1, '{"command": "rm'), ToolCallEnd(1, complete=False))
    run = run_of(*whole, *half, ending=ending)
    assert streamed(run)["content"][1]["input"] == '{"command": "rm'
    assert documented(run)["content"][1]["input"] == {}
    assert streamed(run)["stop_reason"] == documented(run)["stop_reason"] == reason


@pytest.mark.parametrize("answer", [streamed, documented])
def test_a_call_that_the_model_got_wrong_is_none_to_carry_out(answer: Callable[[Run], dict[str, Any]]) -> None:
    wrong = (*CALL, ToolCallEnd(0, complete=False), ToolCallStart(1, "bash"), ToolCallDelta(1, "{}"), ToolCallEnd(1))
    assert answer(run_of(*wrong, ContentDelta("done")))["stop_reason"] == "max_tokens"


def test_a_document_has_every_call_that_the_stream_has() -> None:
    # msgspec, and not Python's own parser, takes half a pair of surrogates for no JSON.
    run = run_of(ToolCallStart(0, "f"), ToolCallDelta(0, r'{"a": "\ud800"}'), ToolCallEnd(0))
    assert documented(run)["content"][0]["input"] == streamed(run)["content"][0]["input"] == {"a": "\ud800"}


def test_a_document_keeps_arguments_as_the_model_wrote_them() -> None:
    answer = new_document()
    arguments = '{"z": 123456789012345678901234567890, "a": 1.0}'
    answer.delta(0, Delta((ToolCallStart(0, "add"), ToolCallDelta(0, arguments), ToolCallEnd(0)), 1))
    answer.end(0, Ending("stop", USAGE))
    assert arguments.encode() in answer.finish(USAGE)


def test_tool_ids_cannot_be_guessed() -> None:
    ids = {streamed(run_of(*WHOLE_CALL))["content"][0]["id"] for _ in range(50)}
    assert len(ids) == 50
    assert all(len(id) >= len("toolu_") + 24 for id in ids)


@pytest.mark.parametrize(("caching", "name"), [(False, "input_tokens"), (True, "cache_creation_input_tokens")])
def test_usage_adds_up_to_the_prompt(caching: bool, name: str) -> None:
    body = stream(new_stream(caching=caching), run_of(ContentDelta("yes")), [0])
    events = list(sse_events(body))
    nothing = {"input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    start = events[0]["message"]["usage"]
    assert start == {**nothing, name: 100, "output_tokens": 3}
    assert next(event["usage"] for event in events if event["type"] == "message_delta") == {"output_tokens": 3}
    end = events[-2]["usage"]
    assert end.pop("output_tokens_details") == {"thinking_tokens": 2}
    assert end == {**nothing, name: 40, "cache_read_input_tokens": 60, "output_tokens": 7}


def test_a_queued_request_begins_with_what_little_is_known() -> None:
    usage = next(sse_events(new_stream().start(Progress())))["message"]["usage"]
    assert set(usage.values()) == {0}


ERRORS = [
    (InvalidRequestError("no", code="bad", param="$.x"), "invalid_request_error"),
    (ContextLengthError(9, 8, param="messages"), "invalid_request_error"),
    (UnknownModelError("x", ("y",)), "not_found_error"),
    (TooManyRequestsError("full", retry_after=3), "rate_limit_error"),
    (OverloadedError("loading"), "overloaded_error"),
    (InternalError("broken"), "api_error"),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS)
def test_an_error_has_anthropics_type(error: ApiError, kind: str) -> None:
    document = json.loads(Messages().error_document(error, request_id="req_0"))
    assert ErrorResponse.model_validate(document).error.type == kind
    assert document["type"] == "error"
    assert document["error"]["message"] == error.message
    told = json.loads(new_document().error(error))
    assert told == json.loads(new_stream().refusal(error))
    assert (told["error"], told["request_id"]) == (document["error"], f"req_{FRAME.id}")


@pytest.mark.parametrize(("status", "kind"), [(401, "authentication_error"), (413, "request_too_large")])
def test_a_status_has_its_type(status: int, kind: str) -> None:
    error = ApiError("no")
    error.status = status
    assert json.loads(Messages().error_document(error, request_id="req_0"))["error"] == {"type": kind, "message": "no"}


def test_an_errors_details_are_members_of_it() -> None:
    error = json.loads(Messages().error_document(ContextLengthError(9, 8, param="messages"), request_id="req_0"))[
        "error"
    ]
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (9, 8)


@given(runs(), st.data())
def test_an_error_is_an_error_wherever_it_comes(run: Run, data: st.DataObject) -> None:
    answer = new_stream()
    body = answer.start(PROGRESS)
    for delta in run.deltas[: data.draw(st.integers(0, len(run.deltas)))]:
        body += answer.delta(0, delta)
    body += answer.error(OverloadedError("the server is shutting down"))
    message = check_messages_stream(body)
    assert message["error"] == {"type": "overloaded_error", "message": "the server is shutting down"}
    assert message["stop_reason"] is None


def test_an_error_before_the_start_is_a_stream_as_well() -> None:
    assert check_messages_stream(new_stream().error(InternalError("broken")))["error"]["type"] == "api_error"


def client(body: bytes) -> anthropic.Anthropic:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    transport = httpx2.MockTransport(answer)
    return anthropic.Anthropic(
        api_key="none", base_url="http://server", http_client=httpx2.Client(transport=transport), max_retries=0
    )


def test_the_sdks_stream_helper_survives_beats_in_open_blocks() -> None:
    deltas = [Delta((event,), 1) for event in (ReasoningDelta("hm"), ContentDelta("yes "), *WHOLE_CALL)]
    body = stream(new_stream(), Run(deltas, [], Ending("stop", USAGE)), [0, 1, 2, 3, 4, 5, 5])
    with client(body).messages.stream(
        model="some-model", max_tokens=9, messages=[{"role": "user", "content": "do"}]
    ) as events:
        message = events.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[2].model_dump()["input"] == {"command": "rm -r old"}
    assert message.stop_reason == "tool_use"
    assert message.usage.cache_read_input_tokens == 60


def test_the_sdk_raises_on_an_error_event() -> None:
    body = new_stream().start(PROGRESS) + new_stream().error(OverloadedError("shutting down"))
    with (
        pytest.raises(anthropic.APIStatusError, match="shutting down"),
        client(body).messages.stream(
            model="some-model", max_tokens=9, messages=[{"role": "user", "content": "do"}]
        ) as events,
    ):
        events.get_final_message()


def test_a_beat_is_never_empty_and_a_comment_is_only_a_comment() -> None:
    answer = new_stream()
    assert list(sse_events(answer.beat(PROGRESS, "comment"))) == []
    assert [event["type"] for event in sse_events(answer.beat(PROGRESS, "event"))] == ["ping", "message_delta"]
    assert answer.beat(PROGRESS, "both") == answer.beat(PROGRESS, "comment") + answer.beat(PROGRESS, "event")


def test_a_delta_is_cheap() -> None:
    answer = new_stream()
    deltas = [Delta((ContentDelta(f"word {number} "),), number) for number in range(2000)]
    best = min(_seconds(answer, deltas) for _ in range(5))
    assert best / len(deltas) < 30e-6


def _seconds(answer: MessagesStream, deltas: Sequence[Delta]) -> float:
    begin = time.perf_counter()
    for delta in deltas:
        answer.delta(0, delta)
    return time.perf_counter() - begin


def test_usage_counts_a_whole_answer() -> None:
    answer = new_stream()
    body = answer.start(PROGRESS) + answer.end(0, Ending("stop", USAGE))
    message = check_messages_stream(body + answer.finish(AnswerUsage(10, 0, 0)))
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (10, 0)
