"""What clients write comes back to them in part only: errors and warnings do not grow with the body."""

import json
from typing import Any

import pytest

from ds4trio.api.chat_completions import ChatCompletions
from ds4trio.api.completions import Completions
from ds4trio.api.errors import ApiError, UnknownModelError, shown
from ds4trio.api.messages import Messages
from ds4trio.api.responses import Responses, ResponseStore
from ds4trio.api.task import MOST_WARNINGS, WireProtocol

LONG = "é\n" + "x" * 100_000
CHAT, COMPLETIONS, MESSAGES, RESPONSES = ChatCompletions(), Completions(), Messages(), Responses(ResponseStore())


def chat(**members: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "hi"}], **members}


def message(**members: object) -> dict[str, object]:
    return {"model": "m", "max_tokens": 9, **chat(**members)}


def chat_tool(name: str) -> dict[str, object]:
    return {"type": "function", "function": {"name": name}}


def tool(name: str) -> dict[str, object]:
    return {"type": "function", "name": name, "input_schema": {}}


def named(name: str) -> dict[str, object]:
    return {"name": name, "input_schema": {}}


@pytest.mark.parametrize(
    ("protocol", "request_body"),
    [
        pytest.param(CHAT, chat(tools=[chat_tool("x" * 256)] * 2), id="chat, two tools of one name"),
        pytest.param(CHAT, chat(tools=[chat_tool("f")], tool_choice=chat_tool(LONG)), id="chat, unknown tool"),
        pytest.param(CHAT, chat(messages=[{"role": LONG, "content": ""}]), id="chat, role"),
        pytest.param(CHAT, chat(messages=[{"role": "user", "content": [{"type": LONG}]}]), id="chat, part"),
        pytest.param(CHAT, chat(response_format={"type": LONG}), id="chat, format"),
        pytest.param(CHAT, chat(logit_bias={LONG: 1}), id="chat, logit bias"),
        pytest.param(COMPLETIONS, {"prompt": "x", "logit_bias": {LONG: 1}}, id="completions, logit bias"),
        pytest.param(MESSAGES, message(tools=[named(LONG)] * 2), id="messages, two tools of one name"),
        pytest.param(
            MESSAGES,
            message(tools=[named("f")], tool_choice={"type": "tool", "name": LONG}),
            id="messages, unknown tool",
        ),
        pytest.param(MESSAGES, message(messages=[{"role": "user", "content": [{"type": LONG}]}]), id="messages, block"),
        pytest.param(MESSAGES, message(messages=[{"role": LONG, "content": ""}]), id="messages, role"),
        pytest.param(RESPONSES, {"input": "x", "tools": [tool(LONG)] * 2}, id="responses, two tools of one name"),
        pytest.param(RESPONSES, {"input": "x", "tool_choice": LONG}, id="responses, choice"),
        pytest.param(RESPONSES, {"input": "x", "tool_choice": {"type": LONG, "name": LONG}}, id="responses, forced"),
        pytest.param(RESPONSES, {"input": [{"role": LONG, "content": "x"}]}, id="responses, role"),
        pytest.param(RESPONSES, {"input": [{"type": "item_reference", "id": LONG}]}, id="responses, reference"),
        pytest.param(
            RESPONSES, {"input": [{"role": "user", "content": [{"type": LONG, "text": ""}]}]}, id="responses, part"
        ),
        pytest.param(RESPONSES, {"input": "x", "previous_response_id": LONG}, id="responses, previous response"),
        pytest.param(RESPONSES, {"input": "x", "text": {"format": {"type": LONG}}}, id="responses, format"),
    ],
)
def test_an_error_message_has_one_short_line(protocol: WireProtocol, request_body: object) -> None:
    with pytest.raises(ApiError) as caught:
        protocol.parse(json.dumps(request_body).encode())
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


def test_an_unknown_model_is_not_repeated_in_full() -> None:
    assert len(UnknownModelError(LONG, ("small",)).message) < 200


@pytest.mark.parametrize(
    ("protocol", "request_body"),
    [
        pytest.param(CHAT, chat(tools=[{"type": f"{number}{LONG}"} for number in range(20)]), id="chat"),
        pytest.param(MESSAGES, message(tools=[{"type": f"{number}{LONG}"} for number in range(20)]), id="messages"),
        pytest.param(
            MESSAGES,
            message(messages=[{"role": "assistant", "content": [{"type": f"{number}{LONG}"} for number in range(20)]}]),
            id="messages, history",
        ),
        pytest.param(
            RESPONSES, {"input": "x", "tools": [{"type": f"{number}{LONG}"} for number in range(20)]}, id="responses"
        ),
        pytest.param(
            RESPONSES,
            {"input": [{"role": "user", "content": "x"}, *({"type": f"{number}{LONG}"} for number in range(20))]},
            id="responses, items",
        ),
    ],
)
def test_warnings_are_few_and_fit_into_a_header(protocol: WireProtocol, request_body: object) -> None:
    warnings = protocol.parse(json.dumps(request_body).encode()).warnings
    assert 0 < len(warnings) <= MOST_WARNINGS
    assert all(warning.isascii() and warning.isprintable() for warning in warnings)
    assert all(len(warning) < 500 for warning in warnings)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("read", "'read'"),
        ("", "''"),
        ("x" * 40, "'" + "x" * 40 + "'"),
        ("x" * 41, "'" + "x" * 40 + "'..."),
        ("a\r\nb\x00é", r"'a\r\nb\x00\xe9'"),
    ],
)
def test_texts_of_clients_are_quoted_on_one_line(text: str, quoted: str) -> None:
    assert shown(text) == quoted


@pytest.mark.parametrize("member", ["ignore_eos", "stream", "temperature", "seed", "logit_bias"])
@pytest.mark.parametrize(
    ("protocol", "request_body"),
    [(CHAT, chat()), (COMPLETIONS, {"prompt": "x"}), (MESSAGES, message()), (RESPONSES, {"input": "x"})],
    ids=["chat", "completions", "messages", "responses"],
)
def test_null_is_the_same_as_nothing(protocol: WireProtocol, request_body: dict[str, Any], member: str) -> None:
    with_null, without = (
        protocol.parse(json.dumps(body).encode()) for body in ({**request_body, member: None}, request_body)
    )
    assert with_null.ignore_eos is without.ignore_eos is False
    assert (with_null.overrides, with_null.prompt) == (without.overrides, without.prompt)
