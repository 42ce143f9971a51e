"""The tools of a chat request, the choice among them, and the calls of its history."""

import pytest

from ds4trio.chat import Conversation, Message, Tool, ToolCall, ToolChoice
from tests.api.chat_completions.requests import HI, SCHEMA, body, conversation, function, parse, refusal


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
