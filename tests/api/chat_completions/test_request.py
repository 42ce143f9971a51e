"""What a chat request may be: every member, its bounds, and the error that names the offending part."""

import copy
import json
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4trio.api.chat_completions import ChatCompletions
from ds4trio.api.chat_completions.answer import ChatDocument, ChatOptions, ChatStream
from ds4trio.api.errors import ApiError, InvalidRequestError
from ds4trio.api.task import Task
from ds4trio.chat import Conversation, Message, OutputFormat, Thinking, Tool, ToolCall, ToolChoice
from ds4trio.engine import Sampling

HI = [{"role": "user", "content": "hi"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
GOLDEN = sorted((Path(__file__).parents[2] / "data" / "requests").glob("*chat-completions*.json"))


def body(**members: object) -> bytes:
    return json.dumps({"messages": HI, **members}).encode()


def raw(members: str) -> bytes:
    """A body with members that ``json.dumps`` would not write."""
    return f'{{"messages": [{{"role": "user", "content": "hi"}}], {members}}}'.encode()


def parse(request: bytes) -> Task:
    return ChatCompletions().parse(request)


def conversation(**members: object) -> Conversation:
    prompt = parse(body(**members)).prompt
    assert isinstance(prompt, Conversation)
    return prompt


def answer_of(task: Task) -> tuple[type[ChatStream | ChatDocument], ChatOptions]:
    """How the task is answered."""
    assert isinstance(task.answer, partial)
    return cast("Any", task.answer.func), task.answer.keywords["options"]


def described(request: bytes) -> dict[str, object]:
    """All that a request asks for, to compare it."""
    task = parse(request)
    return {field.name: getattr(task, field.name) for field in fields(task)} | {"answer": answer_of(task)}


def refusal(request: bytes) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse(request)
    assert caught.value.status == 400
    return caught.value


def function(name: str = "read", **members: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, **members}}


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
        "warnings": (),
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
    names += ["json_schema", "chat_template_kwargs", "return_progress", "functions", "function_call", "modalities"]
    assert described(body(**dict.fromkeys(names))) == described(body())
    assert refusal(body(messages=None)).param == "$.messages"


# --- tools ------------------------------------------------------------------------------------------------------------


def test_a_tool_is_its_name_its_description_and_its_schema() -> None:
    tools = [function("read", description="Reads.", parameters=SCHEMA, strict=True), function("stop")]
    assert conversation(tools=tools).tools == (
        Tool("read", "Reads.", SCHEMA, strict=True),
        Tool("stop", "", {"type": "object", "properties": {}}),
    )


@pytest.mark.parametrize("parameters", [None, {}])
def test_a_tool_without_a_schema_takes_an_object(parameters: object) -> None:
    (tool,) = conversation(tools=[function(parameters=parameters, description=None, strict=None)]).tools
    assert tool == Tool("read")


@pytest.mark.parametrize("kind", ["web_search", "custom", "mcp", ""])
def test_a_tool_of_another_kind_is_left_out_with_a_warning_that_names_it(kind: str) -> None:
    task = parse(body(tools=[{"type": kind, kind: {}}, function()]))
    assert isinstance(task.prompt, Conversation)
    assert [tool.name for tool in task.prompt.tools] == ["read"]
    (warning,) = task.warnings
    assert warning.startswith("$.tools[0]: ")
    assert repr(kind) in warning


def test_a_warning_fits_into_a_header_whatever_the_client_wrote() -> None:
    (warning,) = parse(body(tools=[{"type": "é\r\nSet-Cookie: 😀" + "x" * 500}])).warnings
    assert warning.isascii()
    assert warning.isprintable()
    assert len(warning) < 200


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([function(), function("write"), function()], "$.tools[2].function.name"),
        ([{"type": "function"}], "$.tools[0].function"),
        ([{"type": "function", "function": None}], "$.tools[0].function"),
        ([function(""), function()], "$.tools[0].function.name"),
        ([function("x" * 257)], "$.tools[0].function.name"),
        ([{"type": "function", "function": {"description": "nameless"}}], "$.tools[0].function"),
        ([function(parameters=[])], "$.tools[0].function.parameters"),
        ([function(strict="yes")], "$.tools[0].function.strict"),
        ([{"function": {"name": "read"}}], "$.tools[0]"),
        (["read"], "$.tools[0]"),
        ({}, "$.tools"),
    ],
)
def test_a_bad_tool_is_refused_with_its_path(tools: object, param: str) -> None:
    error = refusal(body(tools=tools))
    assert error.param == param
    assert param.partition(".function")[0] in error.message


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        (function("write"), ToolChoice("required", ("write",))),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [function("read")]}},
            ToolChoice("auto", ("read",)),
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [function(), function("write")]}},
            ToolChoice("required", ("read", "write")),
        ),
        ({"type": "allowed_tools", "allowed_tools": {"tools": [function()]}}, ToolChoice("auto", ("read",))),
    ],
)
def test_the_choice_of_tools_in_all_its_forms(choice: object, expected: ToolChoice) -> None:
    assert conversation(tools=[function(), function("write")], tool_choice=choice).tool_choice == expected


