"""Streams and documents: their grammar, what they say of a given answer, and what OpenAI's own SDK makes of them."""

import json
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI, omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from ds4trio.api.answer import Answer, Delta, Ending
from ds4trio.api.errors import ApiError, ContextLengthError, InvalidRequestError, TooManyRequestsError
from ds4trio.api.responses import Responses, ResponseStore
from ds4trio.chat import ContentDelta, ReasoningDelta, ToolCallStart
from ds4trio.engine import TokenLogprob
from tests.api.responses.scripts import (
    FRAME,
    LENGTH,
    PROGRESS,
    STOP,
    TOOLS,
    Performance,
    call,
    deltas,
    performances,
    play,
    request,
)
from tests.grammars.responses import check_responses_stream, sse_events

REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "reasoning": st.sampled_from([{"summary": "auto"}, {"effort": "high"}]),
        "include": st.lists(st.sampled_from(["reasoning.encrypted_content", "message.output_text.logprobs"])),
        "instructions": st.text(),
        "metadata": st.just({"a": "b"}),
        "tool_choice": st.sampled_from(["auto", "required", {"type": "function", "name": "read"}]),
        "text": st.just({"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}}),
        "temperature": st.floats(0, 2),
    },
)
# What OpenAI sends and the SDK's types forget: in delta events a logprob's bytes, in custom calls the status.
BEYOND_THE_TYPES = {"bytes", "status", "store"}
SDK_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def answer(**members: object) -> Answer:
    return Responses(ResponseStore()).parse(request(**members)).answer(FRAME)


def events_of(body: bytes, kind: str) -> list[dict[str, Any]]:
    return [event for event in sse_events(body) if event["type"] == kind]


def output_of(*script: Delta, **members: object) -> Any:
    return check_responses_stream(play(answer(**members), list(script)))["output"]


@given(performances(), REQUESTS)
def test_every_stream_obeys_the_grammar(performance: Performance, members: dict[str, object]) -> None:
    check_responses_stream(performance.run(answer(**members)))


@pytest.mark.filterwarnings("error")
@given(performances(), REQUESTS)
def test_the_sdk_knows_every_event_and_the_stream_helper_accumulates_it(
    performance: Performance, members: dict[str, object]
) -> None:
    state: Any = ResponseStreamState(input_tools=omit, text_format=omit)
    body = performance.run(answer(**members))
    if isinstance(performance.end, ApiError) and performance.end.code == "context_length_exceeded":
        body = body.replace(b"context_length_exceeded", b"server_error")  # a code that Codex knows and the types do not
    for event in sse_events(body):
        typed = SDK_EVENTS.validate_json(json.dumps(event), strict=True)
        assert typed.type == event["type"]
        assert extras(typed) <= BEYOND_THE_TYPES
        state.handle_event(typed)


def test_the_sdks_own_stream_helper_reads_the_bytes() -> None:
    script = deltas(ReasoningDelta("hm"), ContentDelta("hel"), ContentDelta("lo"), *call("read", "{}"))
    stream = answer()
    body = stream.start(PROGRESS)
    for delta in script:
        body += stream.beat(PROGRESS, "both") + stream.delta(0, delta)
    body += stream.end(0, STOP) + stream.finish(STOP.usage)
    headers = {"content-type": stream.content_type}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=body))
    client = OpenAI(api_key="none", base_url="http://server/v1", http_client=httpx2.Client(transport=transport))
    with client.responses.stream(model="tiny", input="hello") as events:
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        final = events.get_final_response()
    assert (text, final.output_text) == ("hello", "hello")
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.usage is not None
    assert final.usage.total_tokens == 120


def extras(value: object) -> set[str]:
    """Members, at any depth, that the SDK's types do not have."""
    if isinstance(value, list):
        return {name for inner in value for name in extras(inner)}
    if not isinstance(value, BaseModel):
        return set()
    inner = (getattr(value, name) for name in type(value).model_fields)
    return set(value.model_extra or ()).union(*(extras(item) for item in inner))


@given(performances(), REQUESTS)
def test_the_document_says_what_the_stream_says(performance: Performance, members: dict[str, object]) -> None:
    if isinstance(performance.end, ApiError):
        return
    final = check_responses_stream(performance.run(answer(**members)))
    document = json.loads(play(answer(**members, stream=False), performance.script, performance.end))
    Response.model_validate_json(json.dumps(document), strict=True)
    assert without_ids(document) == without_ids(final)


def without_ids(response: dict[str, Any]) -> Any:
    def strip(value: Any) -> Any:
        if isinstance(value, list):
            return [strip(inner) for inner in value]
        if isinstance(value, dict):
            return {name: strip(inner) for name, inner in value.items() if name not in ("id", "call_id")}
        return value

    return strip(response)


