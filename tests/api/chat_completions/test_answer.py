"""Chat answers as bytes: streams that obey the grammar, documents that say the same, and the SDK that reads both."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.shared import ErrorObject

from ds4trio.api.answer import Delta, Ending, Frame, HeartbeatForm, beat_text
from ds4trio.api.chat_completions.answer import ChatDocument, ChatOptions, ChatStream
from ds4trio.api.errors import (
    ApiError,
    ContextLengthError,
    InvalidRequestError,
    OverloadedError,
    UnknownModelError,
    openai_error,
)
from ds4trio.chat import ContentDelta, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from ds4trio.engine import Phase, Progress, TokenLogprob
from tests.api.openai_sdk import sdk, unknown_members
from tests.events import USAGE, Script, Step, play, scripts
from tests.grammars.chat import check_chat_stream, sse_data

FRAME = Frame(id="1f", created=1_790_000_000.75, model="small")
# What llama-server's clients know beyond OpenAI's own members.
EXTENSIONS = {"reasoning_content", "timings", "prompt_progress"}
PREFILL = Progress(Phase.PREFILL, prompt_tokens=30, cached_tokens=10, prefilled_tokens=20, rate=10.0)
FORMS: list[HeartbeatForm] = ["both", "event", "comment"]


def options(*, include_usage: bool = False, logprobs: bool = False, progress: bool = False, n: int = 1) -> ChatOptions:
    return ChatOptions(include_usage=include_usage, logprobs=logprobs, progress=progress, n=n)


def stream(**members: Any) -> ChatStream:
    return ChatStream(FRAME, options=options(**members))


def document(**members: Any) -> ChatDocument:
    return ChatDocument(FRAME, options=options(**members))


STOP = Ending("stop", USAGE, prefill_seconds=0.5, decode_seconds=0.25)


def script(*deltas: Delta, ending: Ending = STOP) -> Script:
    """One choice, with a beat before every step."""
    parts: list[Delta | Ending] = [*deltas, ending]
    steps: list[Step] = [step for part in parts for step in (PREFILL, (0, part))]
    events = tuple(event for delta in deltas for event in delta.events)
    tokens = tuple(token for delta in deltas for token in delta.logprobs)
    return Script(tuple(steps), (events,), (ending,), (tokens,))


def said(*texts: str) -> list[Delta]:
    return [Delta((ContentDelta(text),), number) for number, text in enumerate(texts, 1)]


def chunks_of(content: bytes) -> list[ChatCompletionChunk]:
    """The chunks as the SDK's types see them, without any conversion."""
    *documents, _ = sse_data(content)
    return [ChatCompletionChunk.model_validate_json(text, strict=True) for text in documents]


def finish_reason(script: Script, choice: int) -> str:
    ending = script.endings[choice]
    called = script.calls(choice) and (ending.reason, ending.stop_sequence) == ("stop", None)
    return "tool_calls" if called else ending.reason


# --- any answer -------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data(), n=st.integers(1, 3), include_usage=st.booleans(), progress=st.booleans())
def test_a_stream_obeys_its_grammar_and_carries_every_choice_unchanged(
    data: st.DataObject, n: int, include_usage: bool, progress: bool
) -> None:
    script = data.draw(scripts(n=n))
    form = data.draw(st.sampled_from(FORMS))
    content = play(stream(include_usage=include_usage, progress=progress, n=n), script, form=form)
    choices = check_chat_stream(content, stop_strings=True)
    assert len(choices) == n
    for index, choice in enumerate(choices):
        assert choice["content"] == script.text(index)
        assert choice["reasoning"] == script.reasoning(index)
        assert [(call["name"], call["arguments"]) for call in choice["tool_calls"]] == script.calls(index)
        assert choice["finish_reason"] == finish_reason(script, index)
        assert choice["logprobs"] is None