def test_no_calls_are_wanted_whether_there_are_tools_or_not() -> None:
    assert conversation(tool_choice="none").tool_choice == ToolChoice("none")
    assert conversation(tool_choice="none", tools=[function()]).tools != ()


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tool_choice": "required"}, "tools"),
        ({"tool_choice": "required", "tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": function()}, "tools"),
        ({"tool_choice": function("write"), "tools": [function()]}, "tool_choice"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "read"}}, "tools": [function()]}, "tool_choice"),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [function("write")]}}},
            "tool_choice",
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": []}}, "tools": [function()]},
            "$.tool_choice.allowed_tools.tools",
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [{"type": "function"}]}}},
            "$.tool_choice.allowed_tools.tools[0]",
        ),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": [function()]}, "tool_choice"),
        ({"tool_choice": "any"}, "$.tool_choice"),
        ({"tool_choice": []}, "$.tool_choice"),
        ({"tool_choice": {}}, "$.tool_choice"),
    ],
)
def test_a_choice_that_cannot_be_met_is_refused(members: dict[str, object], param: str) -> None:
    assert refusal(body(**members)).param == param


@pytest.mark.parametrize(("given_value", "several"), [(True, True), (None, True), (False, False)])
def test_calls_can_be_limited_to_one(given_value: object, several: bool) -> None:
    assert conversation(parallel_tool_calls=given_value).parallel_tool_calls is several


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (function(arguments='{"path": "a"}'), ToolCall("", "read", '{"path": "a"}')),
        ({"id": "call_1", **function(arguments="not JSON")}, ToolCall("call_1", "read", "not JSON")),
        ({"id": "call_1", **function(arguments={"päth": [1, None]})}, ToolCall("call_1", "read", '{"päth":[1,null]}')),
        (function(arguments=None), ToolCall("", "read", "{}")),
        (function(), ToolCall("", "read", "{}")),
        ({"id": None, "custom": {"name": "patch", "input": "*** \n"}}, ToolCall("", "patch", '{"input":"*** \\n"}')),
    ],
)
def test_calls_of_the_history_are_kept_with_their_arguments_as_text(
    call: dict[str, object], expected: ToolCall
) -> None:
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "audio": {"id": "a"}},
        {"role": "tool", "tool_call_id": "call_1", "name": "read", "content": "text"},
    ]
    assert conversation(messages=messages).messages == (
        Message("assistant", tool_calls=(expected,)),
        Message("tool", "text", tool_call_id="call_1", name="read"),
    )


@pytest.mark.parametrize(
    ("call", "param"),
    [
        ({"id": "call_1"}, "$.messages[1].tool_calls[0].function"),
        ({"function": {"arguments": "{}"}}, "$.messages[1].tool_calls[0].function"),
        (function(arguments=[]), "$.messages[1].tool_calls[0].function.arguments"),
        (1, "$.messages[1].tool_calls[0]"),
    ],
)
def test_a_call_of_the_history_that_calls_nothing_is_refused(call: object, param: str) -> None:
    assert refusal(body(messages=[*HI, {"role": "assistant", "tool_calls": [call]}])).param == param


# --- reasoning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "reasoning"),
    [
        ({"reasoning_content": "hm"}, "hm"),
        ({"reasoning": "hm"}, "hm"),
        ({"reasoning_content": "hm", "reasoning": "other"}, "hm"),
        ({"reasoning_content": None, "reasoning": {"summary": []}}, ""),
        ({"reasoning_content": ""}, ""),
    ],
)
def test_the_reasoning_of_the_history_has_two_names(members: dict[str, object], reasoning: str) -> None:
    (message,) = conversation(messages=[{"role": "assistant", "content": "", **members}]).messages
    assert message.reasoning == reasoning


