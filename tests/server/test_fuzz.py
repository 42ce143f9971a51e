"""Any request, valid or broken, through the whole server: a 4xx with a message, or an answer that its grammar allows.

Bodies are those that real clients sent, damaged at random places, and small ones made up; the simulated engine answers
with reasoning, text and tool calls, some of them broken.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.server.openapi.answers.completions import ChatChunk, ChatCompletion, Completion, CompletionChunk
from ds4trio.server.openapi.answers.errors import MessagesError, OpenAIError
from ds4trio.server.openapi.answers.messages import Message
from ds4trio.server.openapi.answers.responses import Response
from ds4trio.testing import AsgiCall, call_asgi, run_app
from tests.grammars.chat import check_chat_stream, sse_data
from tests.grammars.completions import check_completion_stream
from tests.grammars.messages import check_messages_stream
from tests.grammars.responses import check_responses_stream

REQUESTS = Path(__file__).parents[1] / "data" / "requests"
CALL = '<tool_call>\n{"name": "read", "arguments": {"path": "é\\n\\"x\\""}}\n</tool_call>'
ANSWERS = [
    "Plain words.",
    "",
    CALL,
    f"Let me look.\n{CALL}\n{CALL}",
    CALL[:30],
    "<tool_call>\n{not JSON}\n</tool_call>",
    "a <tool_call> that is none, <b>and</b> data: more\n\n: text",
]
TOOLS: dict[str, Any] = {
    "chat-completions": {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}},
    "responses": {"type": "function", "name": "read", "parameters": {"type": "object"}},
    "messages": {"name": "read", "input_schema": {"type": "object"}},
}
SMALL: dict[str, dict[str, Any]] = {
    "chat-completions": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "read", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "a", "content": "text"},
        ],
        "tools": [TOOLS["chat-completions"]],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 1,
        "stop": ["END"],
        "temperature": 0.5,
        "logit_bias": {"5": 1},
        "stream_options": {"include_usage": True},
        "response_format": {"type": "text"},
        "return_progress": True,
        "max_tokens": 50,
    },
    "completions": {"prompt": ["a", [353, 354]], "n": 2, "max_tokens": 9, "logprobs": 1, "stop": "x"},
    "responses": {
        "input": [
            {"role": "developer", "content": "Be brief."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "a", "name": "read", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "text"},
        ],
        "tools": [TOOLS["responses"], {"type": "custom", "name": "patch"}],
        "tool_choice": "auto",
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": "low", "summary": "auto"},
        "max_output_tokens": 50,
    },
    "messages": {
        "model": "m",
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "read", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "text"}]},
        ],
        "tools": [TOOLS["messages"]],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 20},
        "stop_sequences": ["END"],
    },
}
CHECKS: dict[str, Callable[[bytes], object]] = {
    "chat-completions": partial(check_chat_stream, stop_strings=True),
    "completions": check_completion_stream,
    "responses": check_responses_stream,
    "messages": check_messages_stream,
}
DOCUMENTS: dict[str, type] = {
    "chat-completions": ChatCompletion,
    "completions": Completion,
    "responses": Response,
    "messages": Message,
}
CHUNKS: dict[str, type] = {"chat-completions": ChatChunk, "completions": CompletionChunk}
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "auto", "none", "required", "text", "function", "json_object", "enabled", "read"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "content", "text", "name", "id"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def bodies(protocol: str) -> list[dict[str, Any]]:
    files = sorted(REQUESTS.glob(f"*-{protocol}*.json")) if protocol != "completions" else []
    return [*(json.loads(file.read_text()) for file in files), SMALL[protocol], SMALL[protocol], SMALL[protocol]]


@st.composite
def requests(draw: st.DrawFn, protocol: str) -> dict[str, Any]:
    """A body of the protocol with up to three damages, each deep or shallow."""
    body: dict[str, Any] = deepcopy(draw(st.sampled_from(bodies(protocol))))
    for _ in range(draw(st.integers(0, 3))):
        place: Any = body
        while True:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], dict | list) or not place[key] or draw(st.integers(0, 3)) == 0:
                break
            place = place[key]
        damage = draw(st.sampled_from(["replace", "remove", "repeat"]))
        if damage == "replace":
            place[key] = draw(values)
        elif damage == "remove":
            del place[key]
        elif isinstance(place, list):
            place.insert(key, deepcopy(place[key]))
        if not body:
            break
    body["stream"] = draw(st.booleans())
    return body


async def answered(protocol: str, answer: str, sent: list[bytes]) -> list[AsgiCall]:
    engine = SimulatedEngine(prefill_tps=1e9, decode_tps=100.0, answer=answer)
    path = f"/v1/{protocol.replace('-', '/')}"
    calls = []
    async with run_app(engine, any_model=True, heartbeat_interval=0.05) as app:
        for body in sent:
            async with call_asgi(app, body, path=path) as call:
                await call.ended.wait()
            calls.append(call)
        assert (engine.running, engine.waiting, app.board.live) == (0, 0, {})
    return calls


def check(protocol: str, stream: bool, call: AsgiCall) -> None:
    assert call.status is not None
    assert call.status < 500, call.body
    if call.status != 200:
        error = json.loads(call.body)["error"]
        assert error["message"]
        assert error["type"]
        msgspec.json.decode(call.body, type=MessagesError if protocol == "messages" else OpenAIError)
    elif stream:
        CHECKS[protocol](call.body)
        for event in sse_data(call.body)[:-1] if protocol in CHUNKS else ():
            msgspec.json.decode(event, type=CHUNKS[protocol])
    else:
        msgspec.json.decode(call.body, type=DOCUMENTS[protocol])


@pytest.mark.parametrize("protocol", list(SMALL))
def test_whatever_is_asked_the_answer_is_one_of_its_protocol(protocol: str) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
    @given(sent=st.lists(requests(protocol), min_size=1, max_size=8), answer=st.sampled_from(ANSWERS))
    def run(sent: list[dict[str, Any]], answer: str) -> None:
        data = [json.dumps(body).encode() for body in sent]
        clock = MockClock(autojump_threshold=0)
        for body, call in zip(sent, trio.run(partial(answered, protocol, answer, data), clock=clock), strict=True):
            check(protocol, body["stream"], call)

    run()


@pytest.mark.parametrize("protocol", list(SMALL))
def test_bodies_of_real_clients_are_answered(protocol: str) -> None:
    sent = [{**body, "stream": stream} for body in bodies(protocol) for stream in (True, False)]
    data = [json.dumps(body).encode() for body in sent]
    for body, call in zip(
        sent, trio.run(answered, protocol, ANSWERS[3], data, clock=MockClock(autojump_threshold=0)), strict=True
    ):
        assert call.status == 200, call.body
        check(protocol, body["stream"], call)