@settings(max_examples=40)
@given(data=st.data(), n=st.integers(1, 3), include_usage=st.booleans())
def test_the_sdk_s_types_accept_every_chunk_and_its_accumulator_makes_the_same_message(
    data: st.DataObject, n: int, include_usage: bool
) -> None:
    script = data.draw(scripts(n=n))
    chunks = chunks_of(play(stream(include_usage=include_usage, progress=True, n=n), script))
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in chunks:
        assert unknown_members(chunk) <= EXTENSIONS
        assert (chunk.id, chunk.created, chunk.model) == ("chatcmpl-1f", 1_790_000_000, "small")
        state.handle_chunk(chunk)
    # The final completion is the same, but cannot be had where an answer was cut off: the SDK raises then.
    completion = state.current_completion_snapshot
    assert (completion.usage is not None) is include_usage
    assert [choice.index for choice in completion.choices] == list(range(n))
    for index, choice in enumerate(completion.choices):
        assert choice.message.role == "assistant"
        assert choice.message.content == script.text(index)
        assert (choice.message.model_extra or {}).get("reasoning_content", "") == script.reasoning(index)
        calls = choice.message.tool_calls or []
        assert [(call.function.name, call.function.arguments) for call in calls] == script.calls(index)
        assert choice.finish_reason == finish_reason(script, index)


@settings(max_examples=60)
@given(data=st.data(), n=st.integers(1, 3))
def test_a_document_is_what_the_sdk_s_types_accept_and_says_what_the_stream_says(data: st.DataObject, n: int) -> None:
    script = data.draw(scripts(n=n))
    streamed = check_chat_stream(play(stream(n=n), script), stop_strings=True)
    completion = ChatCompletion.model_validate_json(play(document(n=n), script), strict=True)
    assert unknown_members(completion) <= EXTENSIONS
    assert (completion.id, completion.created, completion.model) == ("chatcmpl-1f", 1_790_000_000, "small")
    assert [choice.index for choice in completion.choices] == list(range(n))
    ids = set()
    for choice, expected in zip(completion.choices, streamed, strict=True):
        message = choice.message
        assert (message.content or "") == expected["content"]
        assert (message.model_extra or {}).get("reasoning_content", "") == expected["reasoning"]
        calls = [call for call in message.tool_calls or [] if call.type == "function"]
        assert [(call.function.name, call.function.arguments) for call in calls] == [
            (call["name"], call["arguments"]) for call in expected["tool_calls"]
        ]
        assert (message.tool_calls is None) is (expected["tool_calls"] == [])
        assert choice.finish_reason == expected["finish_reason"]
        ids |= {call.id for call in calls}
    assert len(ids) == sum(len(choice["tool_calls"]) for choice in streamed)


@settings(max_examples=40)
@given(data=st.data(), n=st.integers(1, 2))
def test_every_token_s_logprob_is_told_once_streamed_or_not(data: st.DataObject, n: int) -> None:
    script = data.draw(scripts(n=n, logprobs=True))
    content = play(stream(logprobs=True, n=n), script)
    chunks_of(content)
    completion = ChatCompletion.model_validate_json(play(document(logprobs=True, n=n), script), strict=True)
    for index, choice in enumerate(check_chat_stream(content, stop_strings=True)):
        told = choice["logprobs"] or []
        assert [(bytes(token["bytes"]), token["logprob"]) for token in told] == [
            (token.data, token.logprob) for token in script.logprobs[index]
        ]
        assert [[bytes(top["bytes"]) for top in token["top_logprobs"]] for token in told] == [
            [top.data for top in token.top] for token in script.logprobs[index]
        ]
        logprobs = completion.choices[index].logprobs
        assert logprobs is not None
        assert [token.model_dump() for token in logprobs.content or []] == told


# --- the SDK's client -------------------------------------------------------------------------------------------------

CALL = [
    Delta((ReasoningDelta("hm"),), 1),
    Delta((ContentDelta("Let me see.\n\ndata: é😀"), ToolCallStart(0, "read")), 3),
    Delta((ToolCallDelta(0, '{"path": '),), 4),
    Delta((ToolCallDelta(0, '"a"}'), ToolCallEnd(0), ToolCallStart(1, "list"), ToolCallDelta(1, "{}")), 8),
    Delta((ToolCallEnd(1),), 9),
]


