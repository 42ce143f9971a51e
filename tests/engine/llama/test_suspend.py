"""Answers of the real model that stop between two tokens and go on later: token for token what they would have been."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from llguidance import LLMatcher

from ds4trio.chat import ChatModel, Conversation, Message, Tool, ToolChoice
from ds4trio.engine import (
    Engine,
    Finished,
    Generation,
    GenerationRequest,
    Phase,
    Progress,
    Rest,
    Suspended,
    TextDelta,
)
from ds4trio.engine.llama import LlamaOptions, open_llama_engine
from ds4trio.engine.llama.continuation import Continuation
from tests.engine.llama.test_continuation import WILD, Script, joined, question
from tests.engine.llama.test_engine import GREEDY, QUESTION, STORY, tokens

pytestmark = pytest.mark.slow

# Long, since an answer is cut where its reader is, and a reader may be late.
TOWNS = LLMatcher.grammar_from_json_schema(
    {"type": "array", "items": {"enum": ["Paris", "Rome", "Berlin", "Lisbon"]}, "minItems": 10, "maxItems": 10}
)

Events = list[TextDelta | Finished]
Ask = Callable[[GenerationRequest], GenerationRequest]
"""What a test asks of the model; made anew for each use, since a guide is one answer's own."""


def greedy(request: GenerationRequest) -> GenerationRequest:
    return replace(request, ignore_eos=True)


def seeded(request: GenerationRequest) -> GenerationRequest:
    return replace(request, ignore_eos=True, sampling=replace(WILD, repeat_penalty=1.1, presence_penalty=0.3))


def in_a_schema(request: GenerationRequest) -> GenerationRequest:
    return replace(request, sampling=replace(WILD, temperature=1.0), grammar=TOWNS)


def guided(request: GenerationRequest) -> GenerationRequest:
    forced = {3: "One two three four. ", 22: "Five six. ", 38: "Seven."}
    return replace(request, ignore_eos=True, guide=Script(forced, greedy=lambda text: "Five" in text))


def with_logprobs(request: GenerationRequest) -> GenerationRequest:
    return replace(request, ignore_eos=True, top_logprobs=3, stop=("no such text", "Paris is not"))


async def read(generation: Generation, events: Events, *, upto: int | None = None) -> None:
    """Take events until so many tokens were sampled, or to the end."""
    await generation.prefill()
    async for event in generation:
        events.append(event)
        if upto is not None and isinstance(event, TextDelta) and event.output_tokens >= upto:
            return


async def whole(engine: Engine, request: GenerationRequest, rest: Rest | None = None) -> Events:
    events: Events = []
    async with engine.generate(request, rest=rest) as generation:
        await read(generation, events)
    return events


async def cut(engine: Engine, request: GenerationRequest, *, tokens: int, rest: Rest | None = None) -> Suspended:
    """What there is of an answer whose client goes at so many tokens, the events from the first on."""
    events: Events = []
    async with engine.generate(request, rest=rest) as generation:
        await read(generation, events, upto=tokens)
        suspended = await generation.suspend()
    assert engine.running == 0
    return replace(suspended, events=(*events, *suspended.events))


def end_of(events: Events) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def deltas_of(events: Events) -> list[TextDelta]:
    return [event for event in events if isinstance(event, TextDelta)]


@pytest.mark.parametrize("ask", [greedy, seeded, in_a_schema, guided, with_logprobs])
async def test_an_answer_that_was_cut_goes_on_as_if_it_had_not_been(options: LlamaOptions, ask: Ask) -> None:
    async with open_llama_engine(options) as engine:
        request = await question(engine, max_tokens=50)
        expected = await whole(engine, ask(request))
    async with open_llama_engine(options) as engine:
        first = await cut(engine, ask(request), tokens=1)
        second = await cut(engine, ask(request), tokens=8, rest=first.rest)
        third = await whole(engine, ask(request), rest=second.rest)
    told, wanted = [*deltas_of([*first.events]), *deltas_of([*second.events]), *deltas_of(third)], deltas_of(expected)
    assert joined(told) == joined(wanted)
    for what in ("tokens", "logprobs"):
        assert [each for delta in told for each in getattr(delta, what)] == [
            each for delta in wanted for each in getattr(delta, what)
        ]
    assert sum(len(delta.tokens) for delta in deltas_of([*second.events])) > 1
    was, is_now = end_of(expected), end_of(third)
    assert (is_now.reason, is_now.stop_sequence) == (was.reason, was.stop_sequence)
    assert is_now.usage.output_tokens == was.usage.output_tokens
    assert is_now.usage.cached_tokens == is_now.usage.prompt_tokens, "nothing is computed twice"
    assert is_now.decode_seconds > is_now.prefill_seconds > 0


