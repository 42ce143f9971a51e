"""Bodies: what agents send, what each member means, what is refused and where, and that nothing breaks the parser."""

import contextlib
import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.api.answer import Ending
from ds4trio.api.errors import ApiError, InvalidRequestError
from ds4trio.api.messages import Messages
from ds4trio.api.messages.answer import MessagesDocument, MessagesStream
from ds4trio.api.messages.signature import carried, carrying, signature
from ds4trio.api.task import Task
from ds4trio.chat import Conversation, Message, OutputFormat, Thinking, Tool, ToolCall, ToolChoice
from tests.api.messages.answers import FRAME, USAGE, texts

GOLDEN = sorted((Path(__file__).parents[2] / "data" / "requests").glob("*-messages.json"))
LOOK_UP = {"name": "look_up", "description": "Looks up.", "input_schema": {"type": "object"}}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aaaa"}}
SAY = [{"role": "user", "content": "hello"}]


def task(**members: object) -> Task:
    body = {"model": "m", "max_tokens": 100, "messages": SAY, **members}
    return Messages().parse(json.dumps(body).encode())


def conversation(**members: object) -> Conversation:
    prompt = task(**members).prompt
    assert isinstance(prompt, Conversation)
    return prompt


def messages(*params: object, **members: object) -> tuple[Message, ...]:
    return conversation(messages=params, **members).messages


def user(*blocks: object) -> dict[str, object]:
    return {"role": "user", "content": blocks}


def assistant(*blocks: object) -> dict[str, object]:
    return {"role": "assistant", "content": blocks}


def text(text: str, **more: object) -> dict[str, object]:
    return {"type": "text", "text": text, **more}


def call(id: str, name: str, input: object) -> dict[str, object]:
    return {"type": "tool_use", "id": id, "name": name, "input": input}


def result(id: str, content: object, **more: object) -> dict[str, object]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_agents_send_is_understood_without_a_warning(path: Path) -> None:
    body = json.loads(path.read_bytes())
    task = Messages().parse(path.read_bytes())
    assert isinstance(task.prompt, Conversation)
    assert task.warnings == ()
    assert [tool.name for tool in task.prompt.tools] == [tool["name"] for tool in body["tools"]]
    assert task.max_tokens == body["max_tokens"]
    assert {"system", "user"} == {message.role for message in task.prompt.messages}
    assert isinstance(task.answer(FRAME), MessagesStream)


def test_there_are_golden_requests() -> None:
    assert len(GOLDEN) == 4


def test_the_shortest_request() -> None:
    short = task()
    assert short.prompt == Conversation(messages=(Message("user", "hello"),))
    assert (short.kind, short.model, short.max_tokens, short.n) == ("messages", "m", 100, 1)
    assert isinstance(short.answer(FRAME), MessagesDocument)
    assert isinstance(task(stream=True).answer(FRAME), MessagesStream)


def test_system_blocks_are_paragraphs_without_billing_headers() -> None:
    blocks = [text("x-anthropic-billing-header: cc_version=1"), text("Be brief."), text("Be kind.", cache_control=None)]
    wanted = Message("system", "Be brief.\n\nBe kind.")
    assert messages(*SAY, system=blocks)[0] == wanted
    assert messages(*SAY, system="Be brief.\n\nBe kind.")[0] == wanted
    assert messages(*SAY, {"role": "system", "content": blocks})[1] == wanted
    assert messages(*SAY, system=[blocks[0]]) == (Message("user", "hello"),)


def test_results_come_before_what_the_user_says_with_them() -> None:
    turns = messages(
        *SAY,
        assistant(text("I look."), call("a", "look_up", {"q": 1}), call("b", "bash", {})),
        user(text("And"), result("a", "found"), result("b", [text("x"), text("y")], is_error=True), text("go on")),
    )
    assert turns[1:] == (
        Message(
            "assistant",
            "I look.",
            tool_calls=(ToolCall("a", "look_up", '{"q": 1}'), ToolCall("b", "bash", "{}")),
        ),
        Message("tool", "found", tool_call_id="a", name="look_up"),
        Message("tool", "Error: x\n\ny", tool_call_id="b", name="bash"),
        Message("user", "And\n\ngo on"),
    )


def test_results_alone_are_no_user_message() -> None:
    turns = messages(*SAY, user(result("a", None), {"type": "tool_result", "tool_use_id": "b"}))
    assert turns[1:] == (Message("tool", tool_call_id="a"), Message("tool", tool_call_id="b"))