def test_the_sdk_s_own_stream_helper_reads_calls_through_beats() -> None:
    content = play(stream(include_usage=True), script(*CALL))
    with (
        sdk(content, ChatStream.content_type) as client,
        client.chat.completions.stream(model="small", messages=[]) as events,
    ):
        kinds = [event.type for event in events]
        (choice,) = events.get_final_completion().choices
    assert kinds.count("tool_calls.function.arguments.done") == 2
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see.\n\ndata: é😀"
    calls = choice.message.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("read", '{"path": "a"}'),
        ("list", "{}"),
    ]


def test_the_sdk_reads_a_document_through_its_beats() -> None:
    content = play(document(), script(*CALL))
    assert content.startswith(b" ")
    with sdk(content, ChatDocument.content_type) as client:
        (choice,) = client.chat.completions.create(model="small", messages=[]).choices
    calls = [call for call in choice.message.tool_calls or [] if call.type == "function"]
    assert [json.loads(call.function.arguments) for call in calls] == [{"path": "a"}, {}]
    assert choice.message.content == "Let me see.\n\ndata: é😀"


def test_a_message_that_only_calls_has_no_content_in_a_document() -> None:
    deltas = [Delta((ToolCallStart(0, "read"), ToolCallDelta(0, "{}"), ToolCallEnd(0)), 1)]
    (choice,) = json.loads(play(document(), script(*deltas)))["choices"]
    assert choice["message"]["content"] is None
    (choice,) = json.loads(play(document(), script()))["choices"]
    assert choice["message"] == {"role": "assistant", "content": "", "refusal": None}


def test_call_ids_cannot_be_guessed() -> None:
    def ids() -> set[str]:
        (choice,) = check_chat_stream(play(stream(), script(*CALL)))
        return {call["id"] for call in choice["tool_calls"]}

    assert len(ids() | ids() | ids()) == 6
    assert all(len(id) > 20 for id in ids())


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (Ending("length", USAGE), "length"),
        (Ending("stop", USAGE, stop_sequence="END"), "stop"),
        (Ending("stop", USAGE), "length"),
    ],
)
def test_half_a_command_never_looks_like_a_whole_one(ending: Ending, reason: str) -> None:
    half = (ToolCallStart(1, "bash"), ToolCallDelta(1, '{"command": "rm -r /'), ToolCallEnd(1, complete=False))
    whole = (ToolCallStart(0, "bash"), ToolCallDelta(0, "{}"), ToolCallEnd(0))
    cut = script(Delta((*whole, *half), 9), ending=ending)
    (streamed,) = check_chat_stream(play(stream(), cut), stop_strings=True)
    (told,) = json.loads(play(document(), cut))["choices"]
    assert streamed["finish_reason"] == told["finish_reason"] == reason
    assert streamed["tool_calls"][1]["arguments"] == '{"command": "rm -r /'
    assert told["message"]["tool_calls"][1]["function"]["arguments"] == '{"command": "rm -r /'


def test_a_stop_string_after_a_call_says_stop() -> None:
    stopped = script(*CALL, ending=Ending("stop", USAGE, stop_sequence="END"))
    (told,) = json.loads(play(document(), stopped))["choices"]
    (streamed,) = check_chat_stream(play(stream(), stopped), stop_strings=True)
    assert streamed["finish_reason"] == told["finish_reason"] == "stop"


# --- usage, timings, progress, logprobs -------------------------------------------------------------------------------

OPENAI_USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 5,
    "total_tokens": 35,
    "prompt_tokens_details": {"cached_tokens": 20},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
TIMINGS = {
    "cache_n": 20,
    "prompt_n": 10,
    "prompt_ms": 500.0,
    "prompt_per_token_ms": 50.0,
    "prompt_per_second": 20.0,
    "predicted_n": 5,
    "predicted_ms": 250.0,
    "predicted_per_token_ms": 50.0,
    "predicted_per_second": 20.0,
}


