"""Reasoning in a chat request: that of the history, and how much of it the client wants."""

import pytest

from ds4trio.chat import Thinking
from tests.api.chat_completions.requests import body, conversation, refusal


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
