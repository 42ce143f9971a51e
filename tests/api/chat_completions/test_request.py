"""What a chat request may be: every member, its bounds, and the error that names the offending part."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ds4trio.api.chat_completions.answer import ChatDocument, ChatOptions, ChatStream
from ds4trio.api.errors import InvalidRequestError
from ds4trio.chat import Conversation, Message
from tests.api.chat_completions.requests import (
    GOLDEN,
    HI,
    answer_of,
    body,
    conversation,
    described,
    parse,
    raw,
    refusal,
)

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


# --- good requests ----------------------------------------------------------------------------------------------------


def test_the_least_request_asks_for_one_document_up_to_the_context() -> None:
    assert described(body()) == {
        "kind": "chat",
        "model": None,
        "prompt": Conversation(messages=(Message("user", "hi"),)),
        "answer": (ChatDocument, ChatOptions(include_usage=False, logprobs=False, progress=False, n=1)),
        "overrides": {},
        "max_tokens": None,
        "stop": (),
        "n": 1,
        "top_logprobs": None,
        "ignore_eos": False,
        "priority": None,
        "warnings": (),
        "prompt_member": "messages",
    }


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_real_clients_send_is_read_whole(path: Path) -> None:
    request = json.loads(path.read_bytes())
    task = parse(path.read_bytes())
    assert isinstance(task.prompt, Conversation)
    assert task.warnings == ()
    assert task.model == "fake-model"
    assert task.max_tokens == request.get("max_tokens", request.get("max_completion_tokens"))
    assert [message.role for message in task.prompt.messages] == [message["role"] for message in request["messages"]]
    assert all(message.content for message in task.prompt.messages)
    functions = [tool["function"] for tool in request.get("tools", [])]
    assert [(tool.name, tool.parameters) for tool in task.prompt.tools] == [
        (function["name"], function.get("parameters", {"type": "object", "properties": {}})) for function in functions
    ]
    assert answer_of(task) == (ChatStream, ChatOptions(include_usage=True, logprobs=False, progress=False))


def test_there_are_requests_of_real_clients() -> None:
    assert len(GOLDEN) == 5


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_every_role_is_read(role: str) -> None:
    assert [message.role for message in conversation(messages=[{"role": role, "content": ""}]).messages] == [role]


def test_the_old_role_function_is_a_tool_s() -> None:
    message = {"role": "function", "name": "read", "content": "text"}
    assert conversation(messages=[message]).messages == (Message("tool", "text", name="read"),)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("as it is\n", "as it is\n"),
        ("", ""),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {}}], "ab"),
        ([{"type": "text", "text": ""}, {"type": "refusal", "refusal": "no"}], "no"),
    ],
)
def test_content_is_a_text_or_text_parts_or_nothing(content: object, text: str) -> None:
    assert conversation(messages=[{"role": "assistant", "content": content}]).messages[0].content == text


def test_a_message_without_content_is_empty() -> None:
    assert conversation(messages=[{"role": "assistant"}]).messages == (Message("assistant", ""),)


def test_what_is_asked_of_the_sampling_overrides_the_defaults_and_the_rest_stays() -> None:
    task = parse(body(temperature=0, top_k=40, seed=-1, logit_bias={"7": -100, "50256": 2.5}))
    assert task.overrides == {"temperature": 0, "top_k": 40, "seed": -1, "logit_bias": {7: -100, 50256: 2.5}}


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
    ("members", "usage"),
    [
        ({"stream_options": None}, False),
        ({"stream_options": {}}, False),
        ({"stream_options": {"include_usage": None}}, False),
        ({"stream_options": {"include_usage": False}}, False),
        ({"stream_options": {"include_usage": True, "include_obfuscation": False}}, True),
    ],
)
def test_a_stream_ends_with_the_usage_where_that_is_asked_for(members: dict[str, object], usage: bool) -> None:
    kind, options = answer_of(parse(body(stream=True, **members)))
    assert (kind, options.include_usage) == (ChatStream, usage)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_several_choices_can_be_asked_for(n: int) -> None:
    task = parse(body(n=n))
    assert (task.n, answer_of(task)[1].n) == (n, n)


@pytest.mark.parametrize("n", [0, 9, -1])
def test_too_many_choices_or_none_are_refused(n: int) -> None:
    assert refusal(body(n=n)).param == "$.n"


def test_the_progress_of_the_prefill_is_told_where_it_is_asked_for() -> None:
    assert answer_of(parse(body(stream=True, return_progress=True)))[1].progress


@pytest.mark.parametrize(
    "members",
    [
        {"n": 1},
        {"tools": []},
        {"tool_choice": "auto"},
        {"parallel_tool_calls": True},
        {"response_format": {"type": "text"}},
        {"logprobs": False},
        {"logprobs": False, "top_logprobs": 0},
        {"logit_bias": {}},
        {"functions": [], "function_call": "auto"},
        {"modalities": ["text"]},
        {"grammar": ""},
        {"return_progress": False},
        {"store": True, "metadata": {"a": [None]}, "user": "me", "service_tier": "auto", "chat_template_kwargs": {}},
    ],
)
def test_members_that_ask_for_nothing_special_change_nothing(members: dict[str, object]) -> None:
    assert described(body(**members)) == described(body())


def test_every_member_may_be_null_but_the_messages() -> None:
    names = ["model", "n", "stream", "stop", "tools", "tool_choice", "response_format", "logprobs", "top_logprobs"]
    names += ["temperature", "top_p", "seed", "logit_bias", "max_tokens", "stream_options", "presence_penalty"]
    names += ["thinking", "reasoning", "reasoning_effort", "enable_thinking", "thinking_budget", "grammar"]
    names += [
        "json_schema",
        "chat_template_kwargs",
        "return_progress",
        "ignore_eos",
        "functions",
        "function_call",
        "modalities",
    ]
    assert described(body(**dict.fromkeys(names))) == described(body())
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
    assert (error.code, error.param) == ("invalid_json", None)
    assert error.message.startswith("the body is not JSON: ")


@pytest.mark.parametrize("member", ["tools", "user", "messages", "metadata", "chat_template_kwargs", "json_schema"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_body_that_is_nested_deeply_is_refused(member: str, opening: str, closing: str) -> None:
    deep = opening * 50_000 + "1" + closing * 50_000
    refusal(raw(f'"{member}": {deep}'))


def test_arguments_nested_to_any_depth_are_text_or_refused() -> None:
    kept = []
    for depth in (*range(100, 1100, 20), 50_000):
        arguments = '{"a":' * depth + "1" + "}" * depth
        call = f'{{"function": {{"name": "read", "arguments": {arguments}}}}}'
        request = f'{{"messages": [{{"role": "assistant", "tool_calls": [{call}]}}]}}'.encode()
        try:
            prompt = parse(request).prompt
        except InvalidRequestError as error:
            kept.append(error.code != "invalid_json")
        else:
            assert isinstance(prompt, Conversation)
            kept.append(prompt.messages[0].tool_calls[0].arguments == arguments)
    assert kept == sorted(kept, reverse=True)
    assert (kept[0], kept[-1]) == (True, False)


# --- bad requests: not this API ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_body", "param", "parts"),
    [
        (b"[]", None, ["object", "array"]),
        (b"null", None, ["object", "null"]),
        (body(messages="hi"), "$.messages", ["array", "str"]),
        (body(messages=["hi"]), "$.messages[0]", ["object", "str"]),
        (body(messages=[{"role": 1, "content": ""}]), "$.messages[0].role", ["int"]),
        (body(messages=[*HI, {"role": "user", "content": 3}]), "$.messages[1].content", ["str", "int"]),
        (body(messages=[{"role": "user", "content": {}}]), "$.messages[0].content", ["str", "object"]),
        (body(messages=[{"role": "user", "content": ["hi"]}]), "$.messages[0].content[0]", ["object", "str"]),
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
    assert (error.code, error.param) == ("invalid_type", param)
    assert (param or "") in error.message
    assert all(part in error.message for part in parts)


@pytest.mark.parametrize(
    ("request_body", "code", "param", "part"),
    [
        (b"{}", "missing_required_parameter", None, "messages"),
        (body(messages=[*HI, {"content": "hi"}]), "missing_required_parameter", "$.messages[1]", "role"),
        (
            body(messages=[{"role": "user", "content": [{"text": "hi"}]}]),
            "missing_required_parameter",
            "$.messages[0].content[0]",
            "type",
        ),
        (body(messages=[{"role": "critic", "content": ""}]), "invalid_value", "$.messages[0].role", "critic"),
        (body(temperature=-1), "invalid_value", "$.temperature", ">= 0"),
        (b'{"messages": [], "temperature": 1e400}', "invalid_value", "$.temperature", "range"),
        (body(stop=["x"] * 17), "invalid_value", "$.stop", "length"),
    ],
)
def test_what_is_missing_or_out_of_bounds_has_codes_of_its_own(
    request_body: bytes, code: str, param: str | None, part: str
) -> None:
    error = refusal(request_body)
    assert (error.code, error.param) == (code, param)
    assert part in error.message


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


@pytest.mark.parametrize("value", ["9" * 5000, "1e5000"])
@pytest.mark.parametrize("member", ["seed", "max_tokens"])
def test_a_number_beyond_all_integers_is_refused(member: str, value: str) -> None:
    assert refusal(raw(f'"{member}": {value}')).param == f"$.{member}"


@pytest.mark.parametrize("key", ["x", "", "1.5", "0x10", "1e3", "9" * 5000])
def test_logit_bias_keys_are_token_ids_in_decimal(key: str) -> None:
    error = refusal(body(logit_bias={"1": 1, key: 1}))
    assert (error.code, error.param) == ("invalid_value", "logit_bias")
    assert "token ids in decimal" in error.message


@pytest.mark.parametrize("key", ["1_000", " 7 ", "+7", "-1", "१"])
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


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "", "TEXT"])
def test_a_part_that_is_no_text_is_refused_with_its_path_and_its_type(kind: str) -> None:
    parts = [{"type": "text", "text": "what is this?"}, {**IMAGE, "type": kind}]
    error = refusal(body(messages=[*HI, {"role": "user", "content": parts}]))
    assert (error.code, error.param) == ("unsupported_content", "$.messages[1].content[1].type")
    assert repr(kind) in error.message
    assert "text parts" in error.message


@pytest.mark.parametrize("kind", ["text", "refusal"])
def test_a_text_part_without_text_is_refused_with_its_path(kind: str) -> None:
    error = refusal(body(messages=[{"role": "user", "content": [{"type": kind}]}]))
    assert (error.code, error.param) == ("missing_required_parameter", f"$.messages[0].content[0].{kind}")


@pytest.mark.parametrize(
    ("members", "param", "part"),
    [
        ({"functions": [{"name": "read"}]}, "functions", "tools"),
        ({"function_call": {"name": "read"}}, "functions", "tools"),
        ({"modalities": ["text", "audio"]}, "modalities", "text only"),
    ],
)
def test_what_this_server_cannot_do_is_refused_by_name(members: dict[str, object], param: str, part: str) -> None:
    error = refusal(body(**members))
    assert (error.kind, error.code, error.param) == ("invalid_request_error", "unsupported", param)
    assert part in error.message