def test_a_plain_answer_event_by_event() -> None:
    body = play(answer(tools=[]), deltas(ContentDelta("Hel"), ContentDelta("lo")))
    assert [event["type"] for event in sse_events(body)] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    final = check_responses_stream(body)
    assert final["id"] == "resp_00ff"
    assert final["created_at"] == 1_700_000_000
    assert final["model"] == "tiny"
    assert final["output"][0]["content"][0]["text"] == "Hello"
    assert final["usage"] == {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 60},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 120,
    }


def test_reasoning_is_text_unless_a_summary_is_asked_for() -> None:
    script = deltas(ReasoningDelta("think"), ReasoningDelta("ing"), ContentDelta("done"))
    plain = output_of(*script)
    assert plain[0]["content"] == [{"type": "reasoning_text", "text": "thinking"}]
    assert plain[0]["summary"] == []
    assert plain[0]["encrypted_content"] is None
    summary = output_of(*script, reasoning={"summary": "auto"}, include=["reasoning.encrypted_content"])
    assert summary[0]["summary"] == [{"type": "summary_text", "text": "thinking"}]
    assert "content" not in summary[0]
    assert summary[1]["content"][0]["text"] == "done"


def test_packed_reasoning_comes_back_with_the_next_request() -> None:
    script = deltas(ReasoningDelta("größe ≠ 3"), ContentDelta("ok"))
    output = output_of(*script, include=["reasoning.encrypted_content"], reasoning={"summary": "auto"})
    output[0]["summary"] = []
    task = Responses(ResponseStore()).parse(request(input=[{"role": "user", "content": "q"}, *output]))
    last = task.prompt.messages[-1]  # type: ignore[union-attr]
    assert (last.content, last.reasoning) == ("ok", "größe ≠ 3")


def test_a_namespaced_call_comes_back_under_its_own_name() -> None:
    (item,) = output_of(*deltas(*call("agents__spawn", '{"a"', ": 1}")))
    assert (item["type"], item["namespace"], item["name"]) == ("function_call", "agents", "spawn")
    assert item["arguments"] == '{"a": 1}'
    assert item["status"] == "completed"


def test_a_custom_tools_input_streams_as_text() -> None:
    body = play(answer(), deltas(*call("apply_patch", '{"in', 'put": "*** Be', "gin\\", "nPatch \\ud83d", '\\ude00"}')))
    pieces = events_of(body, "response.custom_tool_call_input.delta")
    assert [piece["delta"] for piece in pieces] == ["*** Be", "gin", "\nPatch ", "😀"]
    (item,) = check_responses_stream(body)["output"]
    assert (item["type"], item["name"], item["input"]) == (
        "custom_tool_call",
        "apply_patch",
        "*** Begin\nPatch 😀",
    )


def test_a_local_shell_call_is_a_command() -> None:
    (item,) = output_of(*deltas(*call("local_shell", '{"command": ["ls", "-l"], "timeout_ms": 5}')))
    assert item["type"] == "local_shell_call"
    assert item["action"] == {"type": "exec", "command": ["ls", "-l"], "env": {}, "timeout_ms": 5}


def test_a_command_line_runs_in_a_shell() -> None:
    (item,) = output_of(*deltas(*call("local_shell", '{"command": "ls | wc"}')))
    assert item["action"]["command"] == ["sh", "-c", "ls | wc"]


def test_a_function_call_without_arguments_has_an_empty_object() -> None:
    assert output_of(*deltas(*call("read")))[0]["arguments"] == "{}"


@pytest.mark.parametrize("name", ["read", "apply_patch", "local_shell"])
@pytest.mark.parametrize("ending", [STOP, LENGTH, Ending("stop", STOP.usage, stop_sequence="END")])
def test_half_a_command_never_looks_like_a_whole_one(name: str, ending: Ending) -> None:
    script = deltas(ContentDelta("hm"), *call(name, '{"input": "rm -rf /tm', complete=False))
    body = play(answer(), script, ending)
    assert [event["item"]["type"] for event in events_of(body, "response.output_item.done")] == ["message"]
    final = check_responses_stream(body)
    document = json.loads(play(answer(stream=False), script, ending))
    assert final["status"] == "incomplete"
    assert final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in final["output"]] == ["completed", "incomplete"]
    assert without_ids(document) == without_ids(final)


def test_a_whole_call_is_done_also_where_the_answer_was_cut_off_after_it() -> None:
    final = check_responses_stream(play(answer(), deltas(*call("read", "{}")), LENGTH))
    assert final["status"] == "incomplete"
    assert final["output"][0]["status"] == "completed"


