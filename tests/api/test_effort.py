"""An effort means the same in every protocol."""

import json
from typing import Any

import pytest

from ds4trio.api.chat_completions import ChatCompletions
from ds4trio.api.messages import Messages
from ds4trio.api.responses import Responses, ResponseStore
from ds4trio.api.task import WireProtocol
from ds4trio.chat import Conversation, Thinking, thinking_of

SAY = [{"role": "user", "content": "hi"}]


def thinking(protocol: WireProtocol, **members: object) -> Thinking:
    prompt = protocol.parse(json.dumps({"model": "m", "max_tokens": 9, **members}).encode()).prompt
    assert isinstance(prompt, Conversation)
    return prompt.thinking


@pytest.mark.parametrize("effort", [None, "", "none", "minimal", "low", "high", "xhigh", "max", "tremendous"])
def test_an_effort_means_the_same_in_every_protocol(effort: Any) -> None:
    assert [
        thinking(ChatCompletions(), messages=SAY, reasoning_effort=effort),
        thinking(ChatCompletions(), messages=SAY, reasoning={"effort": effort}),
        thinking(Messages(), messages=SAY, output_config={"effort": effort}),
        thinking(Responses(ResponseStore()), input="hi", reasoning={"effort": effort}),
    ] == [thinking_of(effort)] * 4


@pytest.mark.parametrize("effort", ["none", "high"])
@pytest.mark.parametrize("kind", ["enabled", "disabled"])
def test_anthropics_switch_and_an_effort_are_one_wish(kind: str, effort: str) -> None:
    switch = {"type": kind, "budget_tokens": 5}
    wish = thinking_of(effort, enabled=kind == "enabled", budget=5)
    assert thinking(Messages(), messages=SAY, thinking=switch, output_config={"effort": effort}) == wish
    assert thinking(ChatCompletions(), messages=SAY, thinking=switch, reasoning_effort=effort) == wish
