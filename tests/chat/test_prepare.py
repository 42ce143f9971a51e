"""Preparing conversations: each test says what one capability changes, on values; nothing here is a real template."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.chat.capabilities import Capabilities, Switch
from ds4trio.chat.messages import Conversation, Message, Role, Thinking, Tool, ToolCall
from ds4trio.chat.prepare import prepare, render
from ds4trio.chat.template import ChatTemplate, TemplateFailedError
from ds4trio.chat.thinking import thinking_of

READ = ToolCall("call_1", "read", '{"path": "a"}')
RUN = ToolCall("call_2", "run", '{"command": "b"}')
TOOL = Tool("read", "Reads a file", {"type": "object", "properties": {"path": {"type": "string"}}})
PLAIN = Capabilities()


def talk(*turns: Message, can: Capabilities = PLAIN) -> list[dict[str, object]]:
    return prepare(Conversation(messages=turns), can).messages


def said(*turns: Message, can: Capabilities = PLAIN) -> list[tuple[object, object]]:
    return [(turn["role"], turn["content"]) for turn in talk(*turns, can=can)]


def system(text: str) -> Message:
    return Message("system", text)


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str, *calls: ToolCall, reasoning: str = "") -> Message:
    return Message("assistant", text, reasoning, calls)


def result(text: str, call: str | None) -> Message:
    return Message("tool", text, tool_call_id=call)


# --- instructions -----------------------------------------------------------------------------------------------------


def test_all_instructions_that_lead_are_one_system_message() -> None:
    turns = (system("a"), Message("developer", "b"), system(""), Message("developer", "c"), user("u"))
    assert said(*turns) == [("system", "a\n\nb\n\nc"), ("user", "u")]
    assert said(*turns, can=Capabilities(instructions="developer"))[0] == ("developer", "a\n\nb\n\nc")


def test_instructions_further_down_stay_where_they_are() -> None:
    turns = (user("u"), Message("developer", "late"), assistant("a"))
    assert said(*turns) == [("user", "u"), ("system", "late"), ("assistant", "a")]


def test_instructions_that_may_not_be_late_go_to_the_user_next_to_them() -> None:
    can = Capabilities(late_instructions=False)
    turns = (system("s"), user("u"), system("late"), user("v"), assistant("a"), system("last"))
    assert said(*turns, can=can) == [
        ("system", "s"),
        ("user", "u\n\nlate\n\nv"),
        ("assistant", "a"),
        ("user", "last"),
    ]


def test_turns_of_the_user_that_touch_no_instructions_stay_apart() -> None:
    can = Capabilities(late_instructions=False)
    assert said(user("u"), user("v"), system("late"), can=can) == [("user", "u"), ("user", "v\n\nlate")]


def test_without_a_role_for_instructions_they_lead_the_user_s_first_turn() -> None:
    can = Capabilities(instructions="user", late_instructions=False)
    assert said(system("s"), user("u"), can=can) == [("user", "s\n\nu")]
    assert said(system("s"), assistant("a"), can=can) == [("user", "s"), ("assistant", "a")]


# --- who speaks when --------------------------------------------------------------------------------------------------


def test_neighbours_are_merged_only_where_turns_have_to_alternate() -> None:
    turns = (user("u"), user("v"), assistant("a"), assistant("b", READ), result("r", "call_1"))
    assert [role for role, _ in said(*turns)] == ["user", "user", "assistant", "assistant", "tool"]
    assert said(*turns, can=Capabilities(alternation=True)) == [
        ("user", "u\n\nv"),
        ("assistant", "a\n\nb"),
        ("tool", "r"),
    ]


def test_where_turns_alternate_the_assistant_answers_between_a_result_and_the_user() -> None:
    can = Capabilities(alternation=True)
    turns = (user("u"), assistant("", READ), result("r", "call_1"), user("v"))
    assert [role for role, _ in said(*turns, can=can)] == ["user", "assistant", "tool", "assistant", "user"]
    finished = (*turns[:3], assistant("a"), user("v"))
    assert [role for role, _ in said(*finished, can=can)] == ["user", "assistant", "tool", "assistant", "user"]


def test_where_turns_alternate_the_user_is_the_first() -> None:
    assert said(assistant("a"), user("u"), can=Capabilities(alternation=True)) == [
        ("user", ""),
        ("assistant", "a"),
        ("user", "u"),
    ]


def test_a_user_is_made_up_only_where_one_is_needed_and_missing() -> None:
    can = Capabilities(needs_user=True)
    assert said(system("s"), can=can) == [("system", "s"), ("user", "")]
    assert said(system("s"), user("u"), can=can) == [("system", "s"), ("user", "u")]


def test_content_is_a_list_of_parts_where_the_template_wants_one() -> None:
    can = Capabilities(parts=True)
    assert said(user("u"), can=can) == [("user", [{"type": "text", "text": "u"}])]


# --- calls and results ------------------------------------------------------------------------------------------------


def test_a_call_and_its_result() -> None:
    call, answer = talk(assistant("", READ), result("r", "call_1"))
    assert call == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": "call_1", "function": {"name": "read", "arguments": {"path": "a"}}}],
    }
    assert answer == {"role": "tool", "tool_call_id": "call_1", "name": "read", "content": "r"}


def test_an_assistant_that_only_calls_has_the_content_that_the_template_wants() -> None:
    assert talk(assistant("", READ), can=Capabilities(empty_content=None))[0]["content"] is None
    assert talk(assistant("a", READ), can=Capabilities(empty_content=None))[0]["content"] == "a"


def test_results_come_in_the_order_of_the_calls_and_before_everybody_else() -> None:
    turns = (assistant("", READ, RUN), result("second", "call_2"), user("u"), result("first", "call_1"))
    assert said(*turns)[1:] == [("tool", "first"), ("tool", "second"), ("user", "u")]


@pytest.mark.parametrize("call", [None, "", "unknown"])
def test_a_result_without_a_call_s_id_answers_the_first_call_that_has_none(call: str | None) -> None:
    turns = talk(assistant("", READ, RUN), result("known", "call_1"), result("other", call))
    assert [(turn["content"], turn["tool_call_id"]) for turn in turns[1:]] == [("known", "call_1"), ("other", "call_2")]


def test_a_result_that_no_call_is_left_for_is_told_by_the_user() -> None:
    told = "<tool_response>\nr\n</tool_response>"
    assert said(user("u"), result("r", "call_1")) == [("user", "u"), ("user", told)]
    turns = (assistant("", READ), result("r", "call_1"), result("r", "call_1"))
    assert said(*turns)[1:] == [("tool", "r"), ("user", told)]


def test_one_and_the_same_result_may_come_twice() -> None:
    same = result("r", None)
    turns = said(assistant("", READ), same, same)
    assert turns[1:] == [("tool", "r"), ("user", "<tool_response>\nr\n</tool_response>")]


def test_a_call_without_a_result_stays() -> None:
    assert len(talk(assistant("", READ, RUN), result("r", "call_2"), assistant("a"))) == 3


def test_parallel_calls_are_taken_one_by_one_where_a_turn_holds_only_one() -> None:
    can = Capabilities(parallel_calls=False, reasoning="thinking")
    turns = (assistant("a", READ, RUN, reasoning="r"), result("second", "call_2"), result("first", "call_1"))
    first, answer, second, other = talk(*turns, can=can)
    assert (first["content"], first["thinking"], answer["content"]) == ("a", "r", "first")
    assert (second["content"], other["content"]) == ("", "second")
    assert "thinking" not in second
    assert [len(turn["tool_calls"]) for turn in (first, second)] == [1, 1]  # type: ignore[arg-type]


def test_a_call_without_a_result_is_not_lost_when_calls_are_taken_one_by_one() -> None:
    can = Capabilities(parallel_calls=False)
    turns = (user("u"), assistant("", READ, RUN), result("r", "call_2"), user("v"))
    assert [role for role, _ in said(*turns, can=can)] == ["user", "assistant", "assistant", "tool", "user"]
    assert [role for role, _ in said(assistant("", READ, RUN), user("v"), can=can)] == ["assistant"] * 2 + ["user"]


def test_results_are_written_into_the_assistant_s_turn_where_they_belong_there() -> None:
    turns = (assistant("", READ, RUN), result("second", "call_2"), result("first", "call_1"), assistant("a"))
    call, answer = talk(*turns, can=Capabilities(results="tool_responses"))
    assert call["tool_responses"] == [{"name": "read", "response": "first"}, {"name": "run", "response": "second"}]
    assert answer == {"role": "assistant", "content": "a"}


def test_calls_and_results_are_text_where_the_template_knows_none() -> None:
    can = Capabilities(tools=False, calls=False, results="user")
    turns = (assistant("a", READ, RUN), result("first", "call_1"), result("second", "call_2"), user("u"))
    assert said(*turns, can=can) == [
        (
            "assistant",
            'a\n<tool_call>\n{"name": "read", "arguments": {"path": "a"}}\n</tool_call>'
            '\n<tool_call>\n{"name": "run", "arguments": {"command": "b"}}\n</tool_call>',
        ),
        (
            "user",
            "<tool_response>\nfirst\n</tool_response>\n<tool_response>\nsecond\n</tool_response>",
        ),
        ("user", "u"),
    ]


def test_calls_are_written_as_python_for_templates_that_take_them_ready_made() -> None:
    call = ToolCall("call_1", "read", '{"path": "a\\"b", "deep": {"on": true}, "lines": 3, "none": null}')
    turns = said(assistant("", call, RUN), can=Capabilities(calls=False, call_text="pythonic"))
    assert turns == [
        (
            "assistant",
            '<|tool_call_start|>[read(path="a\\"b", deep={\'on\': True}, lines=3, none=None), '
            'run(command="b")]<|tool_call_end|>',
        )
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        (" \n", {}),
        ('{"a": ', {"arguments": '{"a": '}),
        ("[1]", {"arguments": "[1]"}),
        ("null", {"arguments": "null"}),
        ('{"a": ' + "9" * 5000 + "}", {"arguments": '{"a": ' + "9" * 5000 + "}"}),
        ("[" * 100_000, {"arguments": "[" * 100_000}),
    ],
)
def test_arguments_are_an_object_whatever_the_client_sent(text: str, value: object) -> None:
    (turn,) = talk(assistant("", ToolCall("c", "read", text)))
    assert turn["tool_calls"][0]["function"]["arguments"] == value  # type: ignore[index]


def test_arguments_as_text_are_the_client_s_own() -> None:
    can = Capabilities(arguments="text")
    texts = ['{"a":   1}', "{broken", ""]
    calls = (ToolCall(f"c{number}", "read", text) for number, text in enumerate(texts))
    (turn,) = talk(assistant("", *calls), can=can)
    assert [call["function"]["arguments"] for call in turn["tool_calls"]] == ['{"a":   1}', "{broken", "{}"]  # type: ignore[attr-defined]


def test_ids_are_short_where_they_have_to_be_and_the_same_for_a_result_and_in_the_next_prompt() -> None:
    can = Capabilities(call_ids="nine")
    turns = (assistant("", READ, ToolCall("abcdef123", "run", "{}")), result("r", "call_1"), result("s", "abcdef123"))
    call, first, second = talk(*turns, can=can)
    ids = [entry["id"] for entry in call["tool_calls"]]  # type: ignore[attr-defined]
    assert ids == [first["tool_call_id"], second["tool_call_id"]]
    assert (len(ids[0]), ids[0].isalnum(), ids[1]) == (9, True, "abcdef123")
    assert talk(*turns, can=can) == [call, first, second]


@pytest.mark.parametrize(
    ("call_ids", "expected"),
    [
        ("counted", ["functions.read:0", "functions.run:1", "functions.read:2"]),
        ("counted_in_turn", ["functions.read:0", "functions.run:1", "functions.read:0"]),
    ],
)
def test_ids_are_the_tool_s_name_and_a_count(call_ids: str, expected: list[str]) -> None:
    can = Capabilities(call_ids=call_ids)  # type: ignore[arg-type]
    turns = (
        assistant("", READ, RUN),
        result("r", "call_1"),
        result("s", "call_2"),
        assistant("", READ),
        result("t", "call_1"),
    )
    messages = talk(*turns, can=can)
    assert [turn["tool_call_id"] for turn in messages if turn["role"] == "tool"] == expected
    assert [call["id"] for turn in messages for call in turn.get("tool_calls", ())] == expected  # type: ignore[attr-defined]


def test_text_beside_calls_goes_where_the_template_writes_it() -> None:
    turn = assistant("text", READ, reasoning="thought")
    assert talk(turn, can=Capabilities(reasoning="thinking"))[0]["content"] == "text"
    before, call = talk(turn, can=Capabilities(reasoning="thinking", preamble="before"))
    assert before == {"role": "assistant", "content": "text"}
    assert (call["content"], call["thinking"]) == ("", "thought")
    (call,) = talk(turn, can=Capabilities(reasoning="thinking", preamble="reasoning"))
    assert (call["content"], call["thinking"]) == ("", "thought\n\ntext")
    (call,) = talk(turn, can=Capabilities(preamble="nowhere"))
    assert call["content"] == ""


# --- our own text about tools -----------------------------------------------------------------------------------------


def led(can: Capabilities, *turns: Message) -> str:
    messages = prepare(Conversation(messages=turns, tools=(TOOL,)), can).messages
    return str(messages[0]["content"])


def test_tools_are_told_before_the_client_s_text_where_the_template_does_not_list_them() -> None:
    can = Capabilities(tools=False, calls=False, results="user")
    text = led(can, system("be brief"), user("u"))
    assert text.endswith("\n\nbe brief")
    told, _, _ = text.rpartition("\n\n")
    assert told == led(can, user("u"))
    listed = told.partition("<tools>\n")[2].partition("\n</tools>")[0]
    assert json.loads(listed) == {"name": "read", "description": TOOL.description, "parameters": TOOL.parameters}
    assert '<tool_call>\n{"name": ' in told


def test_the_example_is_the_template_s_own_where_it_writes_calls() -> None:
    can = Capabilities(tools=False, call_example="CALL(x)")
    assert "CALL(x)" in led(can, user("u"))
    assert "<tool_call>" not in led(can, user("u"))


def test_the_template_s_own_instructions_follow_ours_unless_the_client_has_some() -> None:
    can = Capabilities(tools=False, calls=False, default_instructions="You are kind.")
    assert led(can, user("u")).endswith("\n\nYou are kind.")
    assert "kind" not in led(can, system("be brief"), user("u"))
    assert prepare(Conversation(messages=(user("u"),)), can).messages == [{"role": "user", "content": "u"}]


def test_a_template_that_lists_tools_gets_them_as_a_variable() -> None:
    conversation = Conversation(messages=(user("u"),), tools=(TOOL, Tool("empty", "", {})))
    tools = prepare(conversation, PLAIN).variables["tools"]
    assert tools == [
        {
            "type": "function",
            "function": {"name": "read", "description": "Reads a file", "parameters": TOOL.parameters},
        },
        {
            "type": "function",
            "function": {"name": "empty", "description": "", "parameters": {"type": "object", "properties": {}}},
        },
    ]
    functions = prepare(conversation, Capabilities(functions=True)).variables["functions"]
    assert [tool["name"] for tool in json.loads(str(functions))] == ["read", "empty"]
    assert prepare(Conversation(messages=()), PLAIN).variables == {"tools": None}
    assert prepare(Conversation(messages=()), Capabilities(empty_tools=True)).variables == {"tools": []}


def test_simple_schemas_have_one_type_and_a_description() -> None:
    properties = {
        "a": {"type": ["null", "integer"]},
        "b": {"anyOf": [{"type": "null"}, {"type": "number"}], "description": "b"},
        "c": True,
        "d": {"type": "object"},
        "e": {},
    }
    conversation = Conversation(messages=(), tools=(Tool("t", "", {"properties": properties}),))
    tools = prepare(conversation, Capabilities(simple_schemas=True)).variables["tools"]
    simple = tools[0]["function"]["parameters"]["properties"]  # type: ignore[index]
    assert {name: schema["type"] for name, schema in simple.items()} == {
        "a": "integer",
        "b": "number",
        "c": "string",
        "d": "object",
        "e": "string",
    }
    assert [schema["description"] for schema in simple.values()] == ["", "b", "", "", ""]


values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["string", "null", "object", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "properties", "anyOf", "oneOf", "description"]), inner)
    ),
    max_leaves=12,
)


@given(schema=st.dictionaries(st.sampled_from(["type", "properties"]), values), simple=st.booleans())
def test_no_schema_is_too_strange(schema: dict[str, object], simple: bool) -> None:
    conversation = Conversation(messages=(), tools=(Tool("t", "", schema),))
    assert prepare(conversation, Capabilities(simple_schemas=simple)).variables["tools"]


# --- reasoning --------------------------------------------------------------------------------------------------------


def test_reasoning_has_the_key_that_the_template_reads() -> None:
    turn = assistant("a", reasoning="r")
    assert talk(turn) == [{"role": "assistant", "content": "a"}]
    assert talk(turn, can=Capabilities(reasoning="thinking"))[0]["thinking"] == "r"
    assert talk(turn, can=Capabilities(reasoning="content"))[0]["content"] == [
        {"type": "thinking", "thinking": "r"},
        {"type": "text", "text": "a"},
    ]


def thinking(can: Capabilities, **thinking: object) -> dict[str, object]:
    conversation = Conversation(messages=(), thinking=Thinking(**thinking))  # type: ignore[arg-type]
    variables = prepare(conversation, can).variables
    del variables["tools"]
    return variables


@pytest.mark.parametrize(
    ("said", "wish"),
    [
        ({"effort": None}, Thinking()),
        ({"effort": ""}, Thinking()),
        ({"effort": "none"}, Thinking(enabled=False)),
        ({"effort": "none", "enabled": True, "budget": 5}, Thinking(enabled=False)),
        ({"effort": "high", "enabled": False}, Thinking(enabled=False)),
        ({"effort": "high"}, Thinking(effort="high")),
        ({"effort": "low", "enabled": True, "budget": 0}, Thinking(enabled=True, effort="low", budget=0)),
    ],
)
def test_what_a_client_means_by_an_effort_and_a_switch(said: dict[str, Any], wish: Thinking) -> None:
    assert thinking_of(**said) == wish


def test_switches_are_set_only_when_the_client_says_so() -> None:
    can = Capabilities(switches=(Switch("enable_thinking", True, False), Switch("thinking_mode", "on", "off")))
    assert thinking(can) == {}
    assert thinking(can, enabled=True) == {"enable_thinking": True, "thinking_mode": "on"}
    assert thinking(can, enabled=False) == {"enable_thinking": False, "thinking_mode": "off"}
    assert thinking(can, effort="none") == {"enable_thinking": False, "thinking_mode": "off"}
    assert thinking(can, effort="high") == {"enable_thinking": True, "thinking_mode": "on"}
    assert thinking(can, effort="minimal") == {}


def test_an_effort_that_the_template_does_not_take_becomes_the_nearest() -> None:
    strict = Capabilities(effort="reasoning_effort", efforts=("low", "high"), effort_off="no_think")
    assert thinking(strict, effort="medium") == {"reasoning_effort": "high"}
    assert thinking(strict, effort="minimal") == {"reasoning_effort": "low"}
    assert thinking(strict, effort="xhigh") == {"reasoning_effort": "high"}
    assert thinking(strict, effort="utmost") == {"reasoning_effort": "utmost"}
    assert thinking(strict, enabled=False) == {"reasoning_effort": "no_think"}
    assert thinking(strict, enabled=True) == {"reasoning_effort": "high"}
    lenient = Capabilities(effort="reasoning_effort", any_effort=True)
    assert thinking(lenient, effort="medium") == {"reasoning_effort": "medium"}
    assert thinking(lenient, enabled=False) == {"reasoning_effort": "low"}
    assert thinking(PLAIN, effort="medium") == {}


def test_a_budget_is_passed_on_where_it_is_known() -> None:
    can = Capabilities(budget="thinking_budget")
    assert thinking(can, budget=512) == {"thinking_budget": 512}
    assert thinking(can, enabled=False, budget=512) == {"thinking_budget": 0}
    assert thinking(can, enabled=True) == {}


def test_the_client_s_variables_win() -> None:
    can = Capabilities(switches=(Switch("enable_thinking", True, False),))
    conversation = Conversation(
        messages=(), thinking=Thinking(enabled=True), variables={"enable_thinking": False, "documents": [1]}
    )
    assert prepare(conversation, can).variables == {"tools": None, "enable_thinking": False, "documents": [1]}


def test_a_word_in_the_instructions_turns_reasoning_off() -> None:
    can = Capabilities(text_switch="/no_think")
    off = Thinking(enabled=False)
    assert prepare(Conversation(messages=(user("u"),), thinking=off), can).messages[0]["content"] == "/no_think"
    conversation = Conversation(messages=(system("s"), user("u")), thinking=off)
    assert prepare(conversation, can).messages[0]["content"] == "s\n/no_think"
    assert said(system("s"), can=can) == [("system", "s")]


# --- the prompt -------------------------------------------------------------------------------------------------------

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{{ opening }}{% endif %}"
)


def prompt(*turns: Message, enabled: bool | None = None, opening: str = "") -> str:
    conversation = Conversation(messages=turns, thinking=Thinking(enabled=enabled), variables={"opening": opening})
    return render(ChatTemplate(CHAT), PLAIN, conversation, think_start="<think>\n", think_end="\n</think>")


def test_the_prompt_ends_where_the_assistant_begins() -> None:
    assert prompt(user("u")) == "<user>u</user><assistant>"


@pytest.mark.parametrize(
    ("opening", "closed"),
    [
        ("<think>", "<think></think>"),
        ("<think>\n", "<think>\n\n</think>\n\n"),
        ("<think></think>", "<think></think>"),
        ("", ""),
    ],
)
def test_reasoning_that_the_template_opens_is_closed_when_it_is_off(opening: str, closed: str) -> None:
    assert prompt(user("u"), enabled=False, opening=opening) == f"<user>u</user><assistant>{closed}"
    assert prompt(user("u"), opening=opening) == f"<user>u</user><assistant>{opening}"


def test_an_answer_that_was_begun_is_continued() -> None:
    assert prompt(user("u"), assistant("It is u ")) == "<user>u</user><assistant>It is u"
    assert prompt(user("u"), assistant("")) == "<user>u</user><assistant></assistant><assistant>"


def test_a_begun_answer_that_the_template_does_not_write_is_not_searched_in_vain() -> None:
    template = ChatTemplate("{{ messages[0].content }}{% if add_generation_prompt %}>{% endif %}")
    conversation = Conversation(messages=(user("u"), assistant("begun")))
    assert render(template, PLAIN, conversation) == "u>"


@pytest.mark.parametrize("depth", [10, 300, 700, 900, 960, 990, 5000])
def test_json_of_any_depth_is_rendered_or_refused(depth: int) -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{{ m.tool_calls | tojson }}{% endfor %}")
    deep = ToolCall("c", "read", '{"a": ' + "[" * depth + "]" * depth + "}")
    conversation = Conversation(messages=(user("u"), assistant("", deep)))
    for can in (PLAIN, Capabilities(calls=False), Capabilities(calls=False, call_text="pythonic")):
        try:
            assert "read" in render(template, can, conversation)
        except TemplateFailedError:
            assert depth > 100


# --- everything at once -----------------------------------------------------------------------------------------------

ROLES: list[Role] = ["system", "developer", "user", "assistant", "tool"]
calls = st.builds(
    ToolCall, st.sampled_from(["a", "b", ""]), st.sampled_from(["read", "run"]), st.sampled_from(["{}", "{"])
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    turns = []
    for number, role in enumerate(draw(st.lists(st.sampled_from(ROLES), max_size=12))):
        made = tuple(draw(st.lists(calls, max_size=3))) if role == "assistant" else ()
        id_ = draw(st.sampled_from(["a", "b", "", None])) if role == "tool" else None
        turns.append(Message(role, f"<{number}>", tool_calls=made, tool_call_id=id_))
    return tuple(turns)


capabilities = st.builds(
    Capabilities,
    parts=st.booleans(),
    instructions=st.sampled_from(["system", "developer", "user"]),
    late_instructions=st.booleans(),
    alternation=st.booleans(),
    needs_user=st.booleans(),
    tools=st.booleans(),
    calls=st.booleans(),
    results=st.sampled_from(["tool", "tool_responses", "user"]),
    arguments=st.sampled_from(["text", "object"]),
    parallel_calls=st.booleans(),
    call_ids=st.sampled_from(["given", "nine", "counted", "counted_in_turn"]),
    preamble=st.sampled_from(["beside", "before"]),
)


@given(turns=conversations(), can=capabilities)
def test_no_text_and_no_call_is_lost_or_told_twice(turns: tuple[Message, ...], can: Capabilities) -> None:
    if can.results == "tool_responses" and not can.calls:
        return  # no template takes results in a turn that it cannot write
    text = json.dumps(talk(*turns, can=can))
    for turn in turns:
        assert text.count(turn.content) == 1
    made = sum(len(turn.tool_calls) for turn in turns)
    assert text.count('"type": "function"') + text.count("<tool_call>") == made


@given(turns=conversations(), can=capabilities)
def test_where_turns_have_to_alternate_they_do(turns: tuple[Message, ...], can: Capabilities) -> None:
    if not can.alternation:
        return
    speakers = [
        turn["role"]
        for turn in talk(*turns, can=can)
        if turn["role"] in ("user", "assistant") and not turn.get("tool_calls")
    ]
    if can.preamble == "beside":
        assert speakers == ["user", "assistant"] * (len(speakers) // 2) + ["user"] * (len(speakers) % 2)


def test_five_megabytes_in_two_thousand_messages_take_milliseconds() -> None:
    turns = [system("s")]
    for number in range(500):
        call = ToolCall(f"call_{number}", "read", json.dumps({"path": "x" * 1000}))
        turns += [user("u" * 4000), assistant("", call), result("r" * 4000, call.id), assistant("a" * 1000)]
    conversation = Conversation(messages=tuple(turns), tools=(TOOL,))
    started = time.perf_counter()
    text = render(ChatTemplate(CHAT), Capabilities(late_instructions=False), conversation)
    assert len(text) > 4_500_000
    assert time.perf_counter() - started < 5
