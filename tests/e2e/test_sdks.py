"""The vendors' own SDKs against a real process with a real model: every protocol, streamed and not, without a warning.

A model of 135M parameters seldom calls a tool of its own accord, and then does not stop; one call is forced here.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import MessageParam, ToolParam
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from openai.types.responses import FunctionToolParam

from ds4trio.testing import ServerProcess

# pydantic warns where a value is of another type than the SDK declares.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error::UserWarning")]

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Paris, in celsius?"}]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 30},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}
CHAT_TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather of a city", "parameters": WEATHER, "strict": True},
}
RESPONSES_TOOL: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": dict(WEATHER),
    "strict": True,
}
MESSAGES_TOOL: ToolParam = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", **{k: v for k, v in WEATHER.items() if k != "type"}},
}
PERSON: dict[str, object] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@asynccontextmanager
async def openai_client(server: ServerProcess) -> AsyncGenerator[tuple[openai.AsyncOpenAI, str], None]:
    url = f"http://127.0.0.1:{server.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client, (await client.models.list()).data[0].id


@asynccontextmanager
async def anthropic_client(server: ServerProcess) -> AsyncGenerator[tuple[anthropic.AsyncAnthropic, str], None]:
    async with openai_client(server) as (_, model):
        url = f"http://127.0.0.1:{server.port}"
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            yield client, model


def check_weather(arguments: Any) -> None:
    assert set(arguments) == {"city", "unit", "days"}
    assert isinstance(arguments["city"], str)
    assert arguments["unit"] in ("celsius", "fahrenheit")
    assert 1 <= arguments["days"] <= 14


def check_person(text: str) -> None:
    person = json.loads(text)
    assert set(person) == {"name", "age", "tags"}
    assert isinstance(person["name"], str)
    assert 0 <= person["age"] <= 150
    assert all(tag in ("a", "b") for tag in person["tags"])
    assert len(person["tags"]) <= 2


def known_to(model: Any) -> Any:
    """The value as the SDK's types dump it; a value of another type than declared is a warning, so an error here."""
    return model.model_dump(warnings="error")


async def test_openai_chat(server: ServerProcess) -> None:
    async with openai_client(server) as (client, model):
        whole = await client.chat.completions.create(
            model=model,
            messages=ASK,
            tools=[CHAT_TOOL],
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=120,
        )
        known_to(whole)
        assert whole.choices[0].finish_reason == "tool_calls"
        (call,) = whole.choices[0].message.tool_calls or []
        assert call.type == "function"
        check_weather(json.loads(call.function.arguments))

        async with client.chat.completions.stream(
            model=model,
            messages=ASK,
            tools=[CHAT_TOOL],
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=120,
        ) as stream:
            async for event in stream:
                known_to(event)
            final = await stream.get_final_completion()
        (parsed,) = final.choices[0].message.tool_calls or []
        check_weather(json.loads(parsed.function.arguments))

        answer = await client.chat.completions.create(
            model=model,
            messages=[
                *ASK,
                {"role": "assistant", "tool_calls": [{"id": call.id, "type": "function", "function": call.function}]},  # type: ignore[typeddict-item]  # the SDK takes its own object back
                {"role": "tool", "tool_call_id": call.id, "content": "22 degrees and sunny"},
            ],
            tools=[CHAT_TOOL],
            max_tokens=40,
        )
        known_to(answer)
        assert answer.choices[0].message.content


async def test_openai_chat_choices_and_logprobs(server: ServerProcess) -> None:
    async with openai_client(server) as (client, model):
        several = await client.chat.completions.create(
            model=model, messages=ASK, n=3, max_tokens=12, logprobs=True, top_logprobs=2, seed=7
        )
        known_to(several)
        assert [choice.index for choice in several.choices] == [0, 1, 2]
        for choice in several.choices:
            assert choice.logprobs is not None
            tokens = choice.logprobs.content or []
            assert "".join(token.token for token in tokens) == choice.message.content
            assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)
        assert several.usage is not None
        one = await client.chat.completions.create(model=model, messages=ASK, max_tokens=12)
        assert one.usage is not None
        assert several.usage.prompt_tokens == one.usage.prompt_tokens
        assert several.usage.completion_tokens > 12


async def test_openai_completions(server: ServerProcess) -> None:
    async with openai_client(server) as (client, model):
        whole = await client.completions.create(
            model=model, prompt="The capital of France is", max_tokens=8, temperature=0, logprobs=2, stop=["."]
        )
        known_to(whole)
        assert "Paris" in whole.choices[0].text
        assert whole.choices[0].finish_reason == "stop"
        texts = []
        stream = await client.completions.create(
            model=model, prompt=["One two three", "A B C"], max_tokens=4, temperature=0, echo=True, stream=True
        )
        async for chunk in stream:
            known_to(chunk)
            texts += [choice.text for choice in chunk.choices if choice.index == 1]
        assert "".join(texts).startswith("A B C")


