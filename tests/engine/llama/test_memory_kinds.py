"""Every kind of memory, on tiny models with random weights: what is kept never changes an answer.

A wrong memory call does not fail, it aborts the process or spoils the next answer, so each answer of a busy engine is
compared with that of a fresh one.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from llguidance import LLMatcher

from ds4trio.engine import Progress, Sampling
from ds4trio.engine.base import GenerationRequest
from ds4trio.engine.llama import LlamaEngine, LlamaOptions, open_llama_engine
from tests.engine.llama.test_continuation import deltas, joined
from tests.engine.llama.test_engine import ask, tokens
from tests.tiny_models import tiny_model

pytestmark = pytest.mark.slow

STORY = "Once upon a time there was a fox who lived beside a river and talked to every tree. "
ANSWER = 6


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


async def leave_in_prefill(engine: LlamaEngine, request: GenerationRequest, *, after: int) -> int:
    """Leave once ``after`` tokens are computed, in the middle of a batch; how many were, in the end."""
    reached = trio.Event()

    def on_progress(progress: Progress) -> None:
        if progress.prefilled_tokens >= after:
            reached.set()

    async with trio.open_nursery() as nursery, engine.generate(request, on_progress=on_progress) as generation:
        nursery.start_soon(generation.prefill)
        await reached.wait()
        nursery.cancel_scope.cancel()
    return generation.progress.prefilled_tokens


def greedy(prompt: list[int]) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, max_tokens=ANSWER, sampling=Sampling(temperature=0))


async def fresh_answers(options: LlamaOptions, prompt: list[int]) -> set[str]:
    """What engines say that saw nothing of it. Chunk borders move logits a little, so there may be several answers."""
    answers = set()
    for ubatch in (64, 48, 33, 512):
        async with open_llama_engine(replace(options, ubatch=ubatch)) as fresh:
            answers.add((await ask(fresh, prompt, max_tokens=ANSWER))[0])
    # The first chunks of all are small ones, until it is known what they take.
    async with open_llama_engine(options) as experienced:
        await ask(experienced, prompt[::-1], max_tokens=1)
        answers.add((await ask(experienced, prompt, max_tokens=ANSWER))[0])
    return answers


@pytest.mark.parametrize("kind", ["full", "sliding", "hybrid", "deepseek4"])
async def test_turns_edits_cancels_and_shared_prefixes_answer_like_a_fresh_engine(kind: str, directory: Path) -> None:
    options = LlamaOptions(
        path=tiny_model(kind, directory),  # type: ignore[arg-type]  # parametrize knows strings only
        threads=1,
        context_length=4096,
        parallel=3,
        ubatch=64,
    )
    system = STORY * 12
    prompts = [
        system + "The fox said: good morning.",
        system + "The fox said: good morning. And the tree answered: good evening.",  # the next turn
        system + "The fox said: good morning. But nobody answered at all.",  # an edited turn
        system + "A bird sang.",  # another conversation with the same beginning
        "Something else altogether. " * 30,
        system + "The fox said: good morning. And the tree answered: good evening.",  # the same again
    ]
    async with open_llama_engine(options) as engine:
        kept = []
        for prompt in prompts:
            ids = await tokens(engine, prompt)
            await leave_in_prefill(engine, greedy(await tokens(engine, prompt[::-1])), after=64)
            text, end = await ask(engine, ids, max_tokens=ANSWER)
            kept.append(end.usage.cached_tokens)
            assert text in await fresh_answers(options, ids), f"{kind}: {prompt[-40:]!r}, kept {kept}"
        assert (engine.running, engine.waiting) == (0, 0)
    if kind == "full":
        assert all(count > 200 for count in (*kept[1:4], kept[5]))


@pytest.mark.parametrize("kind", ["full", "sliding", "hybrid", "deepseek4"])
async def test_several_at_once_with_one_that_leaves(kind: str, directory: Path) -> None:
    options = LlamaOptions(
        path=tiny_model(kind, directory),  # type: ignore[arg-type]
        threads=1,
        context_length=4096,
        parallel=3,
        ubatch=64,
    )
    async with open_llama_engine(options) as engine:
        ids = [await tokens(engine, f"{number}. {STORY * 6}") for number in range(2)]
        alone = [(await ask(engine, prompt, max_tokens=30))[0] for prompt in ids]
        answers: dict[int, str] = {}

        async def one(number: int) -> None:
            answers[number] = (await ask(engine, ids[number], max_tokens=30))[0]

        for _ in range(3):
            answers.clear()
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one, 0)
                    nursery.start_soon(one, 1)
                    await leave_in_prefill(engine, greedy(await tokens(engine, STORY[::-1] * 20)), after=128)
            # Batches of other shapes move the logits a little, so only the beginnings are compared.
            assert [answers[number][:8] for number in range(2)] == [text[:8] for text in alone]


@pytest.mark.parametrize("kind", ["full", "sliding", "hybrid", "deepseek4"])
async def test_forced_text_and_grammars_survive_neighbours_that_leave(kind: str, directory: Path) -> None:
    options = LlamaOptions(
        path=tiny_model(kind, directory),  # type: ignore[arg-type]
        threads=1,
        context_length=4096,
        parallel=3,
        ubatch=64,
    )
    letters = LLMatcher.grammar_from_lark(f"start: /[a-d ]{{5}}/ {json.dumps(STORY * 5)} /[a-d]{{5}}/")
    async with open_llama_engine(options) as engine:
        request = GenerationRequest(
            prompt=await tokens(engine, STORY), max_tokens=400, sampling=Sampling(temperature=0), grammar=letters
        )
        alone = joined((await deltas(engine, request))[0])
        # Forced, the middle is computed in chunks; alone it was drawn token by token, as the grammar left no choice.
        noise = await tokens(engine, STORY[::-1] * 20)
        for _ in range(2):
            told: list[str] = []

            async def one(texts: list[str] = told) -> None:
                guide = AtLength(5, STORY * 5)
                texts.append(joined((await deltas(engine, replace(request, guide=guide)))[0]))

            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one)
                    nursery.start_soon(one)
                    await leave_in_prefill(engine, greedy(noise), after=128)
            for text in told:
                assert text[:5] == alone[:5]
                assert re.fullmatch(rf"[a-d ]{{5}}{re.escape(STORY * 5)}[a-d]{{5}}", text)


async def test_preempted_answers_keep_their_place_in_the_grammar(directory: Path) -> None:
    """Four requests need more cells than there are; what is computed again is not drawn again."""
    options = LlamaOptions(path=tiny_model("full", directory), threads=1, context_length=1024, parallel=4, ubatch=128)
    numbers = LLMatcher.grammar_from_lark("start: /[0-9]/{60}")
    async with open_llama_engine(options) as engine:
        prompts = [(await tokens(engine, f"{number} " + STORY * 30))[:450] for number in range(4)]
        said: list[str] = []

        async def one(prompt: list[int]) -> None:
            request = GenerationRequest(prompt=prompt, max_tokens=100, grammar=numbers)
            said.append(joined((await deltas(engine, request))[0]))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for prompt in prompts:
                    nursery.start_soon(one, prompt)
    assert [len(text) for text in said] == [60] * 4
    assert all(text.isdigit() for text in said)


class AtLength:
    """A guide that forces a text once the answer has so many characters."""

    greedy = False

    def __init__(self, length: int, text: str) -> None:
        self._length, self._text = length, text

    def observe(self, text: str, *, special: bool) -> None:
        self._length -= len(text)

    @property
    def forced(self) -> str:
        if self._length > 0:
            return ""
        text, self._text = self._text, ""
        return text