@pytest.mark.parametrize(
    ("members", "thinking"),
    [
        ({}, Thinking()),
        ({"enable_thinking": True}, Thinking(enabled=True)),
        ({"enable_thinking": False}, Thinking(enabled=False)),
        ({"enable_thinking": True, "thinking_budget": 100}, Thinking(enabled=True, budget=100)),
        ({"thinking_budget": 0}, Thinking(budget=0)),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, Thinking(enabled=True, budget=1024)),
        ({"thinking": {"type": "disabled"}}, Thinking(enabled=False)),
        ({"thinking": {"type": "adaptive"}}, Thinking(enabled=True)),
        ({"thinking": {"type": "enabled"}, "enable_thinking": False}, Thinking(enabled=False)),
        ({"thinking": {"budget_tokens": 5}, "thinking_budget": 0}, Thinking(enabled=True, budget=0)),
        ({"reasoning_effort": "high"}, Thinking(effort="high")),
        ({"reasoning_effort": "none"}, Thinking(enabled=False)),
        ({"reasoning": {"effort": "low"}}, Thinking(effort="low")),
        ({"reasoning": {"effort": "none"}}, Thinking(enabled=False)),
        ({"reasoning": {"max_tokens": 9}}, Thinking(budget=9)),
        ({"reasoning": {"enabled": False, "exclude": True}}, Thinking(enabled=False)),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, Thinking(effort="high")),
    ],
)
def test_every_client_s_way_to_ask_for_reasoning(members: dict[str, object], thinking: Thinking) -> None:
    assert conversation(**members).thinking == thinking


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"thinking_budget": -1}, "$.thinking_budget"),
        ({"thinking": {"budget_tokens": -1}}, "$.thinking.budget_tokens"),
        ({"reasoning": {"max_tokens": "all"}}, "$.reasoning.max_tokens"),
        ({"reasoning": "high"}, "$.reasoning"),
        ({"enable_thinking": "yes"}, "$.enable_thinking"),
    ],
)
def test_a_bad_wish_for_reasoning_is_refused_with_its_path(members: dict[str, object], param: str) -> None:
    assert refusal(body(**members)).param == param


def test_variables_go_to_the_template_as_they_are() -> None:
    variables = {"enable_thinking": False, "custom": [1, {"a": None}]}
    assert conversation(chat_template_kwargs=variables).variables == variables


# --- the form of the answer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "output"),
    [
        ({"response_format": {"type": "json_object"}}, OutputFormat("json")),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, OutputFormat("schema", schema=SCHEMA)),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": SCHEMA},
                }
            },
            OutputFormat("schema", schema=SCHEMA),
        ),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, OutputFormat("schema", schema=SCHEMA)),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": True}}},
            OutputFormat("schema", schema=True),
        ),
        ({"json_schema": SCHEMA}, OutputFormat("schema", schema=SCHEMA)),
        ({"json_schema": {}}, OutputFormat("schema", schema={})),
        ({"grammar": 'root ::= "a"'}, OutputFormat("gbnf", grammar='root ::= "a"')),
        ({"response_format": {"type": "gbnf", "grammar": "root ::= x"}}, OutputFormat("gbnf", grammar="root ::= x")),
        ({"response_format": {"type": "grammar", "grammar": "root ::= x"}}, OutputFormat("gbnf", grammar="root ::= x")),
        ({"response_format": {"type": "lark", "grammar": "start: X"}}, OutputFormat("lark", grammar="start: X")),
    ],
)
def test_every_way_to_say_what_the_answer_has_to_look_like(members: dict[str, object], output: OutputFormat) -> None:
    assert conversation(**members).output == output


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"type": "json_schema"}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": "x"}}, "$.response_format.json_schema.schema"),
        ({"type": "gbnf"}, "response_format.grammar"),
        ({"type": "lark", "grammar": None}, "response_format.grammar"),
        ({"type": "python"}, "response_format.type"),
        ({"type": ["text"]}, "$.response_format.type"),
        ({}, "$.response_format"),
        ("json", "$.response_format"),
    ],
)
def test_an_answer_of_an_unknown_form_is_refused(wanted: object, param: str) -> None:
    assert refusal(body(response_format=wanted)).param == param


@pytest.mark.parametrize(
    ("members", "top"),
    [
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
        ({"logprobs": True, "top_logprobs": None}, 0),
        ({"logprobs": False}, None),
    ],
)
def test_logprobs_come_with_as_many_alternatives_as_asked_for(members: dict[str, object], top: int | None) -> None:
    task = parse(body(**members))
    assert task.top_logprobs == top
    assert answer_of(task)[1].logprobs is (top is not None)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"top_logprobs": 5, "logprobs": False}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "$.top_logprobs"),
        ({"top_logprobs": -1, "logprobs": True}, "$.top_logprobs"),
        ({"logprobs": 5}, "$.logprobs"),
    ],
)
def test_logprobs_that_cannot_be_had_are_refused(members: dict[str, object], param: str) -> None:
    assert refusal(body(**members)).param == param


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
        (b"{}", None, ["messages"]),
        (body(messages="hi"), "$.messages", ["array", "str"]),
        (body(messages=["hi"]), "$.messages[0]", ["object", "str"]),
        (body(messages=[*HI, {"content": "hi"}]), "$.messages[1]", ["role"]),
        (body(messages=[{"role": "critic", "content": ""}]), "$.messages[0].role", ["critic"]),
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
    assert (error.code, error.param) == ("invalid_type", param)
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


