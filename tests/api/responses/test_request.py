"""Request bodies: what real agents send, every shape of items and tools, and what is refused, by its path."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.api.errors import ApiError, InvalidRequestError, openai_error_document
from ds4trio.api.responses import Responses, ResponseStore
from ds4trio.api.responses import reasoning as packing
from ds4trio.api.responses.answer import ResponsesDocument, ResponsesStream
from ds4trio.api.task import Task
from ds4trio.chat import Conversation, Message, OutputFormat, Thinking, ToolCall, ToolChoice
from tests.api.responses.scripts import FRAME, PROGRESS, TOOLS
from tests.grammars.responses import check_responses_stream

GOLDEN = sorted((Path(__file__).parents[2] / "data" / "requests").glob("*-responses.json"))
PROTOCOL = Responses(ResponseStore())


def parse(**members: object) -> Task:
    return PROTOCOL.parse(json.dumps({"input": "hi", **members}).encode())


def conversation(**members: object) -> Conversation:
    prompt = parse(**members).prompt
    assert isinstance(prompt, Conversation)
    return prompt


def read(*items: object) -> tuple[Message, ...]:
    return conversation(input=items).messages


def refused(**members: object) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse(**members)
    json.loads(openai_error_document(caught.value))
    return caught.value


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_real_agents_send_is_understood(path: Path) -> None:
    body = json.loads(path.read_bytes())
    task = PROTOCOL.parse(path.read_bytes())
    assert isinstance(task.prompt, Conversation)
    assert [message.role for message in task.prompt.messages] == [item["role"] for item in body["input"]]
    assert all(message.content for message in task.prompt.messages)
    assert isinstance(task.answer(FRAME), ResponsesStream)
    functions = sum(len(tool["tools"]) if tool["type"] == "namespace" else 1 for tool in body["tools"])
    hosted = [tool for tool in body["tools"] if tool["type"] == "web_search"]
    assert len(task.prompt.tools) == functions - len(hosted)
    assert len(task.warnings) == len(hosted)
    assert not any(tool.strict for tool in task.prompt.tools)
    assert task.max_tokens == body.get("max_output_tokens")


def test_there_are_golden_requests() -> None:
    assert [path.stem for path in GOLDEN] == ["codex-responses", "opencode-responses", "pi-responses"]


def mutated(value: Any, rng: random.Random) -> Any:
    """The value with one random change somewhere."""
    junk: list[Any] = [
        None,
        True,
        -1,
        10**20,
        0.5,
        "",
        "\u0000",
        [],
        {},
        [[]],
        {"type": "x"},
        [{"type": None}],
        "required",
    ]
    if rng.random() < 0.2 or not isinstance(value, dict | list) or not value:
        return rng.choice(junk)
    if isinstance(value, list):
        index = rng.randrange(len(value))
        return [*value[:index], mutated(value[index], rng), *value[index + 1 :]]
    name = rng.choice(sorted(value))
    if rng.random() < 0.2:
        return {inner: value[inner] for inner in value if inner != name}
    return {**value, name: mutated(value[name], rng)}


HISTORY = [
    {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "t"}], "encrypted_content": "gAAA"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
    {"type": "function_call", "call_id": "1", "name": "read", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "o"}]},
    {"type": "custom_tool_call", "call_id": "2", "name": "apply_patch", "input": "*** Begin"},
    {"type": "custom_tool_call_output", "call_id": "2", "output": "ok"},
    {"type": "local_shell_call", "call_id": "3", "action": {"type": "exec", "command": ["ls"], "env": {}}},
    {"type": "local_shell_call_output", "call_id": "3", "output": "x"},
    {"type": "shell_call", "call_id": "4", "action": {"commands": ["ls"]}},
    {"type": "shell_call_output", "call_id": "4", "output": [{"stdout": "x"}]},
    {"type": "apply_patch_call", "call_id": "5", "operation": {"type": "delete_file", "path": "p"}},
    {"type": "apply_patch_call_output", "call_id": "5", "status": "completed"},
    {"type": "mcp_call", "id": "6", "server_label": "s", "name": "n", "arguments": "{}", "output": "o"},
    {"type": "code_interpreter_call", "id": "7", "code": "1", "outputs": []},
    {"type": "file_search_call", "id": "8", "queries": ["q"], "results": []},
    {"type": "web_search_call", "id": "9", "action": {"type": "search", "query": "q"}},
]
WIDE = {
    "input": HISTORY,
    "tools": TOOLS,
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "read"}]},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
    "reasoning": {"effort": "low", "summary": "auto"},
    "metadata": {"a": "b"},
    "logit_bias": {"1": 1},
}


@given(st.sampled_from([*(json.loads(path.read_bytes()) for path in GOLDEN), WIDE]), st.randoms(use_true_random=False))
def test_a_broken_request_is_refused_and_never_more_than_that(body: dict[str, Any], rng: random.Random) -> None:
    for _ in range(rng.randint(1, 3)):
        body = mutated(body, rng)
    try:
        task = PROTOCOL.parse(json.dumps(body).encode())
    except InvalidRequestError:
        return
    task.answer(FRAME).start(PROGRESS)  # what is accepted can be repeated


@given(st.binary(max_size=30))
def test_any_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        PROTOCOL.parse(body)


@pytest.mark.parametrize(
    "opening", ['{"type":"namespace","name":"n","tools":[', '{"type":"x","parameters":{"a":[{"b":[']
)
def test_nesting_is_refused_where_it_is_too_deep(opening: str) -> None:
    with pytest.raises(InvalidRequestError):
        PROTOCOL.parse(b'{"input":"x","tools":[' + opening.encode() * 100_000)


def test_a_namespace_within_a_namespace_is_left_out() -> None:
    inner = {"type": "namespace", "name": "b", "tools": [{"type": "function", "name": "f"}]}
    task = parse(tools=[{"type": "namespace", "name": "a", "tools": [inner]}])
    assert task.warnings == ("$.tools[0].tools[0]: tools of type 'namespace' are not available here",)


# Items


def test_an_assistants_turn_comes_as_many_items_and_is_one_message() -> None:
    assert read({"role": "user", "content": "q"}, *HISTORY[:4], {"role": "user", "content": "next"}) == (
        Message("user", "q"),
        Message("assistant", "a", "t", (ToolCall("1", "read", "{}"),)),
        Message("tool", "o", tool_call_id="1"),
        Message("user", "next"),
    )


def test_parallel_calls_stay_together() -> None:
    calls = [{"type": "function_call", "call_id": id, "name": "read", "arguments": "{}"} for id in "ab"]
    results = [{"type": "function_call_output", "call_id": id, "output": id} for id in "ab"]
    assert read(*calls, *results) == (
        Message("assistant", tool_calls=(ToolCall("a", "read", "{}"), ToolCall("b", "read", "{}"))),
        Message("tool", "a", tool_call_id="a"),
        Message("tool", "b", tool_call_id="b"),
    )


@pytest.mark.parametrize("role", ["user", "assistant", "system", "developer"])
@pytest.mark.parametrize("content", ["text", [{"type": "input_text", "text": "te"}, {"type": "text", "text": "xt"}]])
@pytest.mark.parametrize("easy", [True, False])
def test_messages_in_all_forms(role: Any, content: object, easy: bool) -> None:
    item = {"role": role, "content": content}
    assert read(item if easy else {"type": "message", **item}) == (Message(role, "text"),)


def test_a_refusal_is_what_the_assistant_said() -> None:
    assert read({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}) == (
        Message("assistant", "no"),
    )


@pytest.mark.parametrize(
    ("call", "result", "name", "arguments", "content"),
    [
        (HISTORY[4], HISTORY[5], "apply_patch", {"input": "*** Begin"}, "ok"),
        (HISTORY[6], HISTORY[7], "local_shell", {"command": ["ls"], "env": {}}, "x"),
        (HISTORY[8], HISTORY[9], "shell", {"commands": ["ls"]}, '[{"stdout":"x"}]'),
        (HISTORY[10], HISTORY[11], "apply_patch", {"type": "delete_file", "path": "p"}, "completed"),
    ],
)
def test_calls_of_all_kinds_are_calls(
    call: dict[str, Any], result: object, name: str, arguments: object, content: str
) -> None:
    assistant, tool = read(call, result)
    assert assistant.tool_calls[0].name == name
    assert json.loads(assistant.tool_calls[0].arguments) == arguments
    assert (tool.content, tool.tool_call_id) == (content, call["call_id"])


def test_what_another_server_ran_is_told_with_its_result() -> None:
    assert read(HISTORY[12]) == (
        Message("assistant", tool_calls=(ToolCall("6", "s__n", "{}"),)),
        Message("tool", "o", tool_call_id="6"),
    )


def test_a_namespaced_call_has_the_name_that_the_model_knows() -> None:
    item = {"type": "function_call", "call_id": "1", "namespace": "agents", "name": "spawn", "arguments": ""}
    (message,) = read(item)
    assert message.tool_calls == (ToolCall("1", "agents__spawn", "{}"),)
    assert "agents__spawn" in [tool.name for tool in conversation(tools=TOOLS).tools]


def test_items_that_hold_nothing_for_the_model_are_left_out_with_a_warning() -> None:
    task = parse(input=[{"role": "user", "content": "q"}, HISTORY[15], HISTORY[15], {"type": "brand_new", "x": 1}])
    assert task.warnings == ("input: left out 2 of type 'web_search_call'", "input: left out 1 of type 'brand_new'")


def test_warnings_fit_into_a_header() -> None:
    items = [{"type": f"brand\nnew {number} é" + "x" * 100} for number in range(100)]
    tools = [{"type": f"hosted\r\n{number} é"} for number in range(100)]
    warnings = parse(input=[{"role": "user", "content": "q"}, *items], tools=tools).warnings
    assert warnings
    assert all(warning.isascii() and warning.isprintable() for warning in warnings)
    assert sum(map(len, warnings)) < 4000


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"summary": [{"type": "summary_text", "text": "s"}]}, "s"),
        ({"summary": [], "content": [{"type": "reasoning_text", "text": "c"}]}, "c"),
        ({"summary": [], "encrypted_content": packing.pack("größe")}, "größe"),
        ({"summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "gAAAA of others"}, "s"),
        ({"summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": packing.PREFIX + "%"}, "s"),
        ({}, ""),
    ],
)
def test_reasoning_belongs_to_what_follows(item: dict[str, Any], text: str) -> None:
    answer = {"role": "assistant", "content": "a"}
    assert read({"type": "reasoning", **item}, answer) == (Message("assistant", "a", text),)


@given(st.text())
def test_packed_reasoning_is_exact(text: str) -> None:
    assert packing.unpack(packing.pack(text)) == text


@given(st.text())
def test_unpacking_never_fails(text: str) -> None:
    packing.unpack(packing.PREFIX + text)


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "$.input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_file"}]}], "$.input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "$.input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "$.input[0].content[0].text"),
        ([{"role": "user", "content": [{"text": "x"}]}], "$.input[0].content[0]"),
        ([{"role": "user"}], "$.input[0].content"),
        ([{"role": "robot", "content": "x"}], "$.input[0].role"),
        ([{"type": "message", "content": "x"}], "$.input[0].role"),
        ([{}], "$.input[0].type"),
        ([5], "$.input[0]"),
        ([{"type": "function_call", "call_id": "1", "arguments": "{}"}], "$.input[0].name"),
        ([{"type": "function_call", "name": "f", "arguments": "{}"}], "$.input[0].call_id"),
        ([{"type": "function_call", "call_id": "1", "name": "f"}], "$.input[0].arguments"),
        ([{"type": "function_call", "call_id": "1", "name": "f", "arguments": {}}], "$.input[0].arguments"),
        ([{"type": "function_call_output", "call_id": "1"}], "$.input[0].output"),
        (
            [{"type": "function_call_output", "call_id": "1", "output": [{"type": "input_image"}]}],
            "$.input[0].output[0]",
        ),
        ([{"type": "function_call_output", "call_id": "1", "output": [{"type": 5}]}], "$.input[0].output[0].type"),
        ([{"type": "local_shell_call", "call_id": "1"}], "$.input[0].action"),
        ([{"type": "item_reference", "id": "msg_gone"}], "$.input[0].id"),
        ([{"type": "item_reference"}], "$.input[0].id"),
    ],
)
def test_what_is_wrong_with_an_item_is_said_with_its_path(items: list[object], param: str) -> None:
    assert refused(input=items).param == param


# Tools


def test_every_kind_of_tool_becomes_a_function() -> None:
    read_tool, patch, shell, spawn = conversation(tools=TOOLS).tools
    assert (read_tool.name, read_tool.parameters, read_tool.strict) == ("read", {"type": "object"}, False)
    assert (patch.name, list(patch.parameters["properties"]), patch.strict) == ("apply_patch", ["input"], False)
    assert (shell.name, shell.parameters["required"], shell.strict) == ("local_shell", ["command"], False)
    assert spawn.name == "agents__spawn"


@pytest.mark.parametrize(("given_strict", "strict"), [({}, False), ({"strict": None}, False), ({"strict": True}, True)])
def test_only_true_is_strict(given_strict: dict[str, object], strict: bool) -> None:
    (tool,) = conversation(tools=[{"type": "function", "name": "f", **given_strict}]).tools
    assert tool.strict is strict
    assert tool.parameters == {"type": "object", "properties": {}}


def test_a_custom_tools_grammar_is_told() -> None:
    form = {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'}
    (tool,) = conversation(tools=[{"type": "custom", "name": "c", "description": "Edits.", "format": form}]).tools
    assert tool.description == 'Edits.\n\nThe input has to match this lark grammar:\nstart: "x"'


@pytest.mark.parametrize(
    "tools",
    [
        [TOOLS[0], TOOLS[0]],
        [TOOLS[0], {"type": "custom", "name": "read"}],
        [TOOLS[3], {"type": "function", "name": "agents__spawn"}],
    ],
)
def test_two_tools_of_one_name_are_refused(tools: list[object]) -> None:
    error = refused(tools=tools)
    assert (error.code, error.param) == ("duplicate_tool", "$.tools[1]")


def test_a_tool_without_a_name_is_refused() -> None:
    assert refused(tools=[{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]).param == (
        "$.tools[0].tools[0].name"
    )


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "read"}, ToolChoice("required", ("read",))),
        ({"type": "function", "name": "agents__spawn"}, ToolChoice("required", ("agents__spawn",))),
        ({"type": "function", "name": "spawn", "namespace": "agents"}, ToolChoice("required", ("agents__spawn",))),
        ({"type": "custom", "name": "apply_patch"}, ToolChoice("required", ("apply_patch",))),
        ({"type": "local_shell"}, ToolChoice("required", ("local_shell",))),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "read"}, {"type": "local_shell"}, {"type": "web_search"}],
            },
            ToolChoice("required", ("read", "local_shell")),
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "agents"}]},
            ToolChoice("auto", ("agents__spawn",)),
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}, ToolChoice("none")),
    ],
)
def test_tool_choices(value: object, choice: ToolChoice) -> None:
    assert conversation(tools=TOOLS, tool_choice=value).tool_choice == choice


@pytest.mark.parametrize(
    "value",
    [
        "perhaps",
        5,
        {},
        {"type": "function", "name": "absent"},
        {"type": "custom", "name": "read"},
        {"type": "web_search_preview"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "absent"}]},
    ],
)
def test_a_tool_choice_that_cannot_be_kept_is_refused(value: object) -> None:
    assert refused(tools=TOOLS, tool_choice=value).param == "tool_choice"


def test_a_required_call_needs_a_tool_that_is_here() -> None:
    assert refused(tools=[{"type": "web_search"}], tool_choice="required").param == "tool_choice"


# The rest


@pytest.mark.parametrize(
    ("text", "output"),
    [
        (None, OutputFormat()),
        ({"verbosity": "low"}, OutputFormat()),
        ({"format": {"type": "text"}}, OutputFormat()),
        ({"format": {"type": "json_object"}}, OutputFormat("json")),
        (
            {"format": {"type": "json_schema", "name": "n", "schema": {"type": "array"}, "strict": True}},
            OutputFormat("schema", {"type": "array"}),
        ),
    ],
)
def test_text_formats(text: object, output: OutputFormat) -> None:
    assert conversation(text=text).output == output


@pytest.mark.parametrize(
    ("reasoning", "thinking"),
    [
        (None, Thinking()),
        ({"summary": "auto"}, Thinking()),
        ({"effort": "none"}, Thinking(enabled=False)),
        ({"effort": "minimal"}, Thinking(effort="minimal")),
    ],
)
def test_efforts(reasoning: object, thinking: Thinking) -> None:
    assert conversation(reasoning=reasoning).thinking == thinking


def test_the_plain_members() -> None:
    task = parse(
        model="m",
        instructions="be brief",
        max_output_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        parallel_tool_calls=False,
        chat_template_kwargs={"enable_thinking": False},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        never_heard_of=1,
    )
    assert (task.kind, task.model, task.max_tokens, task.top_logprobs) == ("responses", "m", 7, 2)
    assert task.overrides == {"temperature": 0.5, "top_p": 0.9, "top_k": 3}
    assert task.prompt == Conversation(
        messages=(Message("system", "be brief"), Message("user", "hi")),
        parallel_tool_calls=False,
        variables={"enable_thinking": False},
    )
    assert isinstance(task.answer(FRAME), ResponsesDocument)


def test_logprobs_are_for_those_who_include_them() -> None:
    assert parse(top_logprobs=2).top_logprobs is None
    assert parse(include=["message.output_text.logprobs"]).top_logprobs == 0


def test_the_response_repeats_the_request() -> None:
    members = {
        "instructions": "be brief",
        "tools": TOOLS,
        "tool_choice": {"type": "function", "name": "read"},
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "reasoning": {"effort": "high", "summary": "auto"},
        "temperature": 0.25,
        "top_p": 0.5,
        "max_output_tokens": 9,
        "max_tool_calls": 3,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "key",
        "safety_identifier": "safe",
        "user": "me",
        "store": False,
    }
    response = check_responses_stream(parse(**members, stream=True).answer(FRAME).error(ApiError("x")))
    assert {name: response[name] for name in members} == members


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "$.text.format.type"),
        ({"max_output_tokens": 0}, "$.max_output_tokens"),
        ({"top_logprobs": 21}, "$.top_logprobs"),
        ({"temperature": "hot"}, "$.temperature"),
        ({"metadata": {"a": 1}}, "$.metadata[...]"),
        ({"tools": [{"name": "x"}]}, "$.tools[0]"),
        ({"input": 5}, "$.input"),
        ({"reasoning": {"effort": 1}}, "$.reasoning.effort"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(members: dict[str, object], param: str) -> None:
    assert refused(**members).param == param


@pytest.mark.parametrize("member", ["tools", "input", "text", "reasoning"])
def test_what_is_repeated_or_kept_is_utf_8(member: str) -> None:
    values = {
        "tools": '[{"type": "function", "name": "f", "unknown": "?"}]',
        "input": '[{"role": "user", "content": "x", "unknown": "?"}]',
        "text": '{"unknown": "?"}',
        "reasoning": '{"unknown": "?"}',
    }
    body = f'{{"input": "x", "{member}": {values[member]}}}'.encode()
    PROTOCOL.parse(body)
    with pytest.raises(InvalidRequestError) as caught:
        PROTOCOL.parse(body.replace(b"?", b"\xff"))
    assert caught.value.code == "invalid_json"


def test_counting_tokens_needs_only_the_prompt() -> None:
    task = PROTOCOL.parse(b'{"model": "m", "input": "hi", "instructions": "be brief"}')
    assert task.prompt == Conversation(messages=(Message("system", "be brief"), Message("user", "hi")))
    assert json.loads(PROTOCOL.input_tokens_document(11)) == {"object": "response.input_tokens", "input_tokens": 11}