def test_arguments_stay_as_the_client_wrote_them() -> None:
    body = b"""{"model": "m", "max_tokens": 1, "messages": [{"role": "assistant", "content": [
        {"type": "tool_use", "id": "a", "name": "f", "input": {"z": 1.0, "a": 123456789012345678901234567890}}]}]}"""
    prompt = Messages().parse(body).prompt
    assert isinstance(prompt, Conversation)
    assert prompt.messages[0].tool_calls[0].arguments == '{"z": 1.0, "a": 123456789012345678901234567890}'


def test_thinking_becomes_reasoning() -> None:
    (turn,) = messages(
        assistant(
            {"type": "thinking", "thinking": "hm ", "signature": "from somewhere else"},
            {"type": "redacted_thinking", "data": "aaaa"},
            {"type": "thinking", "thinking": "", "signature": carrying("and so")},
            text("Yes"),
            text(", it is."),
        )
    )
    assert turn == Message("assistant", "Yes, it is.", reasoning="hm and so")


@given(texts)
def test_a_signature_carries_any_text(thinking: str) -> None:
    assert carried(carrying(thinking)) == thinking
    assert carried(signature(thinking)) == ""


@given(texts | st.text("ABC-_=", max_size=9))
def test_a_foreign_signature_carries_nothing(foreign: str) -> None:
    assert carried(foreign) == ""
    assert isinstance(carried(f"ds4trio1t.{foreign}"), str)


def test_a_prefill_stays_the_last_message() -> None:
    turns = messages(*SAY, {"role": "assistant", "content": "The answer is ("})
    assert turns[-1] == Message("assistant", "The answer is (")


def test_what_can_be_read_as_text_is() -> None:
    plain = {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "D"}}
    blocks = {"type": "document", "context": "C", "source": {"type": "content", "content": [text("E"), text("F")]}}
    string = {"type": "document", "source": {"type": "content", "content": "G"}}
    found = {"type": "search_result", "source": "http://x", "title": "S", "content": [text("H")]}
    loaded = {"type": "tool_reference", "tool_name": "look_up"}
    (turn,) = messages(user(plain, blocks, string, found))
    assert turn.content == "T\n\nD\n\nC\n\nE\n\nF\n\nG\n\nS\n\nhttp://x\n\nH"
    assert "look_up" in messages(user(result("a", [loaded])))[0].content


