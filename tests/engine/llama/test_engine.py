"""The llama engine in this process, with the real demo model: what it computes, keeps, shares, aborts and refuses."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from ds4trio.engine import (
    Engine,
    EngineError,
    EngineStoppedError,
    Finished,
    Generation,
    GenerationRequest,
    Phase,
    Progress,
    Sampling,
    TextDelta,
)
from ds4trio.engine.llama import LlamaOptions, grammar, open_llama_engine
from ds4trio.engine.llama.context import Context

pytestmark = pytest.mark.slow

GREEDY = Sampling(temperature=0)
QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
STORY = "Once upon a time there was a fox who lived beside a river and talked to every tree. "


async def tokens(engine: Engine, text: str) -> list[int]:
    return await engine.prepare(lambda tokenizer: tokenizer.tokenize(text))


async def ask(
    engine: Engine,
    prompt: str | list[int],
    *,
    max_tokens: int = 12,
    sampling: Sampling = GREEDY,
    stop: tuple[str, ...] = (),
) -> tuple[str, Finished]:
    if isinstance(prompt, str):
        prompt = await tokens(engine, prompt)
    request = GenerationRequest(prompt=prompt, max_tokens=max_tokens, sampling=sampling, stop=stop)
    texts = []
    async with engine.generate(request) as generation:
        await generation.prefill()
        async for event in generation:
            if isinstance(event, TextDelta):
                texts.append(event.text)
            else:
                return "".join(texts), event
    raise AssertionError("a generation ends with Finished")


async def read(generation: Generation) -> None:
    await generation.prefill()
    async for _ in generation:
        pass


async def test_answers_and_stops_at_the_models_own_end(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        text, end = await ask(engine, QUESTION, max_tokens=100)
    assert text == "The capital of France is Paris."
    assert end.reason == "stop"
    assert end.stop_sequence is None
    assert end.usage.prompt_tokens == 16
    assert end.usage.output_tokens == 8


async def test_limits_end_an_answer(options: LlamaOptions) -> None:
    async with open_llama_engine(replace(options, context_length=256)) as engine:
        text, end = await ask(engine, QUESTION, max_tokens=3)
        assert (text, end.reason) == ("The capital of", "length")
        text, end = await ask(engine, QUESTION, max_tokens=100, stop=("France", "is Pa"))
        assert (text, end.reason, end.stop_sequence) == ("The capital of ", "stop", "France")
        text, end = await ask(engine, QUESTION, max_tokens=100, stop=("is Pa",))
        assert (text, end.stop_sequence) == ("The capital of France ", "is Pa")
        # The context ends before max_tokens does.
        prompt = (await tokens(engine, STORY * 30))[:250]
        _, end = await ask(engine, prompt, max_tokens=100)
        assert (end.reason, end.usage.output_tokens) == ("length", 6)


async def test_cached_prompt_gives_the_same_answer_without_prefill(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        first, cold = await ask(engine, QUESTION)
        second, warm = await ask(engine, QUESTION)
    assert first == second
    assert cold.usage.cached_tokens == 0
    assert warm.usage.cached_tokens == cold.usage.prompt_tokens - 1


async def test_next_turn_prefills_only_what_is_new(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        text, first = await ask(engine, QUESTION, max_tokens=50)
        turn = f"{QUESTION}{text}<|im_end|>\n<|im_start|>user\nAnd of Italy?<|im_end|>\n<|im_start|>assistant\n"
        continued, second = await ask(engine, turn)
    assert second.usage.cached_tokens >= first.usage.prompt_tokens + first.usage.output_tokens - 1
    async with open_llama_engine(options) as fresh:
        assert continued == (await ask(fresh, turn))[0]


async def test_shared_prefix_is_copied_and_destroys_nothing(options: LlamaOptions) -> None:
    system = STORY * 20
    async with open_llama_engine(options) as engine:
        await ask(engine, system + "The fox said:")
        _, other = await ask(engine, system + "A bird answered loudly, and then the whole forest was silent.")
        _, again = await ask(engine, system + "The fox said:")
    assert other.usage.cached_tokens > 350
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1


async def test_same_seed_same_text_other_seed_other_text(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        await ask(engine, QUESTION)  # equal chunk borders for all that follow
        texts = [
            (await ask(engine, QUESTION, sampling=Sampling(temperature=1.5, seed=seed, min_p=0), max_tokens=20))[0]
            for seed in (1, 1, 2)
        ]
    assert texts[0] == texts[1] != texts[2]


async def test_logit_bias_and_penalties_reach_the_sampler(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        (paris,) = await tokens(engine, " Paris")
        text, _ = await ask(engine, QUESTION, sampling=replace(GREEDY, logit_bias={paris: -100.0}))
        assert "Paris" not in text
        text, _ = await ask(engine, QUESTION, sampling=replace(GREEDY, logit_bias={paris: 100.0}), max_tokens=3)
        assert text == " Paris Paris Paris"
        penalised = replace(GREEDY, logit_bias={paris: 20.0}, frequency_penalty=2.0, presence_penalty=2.0)
        many, _ = await ask(engine, QUESTION, sampling=penalised, max_tokens=30)
        plain, _ = await ask(engine, QUESTION, sampling=replace(GREEDY, logit_bias={paris: 20.0}), max_tokens=30)
        assert many.count("Paris") < plain.count("Paris")
        repeat = replace(GREEDY, repeat_penalty=1.3, top_k=40, typical_p=0.9, top_p=0.9)
        assert (await ask(engine, QUESTION, sampling=repeat))[1].usage.output_tokens > 0


async def test_several_at_once_answer_like_one_alone(options: LlamaOptions) -> None:
    questions = [QUESTION.replace("France", country) for country in ("France", "Italy", "Spain", "Germany")]
    async with open_llama_engine(replace(options, parallel=4)) as engine:
        answers: dict[str, str] = {}

        async def one(question: str) -> None:
            answers[question] = (await ask(engine, question, max_tokens=8))[0]

        async with trio.open_nursery() as nursery:
            for question in questions:
                nursery.start_soon(one, question)
        for question in questions:
            assert answers[question] == (await ask(engine, question, max_tokens=8))[0]


async def test_cancel_in_prefill_keeps_finished_chunks_and_the_retry_gives_the_same(options: LlamaOptions) -> None:
    options = replace(options, ubatch=128)
    async with open_llama_engine(options) as engine:
        prompt = await tokens(engine, STORY * 60)
        chunks = trio.Event()

        def on_progress(progress: Progress) -> None:
            if progress.prefilled_tokens >= 256:
                chunks.set()

        request = GenerationRequest(prompt=prompt, max_tokens=12, sampling=GREEDY)
        async with trio.open_nursery() as nursery, engine.generate(request, on_progress=on_progress) as generation:
            nursery.start_soon(generation.prefill)
            await chunks.wait()
            nursery.cancel_scope.cancel()
        assert engine.running == 0
        kept = generation.progress.prefilled_tokens
        assert kept >= 256
        assert kept < len(prompt)
        text, end = await ask(engine, prompt)
    assert end.usage.cached_tokens == kept
    async with open_llama_engine(options) as fresh:
        assert text == (await ask(fresh, prompt))[0]


async def test_cancelled_neighbour_does_not_change_an_answer(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        alone, _ = await ask(engine, QUESTION, max_tokens=8)
        prompt = await tokens(engine, STORY * 80)
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                started = trio.Event()

                async def leave(begun: trio.Event = started) -> None:
                    request = GenerationRequest(prompt=prompt, max_tokens=5, sampling=GREEDY)
                    async with engine.generate(request, on_progress=lambda _: begun.set()) as generation:
                        with trio.move_on_after(0.4):
                            await generation.prefill()

                nursery.start_soon(leave)
                await started.wait()
                assert (await ask(engine, QUESTION, max_tokens=8))[0] == alone


async def test_preempted_request_is_answered_all_the_same(options: LlamaOptions) -> None:
    """Four requests need more cells than there are: the youngest waits, nobody gets an error."""
    async with open_llama_engine(replace(options, context_length=1024, ubatch=128)) as engine:
        ends: list[Finished] = []

        async def one(number: int) -> None:
            prompt = (await tokens(engine, f"{number} " + STORY * 30))[:450]
            ends.append(
                (await ask(engine, prompt, max_tokens=60, sampling=Sampling(temperature=0, logit_bias={2: -100})))[1]
            )

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(one, number)
        assert [end.usage.output_tokens for end in ends] == [60] * 4
        # All is given back: a prompt that needs nearly every cell still fits.
        _, end = await ask(engine, (await tokens(engine, STORY * 60))[:1000], max_tokens=5)
        assert end.usage.output_tokens >= 1


async def test_queued_request_can_leave_and_progress_says_where_it_is(options: LlamaOptions) -> None:
    async with open_llama_engine(replace(options, parallel=1)) as engine:
        prompt = await tokens(engine, STORY * 60)
        request = GenerationRequest(prompt=prompt, max_tokens=5, sampling=GREEDY)
        async with (
            engine.generate(request) as first,
            engine.generate(request) as second,
            engine.generate(request) as third,
        ):
            assert first.progress.queue_position == 0
            assert (second.progress.phase, second.progress.queue_position) == (Phase.QUEUED, 1)
            assert (third.progress.queue_position, third.progress.queue_length) == (2, 2)
            engine.stop_admission()
            with pytest.raises(EngineStoppedError):
                await second.prefill()
        with pytest.raises(EngineStoppedError):
            await ask(engine, prompt)
        assert (engine.running, engine.waiting) == (0, 0)


async def test_closing_the_engine_ends_its_thread_and_its_requests(options: LlamaOptions) -> None:
    threads = threading.active_count()
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with open_llama_engine(options) as engine:
            prompt = await tokens(engine, STORY * 80)
            async with engine.generate(GenerationRequest(prompt=prompt, max_tokens=5)) as generation:
                scope.cancel()
                await generation.prefill()
    assert scope.cancelled_caught
    with trio.fail_after(12):
        while threading.active_count() > threads + 1:  # noqa: ASYNC110 - Trio keeps one idle thread for 10 s
            await trio.sleep(0.05)


async def test_context_smaller_than_a_batch_is_no_trap(options: LlamaOptions) -> None:
    async with open_llama_engine(replace(options, context_length=256, ubatch=512)) as engine:
        prompt = (await tokens(engine, STORY * 20))[:120]
        async with trio.open_nursery() as nursery:
            for first in range(4):
                nursery.start_soon(ask, engine, [first + 100, *prompt])


async def test_worker_that_dies_fails_its_requests_and_every_later_one(
    options: LlamaOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    with trio.fail_after(10), pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="boom")):
        async with open_llama_engine(options) as engine:
            prompt = await tokens(engine, QUESTION)
            monkeypatch.setattr(Context, "decode", explode)
            with trio.CancelScope(shield=True):  # the engine's end cancels this block: go on regardless
                for _ in range(2):
                    with pytest.raises(EngineError, match="the engine has stopped"):
                        await ask(engine, prompt)
                with pytest.raises(EngineError, match="the engine has stopped"):
                    await tokens(engine, QUESTION)
            await trio.sleep_forever()


async def test_the_servers_stop_is_told_as_such(options: LlamaOptions) -> None:
    ended = trio.Event()
    async with trio.open_nursery() as nursery:
        leave = trio.Event()
        async with open_llama_engine(options) as engine:
            prompt = await tokens(engine, STORY * 80)

            async def one() -> None:
                async with engine.generate(GenerationRequest(prompt=prompt, max_tokens=500)) as generation:
                    leave.set()
                    with pytest.raises(EngineStoppedError):
                        await read(generation)
                ended.set()

            nursery.start_soon(one)
            await leave.wait()
        with trio.fail_after(5):
            await ended.wait()
        with pytest.raises(EngineStoppedError):
            await ask(engine, prompt)


async def test_a_listener_that_fails_fails_its_request_only(
    options: LlamaOptions, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(_: Progress) -> None:
        raise RuntimeError(QUESTION)

    async with open_llama_engine(options) as engine:
        prompt = await tokens(engine, QUESTION)

        async def failing() -> None:
            request = GenerationRequest(prompt=prompt, max_tokens=50)
            async with engine.generate(request, on_progress=explode) as generation:
                with trio.fail_after(5), pytest.raises(EngineError, match="RuntimeError"):
                    await read(generation)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing)
            assert (await ask(engine, QUESTION, max_tokens=50))[0] == "The capital of France is Paris."
    assert "RuntimeError" in caplog.text
    assert "France" not in caplog.text, "the message may quote a prompt"


async def test_what_grammars_need_is_there_once_the_model_is_loaded(
    options: LlamaOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the GIL, and with it every client, so the first constrained request must not wait for it."""
    made: list[object] = []
    make = grammar._tokenizer

    def making(*arguments: Any) -> object:
        made.append(arguments)
        return make(*arguments)

    monkeypatch.setattr(grammar, "_tokenizer", making)
    async with open_llama_engine(options) as engine:
        assert len(made) == 1
        request = GenerationRequest(prompt=await tokens(engine, QUESTION), max_tokens=5, grammar='start: "yes"')
        async with engine.generate(request) as generation:
            await generation.prefill()
        assert len(made) == 1


async def test_load_that_is_given_up_is_no_failure(options: LlamaOptions) -> None:
    with trio.fail_after(10), trio.CancelScope() as scope:
        async with open_llama_engine(options, on_load=lambda _: scope.cancel()):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_file_that_is_no_model_is_a_clear_error(options: LlamaOptions, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.RaisesGroup(pytest.RaisesExc(EngineError, match="cannot load .*broken.gguf")):
        async with open_llama_engine(replace(options, path=path)):
            pass
