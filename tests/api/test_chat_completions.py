"""Chat Completions as bytes: what a request may be, and answers that the ``openai`` SDK's own types accept."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import openai
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.shared import ErrorObject

from ds4trio.api.answer import beat_text
from ds4trio.api.chat_completions import ChatDocument, ChatStream, ChatTask, error_body, parse
from ds4trio.api.errors import ApiError, ContextLengthError, InvalidRequestError, OverloadedError, UnknownModelError
from ds4trio.chat import Message
from ds4trio.engine import Finished, Phase, Progress, Sampling, TextDelta, Usage

HI = [{"role": "user", "content": "hi"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def body(**members: object) -> bytes:
    return json.dumps({"messages": HI, **members}).encode()


def raw(members: str) -> bytes:
    """A body with members that ``json.dumps`` would not write."""
    return f'{{"messages": [{{"role": "user", "content": "hi"}}], {members}}}'.encode()


def refusal(request: bytes) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse(request)
    return caught.value


# --- good requests ----------------------------------------------------------------------------------------------------


def test_the_least_request_asks_for_one_document_up_to_the_context() -> None:
    assert parse(body()) == ChatTask(
        model=None,
        messages=(Message("user", "hi"),),
        overrides={},
        max_tokens=None,
        stop=(),
        stream=False,
        include_usage=False,
    )


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_every_role_is_read(role: str) -> None:
    assert [message.role for message in parse(body(messages=[{"role": role, "content": ""}])).messages] == [role]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("as it is\n", "as it is\n"),
        ("", ""),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {}}], "ab"),
    ],
)
def test_content_is_a_text_or_text_parts_or_nothing(content: object, text: str) -> None:
    assert parse(body(messages=[{"role": "assistant", "content": content}])).messages[0].content == text


def test_a_message_without_content_is_empty() -> None:
    assert parse(body(messages=[{"role": "assistant"}])).messages == (Message("assistant", ""),)


def test_what_templates_may_know_of_a_message_is_kept_and_nothing_else() -> None:
    calls = [{"id": "call_1", "type": "function", "function": {"name": "read", "arguments": "{}"}}]
    messages = [
        {"role": "assistant", "tool_calls": calls, "reasoning_content": "hm", "refusal": None, "audio": {"id": "a"}},
        {"role": "tool", "tool_call_id": "call_1", "name": "read", "content": "text"},
    ]
    assert [message.extra for message in parse(body(messages=messages)).messages] == [
        {"tool_calls": calls, "reasoning_content": "hm"},
        {"tool_call_id": "call_1", "name": "read"},
    ]


def test_what_is_asked_of_the_sampling_overrides_the_defaults_and_the_rest_stays() -> None:
    task = parse(body(temperature=0, top_k=40, seed=-1, logit_bias={"7": -100, "50256": 2.5}))
    defaults = Sampling(temperature=0.6, top_p=0.9, logit_bias={1: 1.0})
    assert task.sampling(defaults) == Sampling(
        temperature=0, top_k=40, top_p=0.9, seed=-1, logit_bias={7: -100, 50256: 2.5}
    )


@pytest.mark.parametrize(
    ("members", "limit"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 5),
        ({"max_tokens": None, "max_completion_tokens": 1}, 1),
        ({"max_tokens": None}, None),
    ],
)
def test_the_smaller_limit_counts(members: dict[str, object], limit: int | None) -> None:
    assert parse(body(**members)).max_tokens == limit


@pytest.mark.parametrize(
    ("stop", "strings"),
    [("END", ("END",)), (["a", "b"], ("a", "b")), ([], ()), ("", ()), (["a", ""], ("a",)), (None, ())],
)
def test_stop_is_one_string_or_several_and_empty_ones_stop_nothing(stop: object, strings: tuple[str, ...]) -> None:
    assert parse(body(stop=stop)).stop == strings


@pytest.mark.parametrize(
    ("options", "usage"),
    [(None, False), ({}, False), ({"include_usage": False}, False), ({"include_usage": True}, True)],
)
def test_a_stream_ends_with_the_usage_where_that_is_asked_for(options: object, usage: bool) -> None:
    task = parse(body(stream=True, stream_options=options))
    assert (task.stream, task.include_usage) == (True, usage)


@pytest.mark.parametrize(
    "members",
    [
        {"n": 1},
        {"tools": []},
        {"tool_choice": "none"},
        {"tool_choice": "auto"},
        {"response_format": {"type": "text"}},
        {"logprobs": False},
        {"logit_bias": {}},
        {"store": True, "metadata": {"a": [None]}, "user": "me", "service_tier": "auto", "chat_template_kwargs": {}},
    ],
)
def test_members_that_ask_for_nothing_special_change_nothing(members: dict[str, object]) -> None:
    assert parse(body(**members)) == parse(body())


def test_every_member_may_be_null_but_the_messages() -> None:
    names = ["model", "n", "stream", "stop", "tools", "tool_choice", "response_format", "logprobs"]
    names += ["temperature", "top_p", "seed", "logit_bias", "max_tokens", "stream_options", "presence_penalty"]
    assert parse(body(**dict.fromkeys(names))) == parse(body())
    assert refusal(body(messages=None)).param == "$.messages"


# --- bad requests: not JSON -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"   ", id="white space"),
        pytest.param(b"model=x&messages=hi", id="a form"),
        pytest.param(body()[:-1], id="cut"),
        pytest.param(body() + b"{}", id="two documents"),
        pytest.param(b"\xef\xbb\xbf" + body(), id="byte order mark"),
        pytest.param(raw("'temperature': 1"), id="single quotes"),
        pytest.param(raw('"temperature": 1,'), id="trailing comma"),
        pytest.param(raw('"temperature": NaN'), id="NaN"),
        pytest.param(raw('"temperature": -Infinity'), id="Infinity"),
        pytest.param(raw('"user": NaN'), id="NaN where nobody looks"),
        pytest.param(body().decode().encode("utf-16"), id="UTF-16"),
        pytest.param(body().replace(b"hi", b"\xff"), id="bytes that are no UTF-8"),
        pytest.param(body().replace(b"hi", rb"\ud800"), id="lone high surrogate"),
        pytest.param(body().replace(b"hi", rb"\udc00 and more"), id="lone low surrogate"),
        pytest.param(body().replace(b"hi", rb"\ud800\u0041"), id="surrogate with a letter"),
        pytest.param(body().replace(b"hi", b"\xed\xa0\x80"), id="surrogate in bytes"),
        pytest.param(body().replace(b"hi", b"a\nb"), id="raw line break"),
    ],
)
def test_a_body_that_is_not_json_is_refused_as_such(request_body: bytes) -> None:
    error = refusal(request_body)
    assert (error.status, error.code, error.param) == (400, "invalid_json", None)
    assert error.message.startswith("the body is not JSON: ")


@pytest.mark.parametrize("member", ["tools", "user", "messages", "metadata"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_body_that_is_nested_deeply_is_refused(member: str, opening: str, closing: str) -> None:
    deep = opening * 50_000 + "1" + closing * 50_000
    assert refusal(raw(f'"{member}": {deep}')).status == 400


# --- bad requests: not this API ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_body", "param", "parts"),
    [
        (b"[]", None, ["object", "array"]),
        (b"null", None, ["object", "null"]),
        (b"{}", None, ["messages"]),
        (body(messages="hi"), "$.messages", ["array", "str"]),
        (body(messages=["hi"]), "$.messages[0]", ["object", "str"]),
        (body(messages=[*HI, {"content": "hi"}]), "$.messages[1]", ["role"]),
        (body(messages=[{"role": "function", "content": ""}]), "$.messages[0].role", ["function"]),
        (body(messages=[{"role": 1, "content": ""}]), "$.messages[0].role", ["int"]),
        (body(messages=[*HI, {"role": "user", "content": 3}]), "$.messages[1].content", ["str", "int"]),
        (body(messages=[{"role": "user", "content": {}}]), "$.messages[0].content", ["str", "object"]),
        (body(messages=[{"role": "user", "content": ["hi"]}]), "$.messages[0].content[0]", ["object", "str"]),
        (body(messages=[{"role": "user", "content": [{"text": "hi"}]}]), "$.messages[0].content[0]", ["type"]),
        (
            body(messages=[{"role": "user", "content": [{"type": "text", "text": 1}]}]),
            "$.messages[0].content[0].text",
            ["str", "int"],
        ),
        (body(messages=[{"role": "assistant", "tool_calls": [1]}]), "$.messages[0].tool_calls[0]", ["object", "int"]),
        (body(model=1), "$.model", ["str", "int"]),
        (body(stream="yes"), "$.stream", ["bool", "str"]),
        (body(stream_options={"include_usage": 1}), "$.stream_options.include_usage", ["bool", "int"]),
        (body(temperature="hot"), "$.temperature", ["float", "str"]),
        (body(temperature=True), "$.temperature", ["float", "bool"]),
        (body(max_tokens=2.5), "$.max_tokens", ["int", "float"]),
        (body(stop=[1]), "$.stop[0]", ["str", "int"]),
        (body(stop={}), "$.stop", ["str", "object"]),
        (body(logit_bias=[]), "$.logit_bias", ["object", "array"]),
        (body(logit_bias={"1": "x"}), "$.logit_bias[...]", ["float", "str"]),
        (body(tools={}), "$.tools", ["array", "object"]),
        (body(response_format="json"), "$.response_format", ["object", "str"]),
    ],
)
def test_a_wrong_type_is_refused_with_its_path_and_both_types(
    request_body: bytes, param: str | None, parts: Sequence[str]
) -> None:
    error = refusal(request_body)
    assert (error.status, error.code, error.param) == (400, "invalid_type", param)
    assert (param or "") in error.message
    assert all(part in error.message for part in parts)


@pytest.mark.parametrize("role", ["user - at `$.model`", " - at ", "`"])
def test_a_value_that_looks_like_a_path_is_not_taken_for_one(role: str) -> None:
    error = refusal(body(messages=[{"role": role, "content": ""}]))
    assert error.param == "$.messages[0].role"
    assert role in error.message


@pytest.mark.parametrize(
    ("name", "least", "below", "most", "above"),
    [
        ("temperature", 0, -0.1, 100, 100.1),
        ("top_p", 0, -0.1, 1, 1.1),
        ("top_k", 0, -1, 2**31 - 1, 2**31),
        ("min_p", 0, -0.1, 1, 1.1),
        ("typical_p", 0.01, 0, 1, 1.1),
        ("repeat_penalty", 0.01, 0, 100, 100.1),
        ("repeat_last_n", 0, -1, 65536, 65537),
        ("presence_penalty", -2, -2.1, 2, 2.1),
        ("frequency_penalty", -2, -2.1, 2, 2.1),
        ("max_tokens", 1, 0, 10**9, None),
        ("max_completion_tokens", 1, -1, 10**9, None),
    ],
)
def test_numbers_are_allowed_to_their_bounds_and_refused_beyond_with_the_bound(
    name: str, least: float, below: float, most: float, above: float | None
) -> None:
    for allowed in (least, most):
        task = parse(body(**{name: allowed}))
        assert (task.max_tokens if name.startswith("max_") else task.overrides[name]) == allowed
    for value in (below, above):
        if value is not None:
            error = refusal(body(**{name: value}))
            assert error.param == f"$.{name}"
            assert any(sign in error.message for sign in (" >= ", " > ", " <= "))


@pytest.mark.parametrize("value", ["1e999", "-1e999", "9" * 400])
def test_a_number_beyond_all_floats_is_refused(value: str) -> None:
    assert refusal(raw(f'"temperature": {value}')).param == "$.temperature"


@pytest.mark.parametrize("key", ["x", "", "1.5", "0x10", "1e3", "9" * 5000])
def test_logit_bias_keys_are_token_ids_in_decimal(key: str) -> None:
    error = refusal(body(logit_bias={"1": 1, key: 1}))
    assert (error.code, error.param) == ("invalid_value", "logit_bias")
    assert "token ids in decimal" in error.message


@pytest.mark.parametrize("key", ["1_000", " 7 ", "+7", "-1"])
def test_logit_bias_keys_that_only_python_reads_as_token_ids_are_refused(key: str) -> None:
    assert refusal(body(logit_bias={key: 1})).param == "logit_bias"


@pytest.mark.parametrize("bias", [-100.5, 101])
def test_a_logit_bias_is_at_most_100_either_way(bias: float) -> None:
    assert str(100) in refusal(body(logit_bias={"1": bias})).message


def test_more_stop_strings_than_are_looked_for_are_refused_with_their_number() -> None:
    assert len(parse(body(stop=["x"] * 16)).stop) == 16
    error = refusal(body(stop=["x"] * 17))
    assert error.param == "$.stop"
    assert "16" in error.message


# --- bad requests: not on this server ---------------------------------------------------------------------------------


def test_a_conversation_without_messages_is_refused() -> None:
    error = refusal(body(messages=[]))
    assert (error.code, error.param) == ("empty_array", "messages")
    assert "must not be empty" in error.message


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "refusal", "", "TEXT"])
def test_a_part_that_is_no_text_is_refused_with_its_path_and_its_type(kind: str) -> None:
    parts = [{"type": "text", "text": "what is this?"}, {**IMAGE, "type": kind}]
    error = refusal(body(messages=[*HI, {"role": "user", "content": parts}]))
    assert (error.code, error.param) == ("unsupported_content", "$.messages[1].content[1].type")
    assert repr(kind) in error.message
    assert "text parts" in error.message


def test_a_text_part_without_text_is_refused_with_its_path() -> None:
    error = refusal(body(messages=[{"role": "user", "content": [{"type": "text"}]}]))
    assert (error.code, error.param) == ("missing_required_parameter", "$.messages[0].content[0].text")


@pytest.mark.parametrize(
    ("members", "param", "part"),
    [
        ({"n": 2}, "n", "n must be 1, not 2"),
        ({"n": 0}, "n", "n must be 1, not 0"),
        ({"tools": [{"type": "function", "function": {"name": "read"}}]}, "tools", "send no tools"),
        ({"tool_choice": "required"}, "tool_choice", "tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "read"}}}, "tool_choice", "tools"),
        ({"tool_choice": []}, "tool_choice", "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format", "text"),
        ({"response_format": {"type": ["text"]}}, "response_format", "text"),
        ({"response_format": {}}, "response_format", "text"),
        ({"logprobs": True}, "logprobs", "logprobs"),
    ],
)
def test_what_this_server_cannot_do_is_refused_by_name(members: dict[str, object], param: str, part: str) -> None:
    error = refusal(body(**members))
    assert (error.status, error.kind, error.param) == (400, "invalid_request_error", param)
    assert error.code in {"unsupported", "unsupported_value"}
    assert part in error.message


# --- any request ------------------------------------------------------------------------------------------------------

MEMBERS = sorted(
    {"messages", "model", "stream", "stream_options", "n", "stop", "logit_bias", "tools", "tool_choice", "logprobs"}
    | {"response_format", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "seed"}
    | {"role", "content", "name", "tool_calls", "tool_call_id", "type", "text", "include_usage", "unknown"}
)
# Lone surrogates too: json.dumps writes them, and NaN and Infinity, as many a client does.
strings = st.one_of(st.sampled_from(["user", "text", "auto", "1", ""]), st.text(st.characters(exclude_categories=())))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), strings)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.sampled_from(MEMBERS), strings), inner, max_size=4)
    ),
    max_leaves=12,
)
message_like = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
    optional={
        "content": st.one_of(strings, st.lists(st.fixed_dictionaries({"type": strings, "text": values}))),
        "name": values,
    },
)
request_like = st.fixed_dictionaries(
    {"messages": st.lists(message_like, max_size=3)},
    optional={name: st.one_of(scalars, values) for name in MEMBERS if name != "messages"},
)


def check(request: bytes) -> None:
    """Either a task that an engine can take, or `InvalidRequestError` with something to say."""
    try:
        task = parse(request)
    except InvalidRequestError as error:
        refused: InvalidRequestError | None = error
    else:
        refused = None
    if refused is not None:
        assert json.loads(ChatDocument(id="x", created=0, model="m").refusal(refused)) == error_body(refused)
        return
    assert task.messages
    assert task.max_tokens is None or task.max_tokens >= 1
    assert all(task.stop)
    assert isinstance(task.sampling(Sampling()), Sampling)
    for text in (*task.stop, *(message.content for message in task.messages)):
        text.encode()


@settings(deadline=None)
@given(value=values)
def test_any_json_value_is_a_task_or_an_invalid_request(value: object) -> None:
    check(json.dumps(value).encode())


@settings(max_examples=200, deadline=None)
@given(value=request_like)
def test_anything_like_a_request_is_a_task_or_an_invalid_request(value: object) -> None:
    check(json.dumps(value).encode())


@settings(deadline=None)
@given(data=st.binary())
def test_any_bytes_are_a_task_or_an_invalid_request(data: bytes) -> None:
    check(data)


@settings(deadline=None)
@given(start=st.integers(0, 200), length=st.integers(0, 10), data=st.binary(max_size=6))
def test_a_request_with_damaged_bytes_is_a_task_or_an_invalid_request(start: int, length: int, data: bytes) -> None:
    good = body(stop=["a", "é"], temperature=0.5, logit_bias={"5": 1}, stream=True, model="m", max_tokens=3)
    check(good[:start] + data + good[start + length :])


# --- answers: what an SDK makes of them -------------------------------------------------------------------------------

USAGE = Usage(prompt_tokens=30, cached_tokens=20, output_tokens=5)
CREATED = 1_790_000_000.75


def stream(*, include_usage: bool = False) -> ChatStream:
    return ChatStream(id="chatcmpl-1", created=CREATED, model="small", include_usage=include_usage)


def document() -> ChatDocument:
    return ChatDocument(id="chatcmpl-1", created=CREATED, model="small")


def played(answer: ChatStream | ChatDocument, texts: Sequence[str], end: Finished | ApiError) -> bytes:
    """A whole answer with a beat before every event."""
    beat = answer.beat(Progress(Phase.PREFILL, prompt_tokens=30, prefilled_tokens=20, rate=10.0))
    events = [answer.start(), *(answer.delta(TextDelta(text, index + 1)) for index, text in enumerate(texts))]
    last = answer.finish(end) if isinstance(end, Finished) else answer.error(end)
    return b"".join(beat + event for event in [*events, last])


def data_of(stream_bytes: bytes) -> list[str]:
    """The events of a stream as a strict parser sees them: comments dropped, one ``data`` line each."""
    *events, rest = stream_bytes.decode().split("\n\n")
    assert rest == ""
    assert all("\n" not in event and "\r" not in event for event in events)
    lines = [event for event in events if not event.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def unknown_members(model: pydantic.BaseModel) -> list[str]:
    """Members that the SDK's types do not declare; they accept any."""
    found = list(model.model_extra or {})
    for value in dict(model).values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, pydantic.BaseModel):
                found += unknown_members(item)
    return found