# --- any request ------------------------------------------------------------------------------------------------------

MEMBERS = sorted(
    {"messages", "model", "stream", "stream_options", "n", "stop", "logit_bias", "tools", "tool_choice", "logprobs"}
    | {"response_format", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "seed"}
    | {"role", "content", "name", "tool_calls", "tool_call_id", "type", "text", "include_usage", "unknown"}
    | {"function", "custom", "arguments", "parameters", "allowed_tools", "json_schema", "schema", "grammar"}
    | {"thinking", "reasoning", "reasoning_content", "reasoning_effort", "thinking_budget", "chat_template_kwargs"}
    | {"function_call", "functions", "modalities", "top_logprobs", "parallel_tool_calls"}
)
# Lone surrogates too: json.dumps writes them, and NaN and Infinity, as many a client does.
strings = st.one_of(
    st.sampled_from(["user", "text", "auto", "required", "function", "json_schema", "1", ""]),
    st.text(st.characters(exclude_categories=())),
)
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
        "tool_calls": values,
    },
)
request_like = st.fixed_dictionaries(
    {"messages": st.lists(message_like, max_size=3)},
    optional={name: st.one_of(scalars, values) for name in MEMBERS if name != "messages"},
)


def outcome(request: bytes) -> Task | ApiError:
    try:
        return parse(request)
    except ApiError as error:
        return error


def check(request: bytes) -> None:
    """Either a task that an engine can take, or an `ApiError` with something to say."""
    task = outcome(request)
    if isinstance(task, ApiError):
        assert task.message
        assert json.loads(ChatCompletions().error_document(task))["error"]["message"] == task.message
        return
    assert isinstance(task.prompt, Conversation)
    assert task.prompt.messages
    assert task.max_tokens is None or task.max_tokens >= 1
    assert all(task.stop)
    overrides: dict[str, Any] = dict(task.overrides)
    Sampling(**overrides)
    names = {tool.name for tool in task.prompt.tools}
    assert set(task.prompt.tool_choice.names) <= names
    assert names or task.prompt.tool_choice.mode != "required"
    for text in (*task.stop, *(message.content for message in task.prompt.messages)):
        text.encode()


@given(value=values)
def test_any_json_value_is_a_task_or_an_invalid_request(value: object) -> None:
    check(json.dumps(value).encode())


@settings(max_examples=200)
@given(value=request_like)
def test_anything_like_a_request_is_a_task_or_an_invalid_request(value: object) -> None:
    check(json.dumps(value).encode())


@given(data=st.binary())
def test_any_bytes_are_a_task_or_an_invalid_request(data: bytes) -> None:
    check(data)


@given(start=st.integers(0, 200), length=st.integers(0, 10), data=st.binary(max_size=6))
def test_a_request_with_damaged_bytes_is_a_task_or_an_invalid_request(start: int, length: int, data: bytes) -> None:
    good = body(stop=["a", "é"], temperature=0.5, logit_bias={"5": 1}, stream=True, model="m", max_tokens=3)
    check(good[:start] + data + good[start + length :])


@st.composite
def mutated(draw: st.DrawFn, request: dict[str, Any]) -> dict[str, Any]:
    """A request with one to three of its parts replaced, dropped or repeated."""
    request = copy.deepcopy(request)
    for _ in range(draw(st.integers(1, 3))):
        part: Any = request
        while True:
            keys = list(part) if isinstance(part, dict) else range(len(part))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = part[key]
            if isinstance(inner, dict | list) and inner and draw(st.integers(0, 3)):
                part = inner
                continue
            change = draw(st.sampled_from(["replace", "drop", "repeat"]))
            if change == "replace":
                part[key] = draw(values)
            elif change == "drop":
                del part[key]
            elif isinstance(part, list):
                part.append(inner)
            break
    return request


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@settings(max_examples=40)
@given(data=st.data())
def test_a_real_request_with_a_part_changed_is_a_task_or_an_invalid_request(path: Path, data: st.DataObject) -> None:
    check(json.dumps(data.draw(mutated(json.loads(path.read_bytes())))).encode())
