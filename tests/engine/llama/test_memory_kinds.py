"""Every kind of memory, on tiny models with random weights: what is kept never changes an answer.

A wrong memory call does not fail, it aborts the process or spoils the next answer, so each answer of a busy engine is
compared with that of a fresh one.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from ds4trio.engine import Progress, Sampling
from ds4trio.engine.base import GenerationRequest
from ds4trio.engine.llama import LlamaEngine, LlamaOptions, open_llama_engine
from tests.engine.llama.test_engine import ask, tokens
from tests.tiny_models import tiny_model

pytestmark = pytest.mark.slow

STORY = "Once upon a time there was a fox who lived beside a river and talked to every tree. "
ANSWER = 6


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


async def leave_in_prefill(engine: LlamaEngine, prompt: list[int], after: int) -> int:
    """Cancel a prefill once ``after`` tokens are computed; how many were at the end."""
    reached = trio.Event()

    def on_progress(progress: Progress) -> None:
        if progress.prefilled_tokens >= after:
            reached.set()

    request = GenerationRequest(prompt=prompt, max_tokens=ANSWER, sampling=Sampling(temperature=0))
    async with trio.open_nursery() as nursery, engine.generate(request, on_progress=on_progress) as generation:
        nursery.start_soon(generation.prefill)
        await reached.wait()
        nursery.cancel_scope.cancel()
    return generation.progress.prefilled_tokens


async def fresh_answers(options: LlamaOptions, prompt: list[int]) -> set[str]:
    """What engines that saw nothing else say. Chunk borders move logits a little, so there may be two answers."""
    answers = set()
    for ubatch in (64, 48, 33, 512):
        async with open_llama_engine(replace(options, ubatch=ubatch)) as fresh:
            answers.add((await ask(fresh, prompt, max_tokens=ANSWER))[0])
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
            await leave_in_prefill(engine, await tokens(engine, prompt[::-1]), after=64)
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
                    await leave_in_prefill(engine, await tokens(engine, STORY[::-1] * 20), after=128)
            # Batches of other shapes move the logits a little, so only the beginnings are compared.
            assert [answers[number][:8] for number in range(2)] == [text[:8] for text in alone]