def chunks_of(stream_bytes: bytes) -> list[ChatCompletionChunk]:
    *documents, done = data_of(stream_bytes)
    assert done == "[DONE]"
    chunks = [ChatCompletionChunk.model_validate_json(text, strict=True) for text in documents]
    assert [unknown_members(chunk) for chunk in chunks] == [[] for _ in chunks]
    return chunks


def sdk(content: bytes, content_type: str) -> openai.OpenAI:
    """The real client, whose every request is answered with these bytes."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=content, headers={"content-type": content_type})

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="none", base_url="http://localhost/v1", http_client=transport, max_retries=0)


texts = st.lists(st.text(min_size=1), max_size=4)


@settings(deadline=None)
@given(texts=texts, include_usage=st.booleans(), reason=st.sampled_from(["stop", "length"]))
def test_a_stream_is_chunks_that_the_sdk_s_types_accept_and_carries_the_text_unchanged(
    texts: list[str], include_usage: bool, reason: Any
) -> None:
    chunks = chunks_of(played(stream(include_usage=include_usage), texts, Finished(reason, USAGE)))
    if include_usage:
        chunks.pop()
    assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {("chatcmpl-1", int(CREATED), "small")}
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert len(deltas) == len(chunks)
    assert [delta.role for delta in deltas] == ["assistant", *[None] * (len(deltas) - 1)]
    assert [delta.content for delta in deltas] == ["", *texts, None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [*[None] * (len(chunks) - 1), reason]


def test_a_stream_says_its_usage_in_one_last_chunk_without_choices_and_only_where_asked() -> None:
    end = Finished("stop", USAGE)
    *chunks, last = chunks_of(played(stream(include_usage=True), ["a", "b"], end))
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (30, 5, 35)
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == 20
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks), (
        "null, as OpenAI sends it"
    )
    assert not any("usage" in text for text in data_of(played(stream(), ["a", "b"], end)))


@settings(deadline=None)
@given(texts=texts, reason=st.sampled_from(["stop", "length"]))
def test_a_document_is_what_the_sdk_s_types_accept_and_carries_the_text_unchanged(
    texts: list[str], reason: Any
) -> None:
    content = played(document(), texts, Finished(reason, USAGE))
    completion = ChatCompletion.model_validate_json(content, strict=True)
    assert unknown_members(completion) == []
    assert (completion.id, completion.created, completion.model) == ("chatcmpl-1", int(CREATED), "small")
    (choice,) = completion.choices
    assert (choice.index, choice.finish_reason) == (0, reason)
    assert (choice.message.role, choice.message.content) == ("assistant", "".join(texts))
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (30, 5)
    assert completion.usage.total_tokens == 35
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 20


def test_the_sdk_reads_a_stream_through_its_beats() -> None:
    content = played(stream(include_usage=True), ["Hel", "lo\n\n", "data: é😀"], Finished("length", USAGE))
    with sdk(content, ChatStream.content_type) as client:
        chunks = list(client.chat.completions.create(model="small", messages=[], stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello\n\ndata: é😀"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None


def test_the_sdk_reads_a_document_through_its_beats() -> None:
    content = played(document(), ["Hel", "lo"], Finished("stop", USAGE))
    assert content.startswith(b" ")
    with sdk(content, ChatDocument.content_type) as client:
        completion = client.chat.completions.create(model="small", messages=[])
    assert completion.choices[0].message.content == "Hello"


def test_a_stream_begins_with_bytes_and_a_document_keeps_its_status_open() -> None:
    assert stream().start()
    assert ChatStream.streams
    assert document().start() == b" "
    assert document().delta(TextDelta("a", 1)) == b""
    assert not ChatDocument.streams


# --- errors -----------------------------------------------------------------------------------------------------------

ERRORS = [
    InvalidRequestError("no", code="unsupported", param="$.n"),
    ContextLengthError(9000, 8192),
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
    assert (read.message, read.type, read.code, read.param) == (error.message, error.kind, error.code, error.param)
    assert read.model_extra == dict(error.details)


def test_a_prompt_that_is_too_long_says_both_lengths() -> None:
    error = error_body(ContextLengthError(9000, 8192))["error"]
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (9000, 8192)
    assert error["code"] == "context_length_exceeded"


def test_a_stream_that_fails_ends_with_an_error_on_which_the_sdk_raises() -> None:
    error = OverloadedError("the server is shutting down", code="shutting_down")
    content = played(stream(), ["Hel"], error)
    assert data_of(content)[-1] == "[DONE]"
    seen: list[ChatCompletionChunk] = []
    with sdk(content, ChatStream.content_type) as client:
        chunks = client.chat.completions.create(model="small", messages=[], stream=True)
        with pytest.raises(openai.APIError, match="the server is shutting down") as caught:
            seen.extend(chunks)
    assert caught.value.code == "shutting_down"
    assert [chunk.choices[0].delta.content for chunk in seen] == ["", "Hel"]


def test_a_document_that_fails_after_its_first_beat_is_the_error_object_alone() -> None:
    error = OverloadedError("the server is shutting down", code="shutting_down")
    assert json.loads(played(document(), ["never", "sent"], error)) == error_body(error)


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
        (Progress(Phase.DECODE, prompt_tokens=50, prefilled_tokens=50, output_tokens=17, rate=9.0), "decode 17 tokens"),
    ],
)
def test_a_beat_says_what_the_client_waits_for(progress: Progress, text: str) -> None:
    assert beat_text(progress) == text
    assert stream().beat(progress) == f": {text}\n\n".encode()
    assert document().beat(progress) == b" "
