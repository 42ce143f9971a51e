"""The member ``priority``: the same in every protocol."""

import json

import pytest

from ds4trio.api.chat_completions import ChatCompletions
from ds4trio.api.completions import Completions
from ds4trio.api.errors import InvalidRequestError
from ds4trio.api.messages import Messages
from ds4trio.api.responses import Responses, ResponseStore
from ds4trio.api.task import WireProtocol

MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
every_protocol = pytest.mark.parametrize(
    ("protocol", "body"),
    [
        pytest.param(ChatCompletions(), MESSAGES, id="chat"),
        pytest.param(Completions(), {"prompt": "hi"}, id="completions"),
        pytest.param(Responses(ResponseStore()), {"input": "hi"}, id="responses"),
        pytest.param(Messages(), {"model": "m", "max_tokens": 9, **MESSAGES}, id="messages"),
    ],
)


@every_protocol
@pytest.mark.parametrize("priority", [-100, -1, 0, 100, None])
def test_priority_is_an_integer(protocol: WireProtocol, body: dict[str, object], priority: int | None) -> None:
    assert protocol.parse(json.dumps({**body, "priority": priority}).encode()).priority == priority


@every_protocol
def test_priority_that_is_not_said_is_none(protocol: WireProtocol, body: dict[str, object]) -> None:
    assert protocol.parse(json.dumps(body).encode()).priority is None


@every_protocol
@pytest.mark.parametrize(
    ("priority", "help_"),
    [
        (-101, ">= -100"),
        (101, "<= 100"),
        (1.5, "Expected `int | null`"),
        ("high", "Expected `int | null`"),
        (True, "Expected `int | null`"),
    ],
)
def test_what_is_no_priority_is_refused_with_what_to_write(
    protocol: WireProtocol, body: dict[str, object], priority: object, help_: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        protocol.parse(json.dumps({**body, "priority": priority}).encode())
    assert help_ in str(caught.value)
    assert caught.value.param == "$.priority"