def test_what_others_servers_did_is_left_out_with_a_warning() -> None:
    searched = assistant(
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "url": "u"}]},
        {"type": "web_fetch_tool_result", "tool_use_id": "s", "content": {"type": "web_fetch_result", "url": "u"}},
        {"type": "not_invented_yet", "content": None},
        text("Found."),
    )
    searching = task(messages=[*SAY, searched, *SAY])
    assert isinstance(searching.prompt, Conversation)
    assert searching.prompt.messages[1] == Message("assistant", "Found.")
    assert searching.warnings == tuple(
        f"the history's blocks of type {kind!r} were left out"
        for kind in ("server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "not_invented_yet")
    )


def test_an_image_that_a_tool_returned_does_not_end_the_conversation() -> None:
    (_, told) = conversation(messages=[*SAY, user(result("a", [text("x"), IMAGE]))]).messages
    assert told.content == "x\n\n[an image, which this model cannot see]"


REFUSED = [
    ({"messages": [user(text("see"), IMAGE)]}, "$.messages[0].content[1]"),
    ({"messages": [user({"type": "document", "source": {"type": "url", "url": "u"}})]}, "$.messages[0].content[0]"),
    (
        {"messages": [user({"type": "document", "source": {"type": "content", "content": [IMAGE]}})]},
        "$.messages[0].content[0].source.content[0]",
    ),
    ({"messages": [user({"type": "not_invented_yet"})]}, "$.messages[0].content[0]"),
    ({"messages": [user({"type": "text"})]}, "$.messages[0].content[0].text"),
    ({"messages": [user({"type": "tool_result"})]}, "$.messages[0].content[0].tool_use_id"),
    ({"messages": [user(result("a", {"b": 1}))]}, "$.messages[0].content[0].content"),
    ({"messages": [assistant(call("a", "f", [1]))]}, "$.messages[0].content[0].input"),
    ({"messages": [assistant({"type": "tool_use", "id": "a"})]}, "$.messages[0].content[0].name"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "$.messages[0].role"),
    ({"messages": [{"role": "user", "content": None}]}, "$.messages[0].content"),
    ({"messages": []}, "$.messages"),
    ({"system": [IMAGE]}, "$.system[0]"),
    ({"max_tokens": 0}, "$.max_tokens"),
    ({"max_tokens": None}, "$.max_tokens"),
    ({"temperature": -1}, "$.temperature"),
    ({"model": 3}, "$.model"),
    ({"tools": [{"input_schema": {}}]}, "$.tools[0].name"),
    ({"tools": [LOOK_UP, {"name": "f"}]}, "$.tools[1].input_schema"),
    ({"tools": [LOOK_UP, LOOK_UP]}, "$.tools[1].name"),
    ({"tool_choice": {"type": "any"}}, "$.tool_choice"),
    ({"tools": [LOOK_UP], "tool_choice": {"type": "tool", "name": "other"}}, "$.tool_choice.name"),
    ({"tools": [LOOK_UP], "tool_choice": {"type": "tool"}}, "$.tool_choice.name"),
    ({"tools": [LOOK_UP], "tool_choice": {"type": "must"}}, "$.tool_choice.type"),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "$.thinking.budget_tokens"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "$.output_config.format"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
]


@pytest.mark.parametrize(("members", "param"), REFUSED)
def test_what_cannot_be_done_is_refused_with_its_path(members: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        task(**members)
    assert refused.value.param == param
    assert refused.value.status == 400
    assert param.removeprefix("$.").rpartition(".")[0] in refused.value.message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model": "\xff"}', b"[" * 100_000])
def test_what_is_not_a_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        Messages().parse(body)


def test_broken_input_of_a_call_is_refused() -> None:
    for input in (b'{"a": "\xff"}', b'{"a": "\\ud800"}', b"{" * 3, b'{"a":' * 5000 + b"1" + b"}" * 5000):
        body = (
            b'{"model": "m", "max_tokens": 1, "messages": [{"role": "assistant", "content": '
            b'[{"type": "tool_use", "id": "a", "name": "f", "input": %s}]}]}' % input
        )
        with pytest.raises(InvalidRequestError):
            Messages().parse(body)


def test_tools() -> None:
    offered = conversation(
        tools=[
            {**LOOK_UP, "strict": True, "type": "custom", "cache_control": {"type": "ephemeral"}},
            {"name": "later", "input_schema": {"type": "object"}, "defer_loading": True, "eager_input_streaming": True},
        ],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    )
    assert offered.tools == (
        Tool("look_up", "Looks up.", {"type": "object"}, strict=True),
        Tool("later", "", {"type": "object"}),
    )
    assert offered.tool_choice == ToolChoice()
    assert not offered.parallel_tool_calls
    assert conversation(tools=[LOOK_UP]).parallel_tool_calls


@pytest.mark.parametrize(
    ("param", "wanted"),
    [
        (None, ToolChoice()),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "tool", "name": "look_up"}, ToolChoice("required", ("look_up",))),
    ],
)
def test_tool_choice(param: object, wanted: ToolChoice) -> None:
    assert conversation(tools=[LOOK_UP], tool_choice=param).tool_choice == wanted


def test_anthropics_client_tools_get_a_schema_and_the_others_a_warning() -> None:
    asked = task(
        tools=[
            {"type": "bash_20250124", "name": "bash"},
            {"type": "text_editor_20250124", "name": "str_replace_editor"},
            {"type": "memory_20250818"},
            {"type": "web_search_20260318", "name": "web_search", "max_uses": 5},
            {"type": "computer_toolset_20260801"},
        ]
    )
    assert isinstance(asked.prompt, Conversation)
    assert [tool.name for tool in asked.prompt.tools] == ["bash", "str_replace_editor", "memory"]
    for tool in asked.prompt.tools:
        assert set(tool.parameters.get("required", ())) <= set(tool.parameters["properties"])
        assert "command" in tool.parameters["properties"]
    assert ["web_search_20260318" in asked.warnings[0], "computer" in asked.warnings[1]] == [True, True]


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    "members",
    [
        {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}}},
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
    ],
)
def test_an_output_format(members: dict[str, object]) -> None:
    assert conversation(**members).output == OutputFormat("schema", SCHEMA)