def test_a_stream_says_its_usage_in_one_last_chunk_without_choices_and_only_where_asked() -> None:
    *chunks, last = map(json.loads, sse_data(play(stream(include_usage=True), script(*said("a", "b"))))[:-1])
    assert (last["choices"], last["usage"]) == ([], OPENAI_USAGE)
    assert all(chunk["usage"] is None for chunk in chunks), "null, as OpenAI sends it"
    assert b"usage" not in play(stream(), script(*said("a", "b")))


def test_timings_come_with_the_finish_reason_and_with_the_document() -> None:
    *_, last, _ = sse_data(play(stream(), script(*said("a"))))
    assert json.loads(last)["timings"] == TIMINGS
    completion = json.loads(play(document(), script(*said("a"))))
    assert (completion["timings"], completion["usage"]) == (TIMINGS, OPENAI_USAGE)


def test_timings_tell_what_was_guessed_where_anything_was() -> None:
    ending = replace(STOP, drafted=9, accepted=7)
    completion = json.loads(play(document(), script(*said("a"), ending=ending)))
    assert completion["timings"] == {**TIMINGS, "draft_n": 9, "draft_n_accepted": 7}


def test_timings_of_nothing_divide_by_nothing() -> None:
    answer = document()
    answer.end(0, Ending("stop", USAGE))
    timings = json.loads(answer.finish(USAGE))["timings"]
    assert (timings["prompt_per_second"], timings["predicted_ms"]) == (0.0, 0.0)


def test_the_progress_of_the_prefill_is_llama_server_s_where_it_was_asked_for() -> None:
    assert stream().prefill(PREFILL) == b""
    (data,) = sse_data(stream(progress=True).prefill(PREFILL))
    assert json.loads(data)["prompt_progress"] == {"total": 30, "cache": 10, "processed": 20, "time_ms": 1000}
    (data,) = sse_data(stream(progress=True).prefill(Progress(Phase.PREFILL, prompt_tokens=30)))
    assert json.loads(data)["prompt_progress"] == {"total": 30, "cache": 0, "processed": 0, "time_ms": 0}


def test_logprobs_of_tokens_that_are_no_whole_character_keep_their_bytes() -> None:
    halves = (TokenLogprob(1, b"\xc3", -0.5, (TokenLogprob(1, b"\xc3", -0.5),)), TokenLogprob(2, b"\xa9", -0.25))
    deltas = [Delta((), 2, halves[:1]), Delta((ContentDelta("é"),), 2, halves[1:]), *said("!")]
    (choice,) = check_chat_stream(play(stream(logprobs=True), script(*deltas)))
    assert choice["content"] == "é!"
    assert [token["bytes"] for token in choice["logprobs"]] == [[0xC3], [0xA9]]
    assert choice["logprobs"][0]["top_logprobs"] == [{"token": "\ufffd", "logprob": -0.5, "bytes": [0xC3]}]


def test_logprobs_of_a_delta_with_several_events_are_told_with_the_first() -> None:
    answer = stream(logprobs=True)
    delta = Delta((ContentDelta("a"), ToolCallStart(0, "read")), 2, (TokenLogprob(1, b"a", -1.0),))
    first, second = map(json.loads, sse_data(answer.delta(0, delta)))
    assert len(first["choices"][0]["logprobs"]["content"]) == 1
    assert second["choices"][0]["logprobs"] is None


# --- errors -----------------------------------------------------------------------------------------------------------

