"""What decides the next token besides the model: guides, grammars, markers, and the logprobs of what was decided."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import trio
from llguidance import LLMatcher

from ds4trio.engine import Engine, EngineError, Finished, GenerationRequest, Guide, Phase, Sampling, TextDelta
from ds4trio.engine.llama import LlamaOptions, open_llama_engine
from tests.engine.llama.test_engine import GREEDY, QUESTION, STORY, ask, tokens

pytestmark = pytest.mark.slow

WILD = Sampling(temperature=1.5, min_p=0, seed=7)
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer", "maximum": 999}},
    "required": ["city", "people"],
    "additionalProperties": False,
    # Else a small model may write line breaks between two members until its tokens are used up.
    "x-guidance": {"whitespace_flexible": False},
}
JSON = LLMatcher.grammar_from_json_schema(SCHEMA)


async def deltas(engine: Engine, request: GenerationRequest) -> tuple[list[TextDelta], Finished]:
    told: list[TextDelta] = []
    async with engine.generate(request) as generation:
        await generation.prefill()
        async for event in generation:
            if isinstance(event, Finished):
                return told, event
            told.append(event)
    raise AssertionError("a generation ends with Finished")


async def question(engine: Engine, text: str = QUESTION, *, max_tokens: int = 30) -> GenerationRequest:
    return GenerationRequest(prompt=await tokens(engine, text), max_tokens=max_tokens, sampling=GREEDY)


def joined(told: list[TextDelta]) -> str:
    return "".join(delta.text for delta in told)


class Script:
    """A guide that forces texts at given numbers of observed tokens, and is greedy while told to be."""

    def __init__(self, forced: Mapping[int, str] | None = None, *, greedy: Callable[[str], bool] = lambda _: False):
        self.seen: list[tuple[str, bool]] = []
        self._forced = dict(forced or {})
        self._greedy = greedy

    def observe(self, text: str, *, special: bool) -> None:
        self.seen.append((text, special))

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.seen)

    @property
    def greedy(self) -> bool:
        return self._greedy(self.text)

    @property
    def forced(self) -> str:
        return self._forced.pop(len(self.seen), "")


# --- markers ----------------------------------------------------------------------------------------------------------


async def test_a_marker_is_a_delta_of_its_own_and_a_text_that_spells_it_is_text(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        start = engine.info.special_tokens["<|im_start|>"]
        request = replace(await question(engine, max_tokens=20), markers={start: "<|im_start|>"})
        forced = {2: "x<|im_start|>y", 5: "<|im_", 8: "start|>"}
        told, _ = await deltas(engine, replace(request, guide=Script(forced)))
        unmarked, _ = await deltas(engine, replace(request, guide=Script(forced), markers={}))
    assert [delta.text for delta in told if delta.special] == ["<|im_start|>"]
    assert "x<|im_start|>y" in joined(told)
    assert not any(delta.special for delta in unmarked)
    assert "xy" in joined(unmarked), "a control token leaves no text"


async def test_the_models_own_end_ends_the_answer_even_as_a_marker(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        end = engine.info.special_tokens["<|im_end|>"]
        told, finished = await deltas(engine, replace(await question(engine), markers={end: "<|im_end|>"}))
    assert (joined(told), finished.reason) == ("The capital of France is Paris.", "stop")


async def test_the_model_may_be_kept_from_ending(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        told, end = await deltas(engine, replace(await question(engine), ignore_eos=True))
    assert (end.reason, end.usage.output_tokens) == ("length", 30)
    assert joined(told).startswith("The capital of France is Paris.")


# --- guides -----------------------------------------------------------------------------------------------------------


async def test_a_guide_sees_every_token_as_it_comes(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        guide = Script()
        told, end = await deltas(engine, replace(await question(engine), guide=guide, stop=("France is",)))
    assert joined(told) == "The capital of "
    assert guide.text == "The capital of France is", "what may be a stop string is held back, but not from the guide"
    assert len(guide.seen) == end.usage.output_tokens


@pytest.mark.parametrize("after", [0, 1, 4])
async def test_forced_text_is_computed_as_if_the_model_had_said_it(options: LlamaOptions, after: int) -> None:
    async with open_llama_engine(options) as engine:
        request = await question(engine)
        plain, _ = await ask(engine, QUESTION, max_tokens=after)
        guide = Script({after: " Italy, not"})
        told, end = await deltas(engine, replace(request, guide=guide))
        text = joined(told)
        begin = (plain if after else "") + " Italy, not"
        assert text.startswith(begin)
        assert text == guide.text
        forced = await engine.prepare(lambda tokenizer: tokenizer.tokenize(" Italy, not", add_special=False))
        assert [part for part, _ in guide.seen[after : after + len(forced)]] == [" Italy", ",", " not"]
        # What follows is what follows that text as a prompt.
        rest, other = await ask(engine, QUESTION + begin, max_tokens=30 - after - len(forced))
        assert text == begin + rest
        assert end.usage.output_tokens == after + len(forced) + other.usage.output_tokens


async def test_a_long_forced_text_is_computed_in_chunks_and_stays_decoding(options: LlamaOptions) -> None:
    async with open_llama_engine(replace(options, ubatch=64)) as engine:
        request = await question(engine, max_tokens=400)
        phases = []
        guide = Script({3: STORY * 12})
        request = replace(request, guide=guide, markers={})
        async with (
            trio.open_nursery() as nursery,
            engine.generate(request, on_progress=lambda progress: phases.append(progress.phase)) as generation,
        ):
            # A second request decodes beside it, so the forced text shares batches.
            nursery.start_soon(ask, engine, await tokens(engine, "One two three"))
            await generation.prefill()
            prefill = len(phases)
            text = ""
            async for event in generation:
                assert generation.progress.phase is Phase.DECODE
                if isinstance(event, TextDelta):
                    text += event.text
        assert STORY * 12 in text
        assert len(phases) == prefill, "progress is about the prompt"
        # The KV of the answer is kept like any other.
        _, end = await ask(engine, QUESTION + text[:600], max_tokens=2)
    assert end.usage.cached_tokens > 100


async def test_forced_text_obeys_the_limits_and_may_end_the_answer(options: LlamaOptions) -> None:
    async with open_llama_engine(replace(options, context_length=256)) as engine:
        request = await question(engine, max_tokens=10)
        _, end = await deltas(engine, replace(request, guide=Script({2: STORY})))
        assert (end.reason, end.usage.output_tokens) == ("length", 10)
        _, end = await deltas(engine, replace(request, max_tokens=1000, guide=Script({2: STORY * 40})))
        assert (end.reason, end.usage.prompt_tokens + end.usage.output_tokens) == ("length", 256)
        told, end = await deltas(engine, replace(request, guide=Script({2: "!<|im_end|>?"})))
        assert (joined(told), end.reason, end.usage.output_tokens) == ("The capital!", "stop", 4)
        told, end = await deltas(engine, replace(request, stop=("fox",), guide=Script({2: STORY})))
        assert end.stop_sequence == "fox"
        assert joined(told).endswith("there was a ")


async def test_a_greedy_guide_takes_the_likeliest_token_after_the_bias(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        request = replace(await question(engine, max_tokens=8), sampling=WILD)
        wild, _ = await deltas(engine, request)
        told, _ = await deltas(engine, replace(request, guide=Script(greedy=lambda _: True)))
        assert joined(wild) != joined(told) == "The capital of France is Paris."
        (paris,) = await tokens(engine, " Paris")
        biased = replace(WILD, logit_bias={paris: 100.0}, repeat_penalty=2.0)
        told, _ = await deltas(engine, replace(request, sampling=biased, guide=Script(greedy=lambda _: True)))
        assert joined(told) == " Paris" * 8
        # Greedy for a while only: the rest is drawn.
        told, _ = await deltas(engine, replace(request, guide=Script(greedy=lambda text: "capital" not in text)))
        assert joined(told).startswith("The capital")
        assert joined(told) != "The capital of France is Paris."


class Broken:
    """A guide that fails at its third token."""

    greedy = False

    def __init__(self, where: str) -> None:
        self._where, self._left = where, 3

    def observe(self, text: str, *, special: bool) -> None:
        self._left -= 1
        if self._where == "observe" and not self._left:
            raise IndexError(text)

    @property
    def forced(self) -> str:
        if self._where == "forced" and not self._left:
            raise IndexError("forced")
        return ""


@pytest.mark.parametrize("where", ["observe", "forced"])
async def test_a_guide_that_fails_fails_its_request_only(options: LlamaOptions, where: str) -> None:
    async with open_llama_engine(options) as engine:
        request = await question(engine)
        answers: list[str] = []

        async def neighbour() -> None:
            answers.append((await ask(engine, QUESTION))[0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(neighbour)
            with pytest.raises(EngineError, match="IndexError"):
                await deltas(engine, replace(request, guide=Broken(where)))
        assert answers == ["The capital of France is Paris."]
        _, end = await ask(engine, QUESTION)
        assert end.usage.cached_tokens == 15, "what was computed before is kept"


# --- grammars ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_every_answer_obeys_its_schema_and_ends_with_it(options: LlamaOptions, seed: int) -> None:
    async with open_llama_engine(options) as engine:
        request = await question(engine, max_tokens=150)
        sampling = replace(WILD, seed=seed, temperature=1.0, frequency_penalty=0.5)
        told, end = await deltas(engine, replace(request, sampling=sampling, grammar=JSON))
        greedy, _ = await deltas(engine, replace(request, grammar=JSON, guide=Script(greedy=lambda _: True)))
        forever, endless = await deltas(engine, replace(request, grammar=JSON, ignore_eos=True))
    for text in (joined(told), joined(greedy), joined(forever)):
        value = json.loads(text)
        assert set(value) == {"city", "people"}
        assert len(value["city"]) <= 12
        assert value["people"] <= 999
    assert end.reason == endless.reason == "stop"


async def test_several_grammars_at_once_do_not_meet(options: LlamaOptions) -> None:
    words = ("yes", "no", "perhaps", "never")
    async with open_llama_engine(options) as engine:
        request = await question(engine)
        said: dict[str, str] = {}

        async def one(word: str) -> None:
            grammar = LLMatcher.grammar_from_lark(f'start: "{word}" ("!" | "?")')
            for _ in range(2):  # the second time the grammar is a copy of the first
                said[word] = joined((await deltas(engine, replace(request, sampling=WILD, grammar=grammar)))[0])

        async with trio.open_nursery() as nursery:
            for word in words:
                nursery.start_soon(one, word)
    assert all(said[word] in (f"{word}!", f"{word}?") for word in words)


async def test_a_grammar_may_hold_special_tokens_and_free_text(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        start = engine.info.special_tokens["<|im_start|>"]
        request = replace(await question(engine, max_tokens=60), markers={start: "<|im_start|>"})
        grammar = LLMatcher.grammar_from_lark(f'start: "a" <[{start}]> "b"')
        told, end = await deltas(engine, replace(request, grammar=grammar))
        assert [(delta.text, delta.special) for delta in told] == [("a", False), ("<|im_start|>", True), ("b", False)]
        assert end.reason == "stop"
        # Free text ends where the model ends it.
        free = LLMatcher.grammar_from_lark("start: /(.|\\n)*/")
        told, end = await deltas(engine, replace(request, grammar=free))
        assert (joined(told), end.reason) == ("The capital of France is Paris.", "stop")


async def test_forced_text_moves_the_grammar_or_fails_the_request(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        request = replace(await question(engine, max_tokens=100), grammar=JSON)
        told, _ = await deltas(engine, replace(request, guide=Script({0: '{"city":"Rome"'})))
        assert json.loads(joined(told))["city"] == "Rome"
        with pytest.raises(EngineError, match="within its grammar") as failure:
            await deltas(engine, replace(request, guide=Script({1: "Nonsense"})))
        assert "Nonsense" not in str(failure.value)
        assert (await ask(engine, QUESTION))[0] == "The capital of France is Paris."


async def test_a_grammar_that_is_none_is_an_error_before_anything_is_computed(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        for grammar in ("start: unknown_rule", LLMatcher.grammar_from_lark("start: other")):
            with pytest.raises(EngineError, match="grammar cannot be used"):
                await deltas(engine, replace(await question(engine), grammar=grammar))
        _, end = await ask(engine, QUESTION)
        assert end.usage.cached_tokens == 0


# --- logprobs ---------------------------------------------------------------------------------------------------------


async def test_logprobs_are_the_models_own_whatever_changes_the_draw(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        request = replace(await question(engine), top_logprobs=5)
        plain, end = await deltas(engine, request)
        told = [logprob for delta in plain for logprob in delta.logprobs]
        assert len(told) == end.usage.output_tokens - 1, "the token that ends the answer has no text to go with"
        assert b"".join(each.data for each in told) == b"The capital of France is Paris."
        for each in told:
            assert len(each.top) == 5
            assert [other.logprob for other in each.top] == sorted((other.logprob for other in each.top), reverse=True)
            assert (each.top[0].token, each.top[0].logprob) == (each.token, each.logprob), "greedy takes the likeliest"
            assert 0.5 < sum(math.exp(other.logprob) for other in each.top) <= 1 + 1e-6
        (paris,) = await tokens(engine, " Paris")
        first = told[0]
        for changed in (
            replace(request, sampling=replace(GREEDY, logit_bias={paris: 100.0}, frequency_penalty=1.0)),
            replace(request, grammar=LLMatcher.grammar_from_lark('start: " Paris"')),
        ):
            drawn, _ = await deltas(engine, changed)
            other = drawn[0].logprobs[0]
            assert other.data == b" Paris"
            assert other.logprob < first.logprob
            assert [each.token for each in other.top] == [each.token for each in first.top]
            assert [each.logprob for each in other.top] == pytest.approx([each.logprob for each in first.top], abs=1e-3)


async def test_logprobs_without_alternatives_and_those_of_forced_tokens(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        request = replace(await question(engine), top_logprobs=0, guide=Script({1: " city"}))
        told, _ = await deltas(engine, request)
    each = [logprob for delta in told for logprob in delta.logprobs]
    assert {logprob.top for logprob in each} == {()}
    assert (each[1].data, each[1].logprob) == (b" city", 0.0)
    assert each[0].logprob < 0


# --- choices ----------------------------------------------------------------------------------------------------------


async def test_choices_of_one_prompt_compute_it_once(options: LlamaOptions) -> None:
    async with open_llama_engine(replace(options, parallel=4)) as engine:
        prompt = await tokens(engine, STORY * 20 + QUESTION)
        request = GenerationRequest(prompt=prompt, max_tokens=40, sampling=GREEDY, ignore_eos=True)
        alone, _ = await deltas(engine, request)
    async with open_llama_engine(replace(options, parallel=4)) as engine:
        ends: list[tuple[str, Finished]] = []

        async def one() -> None:
            told, end = await deltas(engine, request)
            ends.append((joined(told), end))

        async with engine.generate(request) as first:
            await first.prefill()
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(one)
            told = [event async for event in first]
        assert isinstance(told[-1], Finished)
        assert told[-1].usage.cached_tokens == 0
        assert [end.usage.cached_tokens for _, end in ends] == [len(prompt) - 1] * 3
        # Batches of other shapes move the logits a little, so only the beginnings are compared.
        assert {text[:25] for text, _ in ends} == {joined(alone)[:25]}
        assert all(end.prefill_seconds < told[-1].prefill_seconds / 2 for _, end in ends)


async def test_the_seconds_of_both_phases_are_told(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        prompt = await tokens(engine, STORY * 20)
        started = trio.current_time()
        _, end = await ask(engine, prompt, max_tokens=10)
        elapsed = trio.current_time() - started
    assert end.prefill_seconds > 0
    assert end.decode_seconds > 0
    assert end.prefill_seconds + end.decode_seconds < elapsed


def test_the_guides_here_are_guides() -> None:
    guides: list[Guide] = [Script(), Broken("observe")]
    assert not any(guide.greedy for guide in guides)