@pytest.mark.parametrize(
    ("members", "wanted"),
    [
        ({}, Thinking()),
        ({"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "high"}}, "high"),
        ({"thinking": {"type": "between_tools"}}, Thinking()),
        ({"thinking": {"type": "enabled", "budget_tokens": 50}}, Thinking(enabled=True, budget=50)),
        ({"thinking": {"type": "disabled"}}, Thinking(enabled=False)),
    ],
)
def test_thinking(members: dict[str, object], wanted: Thinking | str) -> None:
    wanted = Thinking(effort=wanted) if isinstance(wanted, str) else wanted
    assert conversation(**members).thinking == wanted


def test_a_budget_beyond_the_answer_is_a_warning() -> None:
    generous = task(thinking={"type": "enabled", "budget_tokens": 100})
    assert isinstance(generous.prompt, Conversation)
    assert generous.prompt.thinking.budget == 100
    assert "budget_tokens" in generous.warnings[0]
    assert task(thinking={"type": "enabled", "budget_tokens": 99}).warnings == ()


def test_how_to_draw_tokens() -> None:
    drawn = task(
        temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, seed=3, stop_sequences=["END", ""], logit_bias={"7": -1}
    )
    wanted = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "logit_bias": {7: -1}}
    assert drawn.overrides == wanted
    assert drawn.stop == ("END",)
    assert conversation(chat_template_kwargs={"x": 1}).variables == {"x": 1}


def test_members_of_no_meaning_here_are_ignored() -> None:
    ignored = task(metadata={"user_id": "u"}, service_tier="auto", container="c", context_management={}, new={"x": 1})
    assert ignored.warnings == ()
    assert "mcp_servers" in task(mcp_servers=[{"type": "url", "url": "u"}]).warnings[0]


@pytest.mark.parametrize(
    "members",
    [
        {"cache_control": {"type": "ephemeral"}},
        {"system": [text("x", cache_control={"type": "ephemeral"})]},
        {"messages": [user(text("x", cache_control={"type": "ephemeral"}))]},
        {"tools": [{**LOOK_UP, "cache_control": {"type": "ephemeral"}}]},
    ],
)
def test_usage_speaks_of_caching_to_those_who_asked_for_it(members: dict[str, object]) -> None:
    def written(task: Task) -> int:
        answer = task.answer(FRAME)
        answer.end(0, Ending("stop", USAGE))
        written: int = json.loads(answer.finish(USAGE))["usage"]["cache_creation_input_tokens"]
        return written

    assert written(task(**members)) == 40
    assert written(task()) == 0


def test_counting_needs_no_max_tokens() -> None:
    body = json.dumps({"model": "m", "messages": SAY, "system": "Be brief.", "tools": [LOOK_UP]}).encode()
    counted = Messages().parse_count_tokens(body)
    assert isinstance(counted.prompt, Conversation)
    assert len(counted.prompt.messages) == 2
    with pytest.raises(InvalidRequestError, match="max_tokens"):
        Messages().parse(body)
    assert json.loads(Messages().count_tokens_document(12)) == {"input_tokens": 12}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(texts, values, max_size=3),
    max_leaves=6,
)
rich: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "system": [text("s")],
    "messages": [
        user(text("x"), {"type": "search_result", "source": "u", "title": "t", "content": [text("y")]}),
        assistant({"type": "thinking", "thinking": "", "signature": carrying("z")}, call("a", "f", {"b": 1})),
        user(result("a", [text("x"), {"type": "tool_reference", "tool_name": "f"}], is_error=True)),
    ],
    "tools": [LOOK_UP, {"type": "bash_20250124", "name": "bash"}],
    "tool_choice": {"type": "tool", "name": "look_up"},
    "thinking": {"type": "enabled", "budget_tokens": 5},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
    "stop_sequences": ["END"],
}
bodies = [rich, *(json.loads(path.read_bytes()) for path in GOLDEN)]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place within a JSON value, down to where agents' tool schemas begin."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [
        place
        for key, child in children
        for place in [(*path, key), *(places(child, (*path, key)) if key != "input_schema" else [])]
    ]


def parse_or_refuse(body: bytes) -> None:
    with contextlib.suppress(ApiError):
        assert isinstance(Messages().parse(body).prompt, Conversation)


@given(st.data())
def test_no_mutation_raises_anything_but_an_api_error(data: st.DataObject) -> None:
    body = copy.deepcopy(data.draw(st.sampled_from(bodies)))
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places(body)))
        parent = body
        for key in path:
            parent = parent[key]
        if data.draw(st.booleans()):
            parent[last] = data.draw(json_values)
        else:
            del parent[last]
        if not body:
            break
    parse_or_refuse(json.dumps(body).encode())


@given(st.sampled_from(bodies).map(json.dumps).map(str.encode), st.data())
def test_no_damage_to_the_bytes_raises_anything_but_an_api_error(body: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(body)))
    damaged = body[:place] + data.draw(st.binary(max_size=4)) + body[place + data.draw(st.integers(0, 4)) :]
    parse_or_refuse(damaged)


def test_five_megabytes_parse_quickly() -> None:
    turns = []
    for turn in range(1000):
        turns.append(assistant(text("look " * 100), call(f"{turn}", "look_up", {"query": "word " * 100})))
        turns.append(user(result(f"{turn}", [text("line\n" * 800)])))
    body = json.dumps({"model": "m", "max_tokens": 9, "messages": turns}).encode()
    assert len(body) > 5_000_000
    assert min(_seconds(body) for _ in range(3)) < 0.1


def _seconds(body: bytes) -> float:
    begin = time.perf_counter()
    Messages().parse(body)
    return time.perf_counter() - begin
