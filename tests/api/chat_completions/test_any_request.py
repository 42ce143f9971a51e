"""Whatever a chat request is, it is a task or an invalid request."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4trio.api.errors import ApiError, openai_error_document
from ds4trio.api.task import Task
from ds4trio.chat import Conversation
from ds4trio.engine import Sampling
from tests.api.chat_completions.requests import GOLDEN, body, parse

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
        assert json.loads(openai_error_document(task))["error"]["message"] == task.message
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