ERRORS = [
    InvalidRequestError("no", code="unsupported", param="$.n"),
    ContextLengthError(9000, 8192, param="messages"),
    UnknownModelError("gpt", ("small", "large")),
    OverloadedError("later", code="queue_full", retry_after=5),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("answer", [stream, document])
def test_a_refusal_is_the_error_object_of_the_sdk(
    answer: Callable[[], ChatStream | ChatDocument], error: ApiError
) -> None:
    content = json.loads(answer().refusal(error))
    assert list(content) == ["error"]
    read = ErrorObject.model_validate(content["error"], strict=True)
    param = error.param and error.param.removeprefix("$.")
    assert (read.message, read.type, read.code, read.param) == (error.message, error.kind, error.code, param)
    assert read.model_extra == dict(error.details)


def test_a_prompt_that_is_too_long_says_both_lengths() -> None:
    error = openai_error(ContextLengthError(9000, 8192, param="messages"))["error"]
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (9000, 8192)
    assert error["code"] == "context_length_exceeded"


def test_a_stream_that_fails_ends_with_an_error_on_which_the_sdk_raises() -> None:
    error = OverloadedError("the server is shutting down", code="shutting_down")
    answer = stream(include_usage=True)
    content = answer.start(PREFILL) + answer.delta(0, said("Hel")[0]) + answer.beat(PREFILL, "both")
    content += answer.error(error)
    (choice,) = check_chat_stream(content)
    assert (choice["content"], choice["error"]["code"]) == ("Hel", "shutting_down")
    seen: list[ChatCompletionChunk] = []
    with sdk(content, ChatStream.content_type) as client:
        chunks = client.chat.completions.create(model="small", messages=[], stream=True)
        with pytest.raises(openai.APIError, match="the server is shutting down") as caught:
            seen.extend(chunks)
    assert caught.value.code == "shutting_down"
    assert [chunk.choices[0].delta.content for chunk in seen] == ["", "Hel", None]


def test_a_document_that_fails_after_its_first_beat_is_the_error_object_alone() -> None:
    error = OverloadedError("the server is shutting down", code="shutting_down")
    answer = document()
    content = answer.start(PREFILL) + answer.delta(0, said("never sent")[0]) + answer.beat(PREFILL, "both")
    assert json.loads(content + answer.error(error)) == openai_error(error)


# --- beats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(Phase.QUEUED, queue_position=2, queue_length=3, prompt_tokens=50), "queued 2/3"),
        (
            Progress(Phase.PREFILL, prompt_tokens=81722, prefilled_tokens=4096, rate=271.4),
            "prefill 4096/81722 (5.0%) 271 t/s eta 286s",
        ),
        (Progress(Phase.PREFILL, prompt_tokens=81722, prefilled_tokens=0), "prefill 0/81722 (0.0%)"),
        (
            Progress(Phase.PREFILL, prompt_tokens=10, prefilled_tokens=10, rate=5.0),
            "prefill 10/10 (100.0%) 5 t/s eta 0s",
        ),
        (Progress(Phase.PREFILL), "prefill 0/0 (0.0%)"),
        (
            Progress(Phase.LOADING, prompt_tokens=81722, prefilled_tokens=4096, rate=9000.0),
            "loading 4096/81722 (5.0%)",
        ),
        (Progress(Phase.DECODE, prompt_tokens=50, prefilled_tokens=50, output_tokens=17, rate=9.0), "decode 17 tokens"),
    ],
)
def test_a_beat_says_what_the_client_waits_for(progress: Progress, text: str) -> None:
    comment = f": {text}\n\n".encode()
    event = stream().beat(progress, "event")
    assert json.loads(sse_data(event)[0])["choices"] == [
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}
    ]
    assert beat_text(progress) == text
    assert stream().beat(progress, "comment") == comment
    assert stream().beat(progress, "both") == comment + event
    assert [document().beat(progress, form) for form in FORMS] == [b" "] * 3


def test_a_beat_never_names_a_choice_that_has_ended() -> None:
    answer = stream(n=3, include_usage=True)

    def named() -> list[int]:
        (data,) = sse_data(answer.beat(PREFILL, "event"))
        return [choice["index"] for choice in json.loads(data)["choices"]]

    ending = Ending("stop", USAGE)
    seen = [named()]
    for choice in (1, 0, 2):
        answer.end(choice, ending)
        seen.append(named())
    assert seen == [[0], [0], [2], []]


def test_a_stream_begins_with_the_role_of_every_choice_and_a_document_keeps_its_status_open() -> None:
    deltas = [json.loads(data)["choices"][0] for data in sse_data(stream(n=2).start(PREFILL))]
    assert [(entry["index"], entry["delta"]) for entry in deltas] == [
        (index, {"role": "assistant", "content": ""}) for index in (0, 1)
    ]
    assert ChatStream.streams
    assert document().start(PREFILL) == b" "
    assert document().delta(0, said("a")[0]) == b""
    assert not ChatDocument.streams