async def test_a_tool_call_that_was_cut_goes_on_within_its_grammar(options: LlamaOptions) -> None:
    tool = Tool("weather", parameters={"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}})
    asked = Conversation(
        messages=(Message("user", "What is the weather in Rome?"),), tools=(tool,), tool_choice=ToolChoice("required")
    )
    async with open_llama_engine(options) as engine:
        info = engine.info
        assert info.chat_template is not None
        chat = ChatModel(info.chat_template, special_tokens=info.special_tokens, control_tokens=info.control_tokens)
        prompt = chat.prompt(asked)
        ids = await tokens(engine, prompt.text)

        def request() -> GenerationRequest:
            guide = prompt.guide()
            assert guide is not None
            return GenerationRequest(
                prompt=ids, max_tokens=100, sampling=WILD, markers=prompt.markers, grammar=prompt.grammar, guide=guide
            )

        expected = await whole(engine, request())
    async with open_llama_engine(options) as engine:
        first = await cut(engine, request(), tokens=6)
        rest = await whole(engine, request(), rest=first.rest)
    assert joined([*deltas_of([*first.events]), *deltas_of(rest)]) == joined(deltas_of(expected))
    assert "weather" in joined(deltas_of(expected))


async def test_what_is_no_longer_cached_is_computed_again(options: LlamaOptions) -> None:
    # Without memory beside the KV another one takes all that there is.
    async with open_llama_engine(replace(options, context_length=512, parallel=2, state_bytes=0)) as engine:
        request = greedy(await question(engine, STORY * 5 + QUESTION, max_tokens=60))
        first = await cut(engine, request, tokens=30)
        assert first.rest is not None
        prompt = (await tokens(engine, "Now for something else. " + STORY * 30))[:500]
        await whole(engine, GenerationRequest(prompt=prompt, max_tokens=5, sampling=GREEDY))
        seen: list[Progress] = []
        events: Events = []
        async with engine.generate(request, rest=first.rest, on_progress=seen.append) as generation:
            await read(generation, events)
    assert end_of(events).usage.cached_tokens < len(request.prompt)
    assert end_of(events).usage.output_tokens == 60
    assert len(joined([*deltas_of([*first.events]), *deltas_of(events)])) > 60
    # The prompt's second prefill is told as such.
    assert seen[0].phase is Phase.PREFILL
    assert seen[-1].phase is Phase.DECODE
    assert all(progress.cached_tokens <= progress.prefilled_tokens <= progress.prompt_tokens for progress in seen)


async def test_before_the_first_token_and_after_the_last_nothing_goes_on(options: LlamaOptions) -> None:
    async with open_llama_engine(replace(options, parallel=1)) as engine:
        request = await question(engine, max_tokens=4)
        async with engine.generate(request) as waiting:
            assert await waiting.suspend() == Suspended()
        suspended = await cut(engine, request, tokens=4)
    assert isinstance(suspended.events[-1], Finished)
    assert suspended.rest is None


async def test_a_try_that_is_cut_before_its_turn_keeps_what_it_took_over(options: LlamaOptions) -> None:
    async with open_llama_engine(replace(options, parallel=1)) as engine:
        request = greedy(await question(engine, max_tokens=30))
        first = await cut(engine, request, tokens=5)
        async with engine.generate(replace(request, prompt=[*request.prompt, 5])) as other:
            await other.prefill()
            async with engine.generate(request, rest=first.rest) as generation:
                assert generation.progress.queue_position == 1
                suspended = await generation.suspend()
        assert suspended == Suspended(rest=first.rest)
        assert end_of(await whole(engine, request, rest=suspended.rest)).usage.output_tokens == 30


async def test_a_sampler_lives_as_long_as_its_answer(options: LlamaOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[Continuation] = []
    close = Continuation.close

    def noted_close(self: Continuation) -> None:
        freed.append(self)
        close(self)

    monkeypatch.setattr(Continuation, "close", noted_close)
    async with open_llama_engine(replace(options, parallel=1)) as engine:
        request = greedy(await question(engine))
        first = await cut(engine, request, tokens=3)
        second = await cut(engine, request, tokens=10, rest=first.rest)
        assert freed == []
        await whole(engine, request, rest=second.rest)
        assert len(freed) == 1
        # One that leaves the queue for good.
        third = await cut(engine, request, tokens=3)
        async with engine.generate(request, rest=third.rest):
            pass
        assert len(freed) == 2
        rest = (await cut(engine, request, tokens=3)).rest
        assert rest is not None
        assert rest.size_bytes > engine.info.vocabulary_size
        rest.close()
    assert len(freed) == 3