async def test_openai_responses(server: ServerProcess) -> None:
    async with openai_client(server) as (client, model):
        whole = await client.responses.create(
            model=model,
            input="What is the weather in Paris?",
            tools=[RESPONSES_TOOL],
            tool_choice="required",
            parallel_tool_calls=False,
        )
        known_to(whole)
        (call,) = whole.output
        assert call.type == "function_call"
        check_weather(json.loads(call.arguments))
        assert whole.usage is not None

        events = await client.responses.create(model=model, input="Name three fruits.", temperature=0, stream=True)
        kinds = [known_to(event)["type"] async for event in events]
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
        # The helper's own parsed types cannot be dumped without a warning, whatever the server sends.
        async with client.responses.stream(model=model, input="Name three fruits.", temperature=0) as stream:
            final = await stream.get_final_response()
        assert final.output_text
        follow_up = await client.responses.create(
            model=model, input="And one more?", previous_response_id=final.id, max_output_tokens=12
        )
        known_to(follow_up)
        stored = await client.responses.retrieve(final.id)
        assert stored.output_text == final.output_text
        await client.responses.delete(final.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(final.id)


async def test_anthropic_messages(server: ServerProcess) -> None:
    question: MessageParam = {"role": "user", "content": "What is the weather in Paris?"}
    async with anthropic_client(server) as (client, model):
        counted = await client.messages.count_tokens(model=model, messages=[question], tools=[MESSAGES_TOOL])
        known_to(counted)
        async with client.messages.stream(
            model=model,
            max_tokens=200,
            messages=[question],
            tools=[MESSAGES_TOOL],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
            extra_body={"thinking": {"type": "enabled", "budget_tokens": 64}},
        ) as stream:
            async for event in stream:
                known_to(event)
            final = await stream.get_final_message()
        assert final.stop_reason == "tool_use"
        call = final.content[-1]
        assert call.type == "tool_use"
        assert call.id.startswith("toolu_")
        check_weather(call.input)
        usage = final.usage
        read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
        assert usage.input_tokens + read + written == counted.input_tokens

        whole = await client.messages.create(
            model=model,
            max_tokens=40,
            stop_sequences=["7"],
            messages=[{"role": "user", "content": "Count from 1 to 9: 1, 2, 3"}],
            extra_body={"temperature": 0},
        )
        known_to(whole)
        assert whole.stop_reason in ("stop_sequence", "end_turn", "max_tokens")
        if whole.stop_reason == "stop_sequence":
            assert whole.stop_sequence == "7"


async def test_forced_calls_are_valid_50_of_50(server: ServerProcess) -> None:
    async with openai_client(server) as (client, model):
        for seed in range(50):
            whole = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": f"Tell me something about the number {seed}."}],
                tools=[CHAT_TOOL],
                tool_choice={"type": "function", "function": {"name": "get_weather"}},
                parallel_tool_calls=False,
                temperature=1.5,
                seed=seed,
                max_tokens=120,
            )
            assert whole.choices[0].finish_reason == "tool_calls", seed
            (call,) = whole.choices[0].message.tool_calls or []
            assert call.type == "function"
            assert call.function.name == "get_weather"
            check_weather(json.loads(call.function.arguments))


async def test_schema_outputs_are_valid_50_of_50(server: ServerProcess) -> None:
    async with openai_client(server) as (client, model):
        for seed in range(50):
            whole = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": f"Invent person number {seed}."}],
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "person", "schema": PERSON, "strict": True},
                },
                temperature=1.5,
                seed=seed,
                max_tokens=120,
            )
            assert whole.choices[0].finish_reason == "stop", seed
            check_person(whole.choices[0].message.content or "")


async def test_every_way_to_ask_for_a_schema(server: ServerProcess) -> None:
    async with openai_client(server) as (client, model), anthropic_client(server) as (claude, _):
        response = await client.responses.create(
            model=model,
            input="Invent a person.",
            text={"format": {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}},
        )
        check_person(response.output_text)
        message = await claude.messages.create(
            model=model,
            max_tokens=120,
            messages=[{"role": "user", "content": "Invent a person."}],
            extra_body={"output_config": {"format": {"type": "json_schema", "schema": PERSON}}},
        )
        (block,) = message.content
        assert block.type == "text"
        check_person(block.text)
        with pytest.raises(openai.BadRequestError, match="uniqueItems"):
            await client.chat.completions.create(
                model=model,
                messages=ASK,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}, "strict": True},
                },
            )