def test_a_call_that_the_model_got_wrong_is_never_done() -> None:
    script = deltas(*call("read", '{"path": }', complete=False), ContentDelta("x"), *call("read", "{}", index=1))
    body = play(answer(), script)
    assert [event["output_index"] for event in events_of(body, "response.output_item.done")] == [1, 2]
    final = check_responses_stream(body)
    assert final["status"] == "incomplete"
    assert [item["status"] for item in final["output"]] == ["incomplete", "completed", "completed"]


def test_text_that_was_cut_off_is_incomplete() -> None:
    final = check_responses_stream(play(answer(), deltas(ContentDelta("so lo")), LENGTH))
    assert final["output"][0]["status"] == "incomplete"


def test_a_beat_repeats_the_response_so_far() -> None:
    stream = answer()
    body = stream.start(PROGRESS) + stream.delta(0, Delta((*call("read", "{}"), ContentDelta("on")), 9))
    beat = stream.beat(PROGRESS, "both")
    assert beat.startswith(b": decode 3 tokens\n\nevent: response.in_progress\n")
    (event,) = sse_events(beat)
    assert event["sequence_number"] == len(list(sse_events(body)))
    assert [item["type"] for item in event["response"]["output"]] == ["function_call"]
    assert event["response"]["tools"] == TOOLS
    assert list(sse_events(stream.beat(PROGRESS, "comment"))) == []


def test_an_error_before_anything_else_is_a_whole_stream() -> None:
    final = check_responses_stream(answer().error(ApiError("no memory")))
    assert final["status"] == "failed"
    assert final["error"] == {"code": "server_error", "message": "no memory"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ApiError("x", code="server_is_overloaded"), "server_error"),
        (TooManyRequestsError("x"), "rate_limit_exceeded"),
        (InvalidRequestError("x", code="bad_grammar"), "invalid_prompt"),
        (ContextLengthError(10, 5, param="input"), "context_length_exceeded"),
    ],
)
def test_failures_have_codes_that_clients_act_on(error: ApiError, code: str) -> None:
    stream = answer()
    assert check_responses_stream(stream.start(PROGRESS) + stream.error(error))["error"]["code"] == code


def test_a_cancelled_response_ends_as_failed_and_runs_no_tool() -> None:
    stream = answer()
    body = stream.start(PROGRESS) + stream.delta(0, Delta((ContentDelta("a"), ToolCallStart(0, "read")), 2))
    body += stream.error(ApiError("the response was cancelled", code="cancelled"))
    final = check_responses_stream(body)
    assert final["status"] == "cancelled"
    assert [item["status"] for item in final["output"]] == ["completed", "incomplete"]


def test_logprobs_belong_to_the_visible_text() -> None:
    def logprob(data: bytes) -> TokenLogprob:
        return TokenLogprob(7, data, -0.25, (TokenLogprob(7, data, -0.25), TokenLogprob(8, b"\xff", -3.0)))

    script = [
        Delta((ReasoningDelta("think"),), 1, (logprob(b"think"),)),
        Delta((), 2, (logprob(b"He"),)),
        Delta((ContentDelta("Hello"),), 3, (logprob(b"llo"),)),
    ]
    body = play(answer(include=["message.output_text.logprobs"], top_logprobs=2), script)
    (part,) = check_responses_stream(body)["output"][1]["content"]
    assert [entry["token"] for entry in part["logprobs"]] == ["He", "llo"]
    assert part["logprobs"][0] == {
        "token": "He",
        "logprob": -0.25,
        "bytes": [72, 101],
        "top_logprobs": [
            {"token": "He", "logprob": -0.25, "bytes": [72, 101]},
            {"token": "\ufffd", "logprob": -3.0, "bytes": [255]},
        ],
    }


def test_ids_are_not_to_be_guessed() -> None:
    script = deltas(*call("read", "{}"))
    first, second = output_of(*script)[0], output_of(*script)[0]
    for name, prefix in (("id", "fc_"), ("call_id", "call_")):
        assert first[name].startswith(prefix)
        assert len(first[name]) == len(prefix) + 32
        assert first[name] != second[name]


def test_a_refusal_is_openais_error_object() -> None:
    error = ContextLengthError(10, 5, param="input")
    for document in (answer().refusal(error), answer(stream=False).error(error)):
        assert json.loads(document)["error"] == {
            "message": error.message,
            "type": "invalid_request_error",
            "param": "input",
            "code": "context_length_exceeded",
            "n_prompt_tokens": 10,
            "n_ctx": 5,
        }
