"""The simulated engine under virtual time: rates, kept prefixes, and a machine that is free for the next one."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ds4trio.engine import (
    EngineError,
    EngineStoppedError,
    Finished,
    Generation,
    GenerationRequest,
    Phase,
    Progress,
    QueueFullError,
    TextDelta,
    Tokenizer,
    TokenLogprob,
    Usage,
)
from ds4trio.engine.simulated import SimulatedEngine, SimulatedTokenizer

Clock = trio.testing.MockClock
PREFILL_TPS = 100.0
DECODE_TPS = 20.0
CHUNK = 100
ANSWER_TOKENS = 64
HANGS = 10_000.0
"""Virtual seconds after which whoever still waits waits for ever."""


def engine(*, parallel: int = 4, max_queue: int = 64, context_length: int = 131_072) -> SimulatedEngine:
    return SimulatedEngine(
        parallel=parallel,
        max_queue=max_queue,
        context_length=context_length,
        prefill_tps=PREFILL_TPS,
        decode_tps=DECODE_TPS,
        chunk=CHUNK,
    )


def request(tokens: int, *, kind: int = 1, max_tokens: int = 1000, stop: tuple[str, ...] = ()) -> GenerationRequest:
    """A prompt of equal tokens: requests of one kind share prefixes, others share nothing."""
    return GenerationRequest(prompt=[kind] * tokens, max_tokens=max_tokens, stop=stop)


async def read(generation: Generation) -> tuple[str, Finished]:
    text = ""
    async for event in generation:
        if isinstance(event, Finished):
            return text, event
        text += event.text
    pytest.fail("the generation ended without Finished")


async def answer(engine: SimulatedEngine, request: GenerationRequest) -> tuple[str, Finished]:
    with trio.fail_after(HANGS):
        async with engine.generate(request) as generation:
            await generation.prefill()
            return await read(generation)


async def prefill_seconds(engine: SimulatedEngine, request: GenerationRequest) -> float:
    """How long the prompt takes; the request leaves before its answer."""
    started = trio.current_time()
    with trio.fail_after(HANGS):
        async with engine.generate(request) as generation:
            await generation.prefill()
    return trio.current_time() - started


# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 99, 100, 101, 1000])
async def test_a_prompt_takes_its_tokens_at_the_prefill_rate(tokens: int, autojump_clock: Clock) -> None:
    assert await prefill_seconds(engine(), request(tokens)) == pytest.approx(tokens / PREFILL_TPS)


async def test_every_token_of_the_answer_takes_its_time_at_the_decode_rate(autojump_clock: Clock) -> None:
    async with engine().generate(request(10)) as generation:
        await generation.prefill()
        started = trio.current_time()
        async for event in generation:
            elapsed = trio.current_time() - started
            tokens = event.output_tokens if isinstance(event, TextDelta) else event.usage.output_tokens
            assert elapsed == pytest.approx(tokens / DECODE_TPS)
            assert generation.progress.output_tokens == tokens
            assert generation.progress.phase is Phase.DECODE
    assert tokens == ANSWER_TOKENS


async def test_progress_is_told_before_the_first_chunk_and_after_each(autojump_clock: Clock) -> None:
    told: list[Progress] = []
    async with engine().generate(request(250), on_progress=told.append) as generation:
        assert generation.progress == Progress(prompt_tokens=250)
        await generation.prefill()
        assert generation.progress == told[-1]
    assert [progress.prefilled_tokens for progress in told] == [0, 100, 200, 250]
    assert {progress.phase for progress in told} == {Phase.PREFILL}
    assert [progress.rate for progress in told] == pytest.approx([0, PREFILL_TPS, PREFILL_TPS, PREFILL_TPS])
    assert [progress.eta for progress in told] == [None, *(pytest.approx(seconds) for seconds in (1.5, 0.5, 0))]


async def test_prompts_that_are_computed_together_share_the_machine_chunk_by_chunk(autojump_clock: Clock) -> None:
    shared = engine()
    seconds: dict[int, float] = {}
    steps: list[int] = []

    async def prefill(kind: int, tokens: int) -> None:
        def note(progress: Progress) -> None:
            if progress.prefilled_tokens:
                steps.append(kind)

        started = trio.current_time()
        async with shared.generate(request(tokens, kind=kind), on_progress=note) as generation:
            await generation.prefill()
            seconds[kind] = trio.current_time() - started

    async with trio.open_nursery() as nursery:
        nursery.start_soon(prefill, 1, 500)
        nursery.start_soon(prefill, 2, 200)

    assert seconds[1] == pytest.approx(7)
    assert 3 <= seconds[2] <= 4 + 1e-6, "the short one is not behind the long one"
    together = steps[: len(steps) - steps[::-1].index(2)]
    assert all(left != right for left, right in pairwise(together))


async def test_the_duration_of_a_chunk_can_be_given(autojump_clock: Clock) -> None:
    asked: list[tuple[int, float]] = []

    def stall_on_the_second(index: int, seconds: float) -> float:
        asked.append((index, seconds))
        return 60 if index == 1 else seconds

    stalling = SimulatedEngine(prefill_tps=PREFILL_TPS, chunk=CHUNK, chunk_seconds=stall_on_the_second)
    assert await prefill_seconds(stalling, request(250)) == pytest.approx(1 + 60 + 0.5)
    assert asked == [(0, 1.0), (1, 1.0), (2, 0.5)]


async def test_a_chunk_may_take_no_time_at_all(autojump_clock: Clock) -> None:
    immediate = SimulatedEngine(decode_tps=DECODE_TPS, chunk_seconds=lambda _index, _seconds: 0.0)
    _, finished = await answer(immediate, request(1000, max_tokens=1))
    assert finished.usage == Usage(prompt_tokens=1000, cached_tokens=0, output_tokens=1)


# --- the end of an answer ---------------------------------------------------------------------------------------------


async def test_the_same_prompt_has_the_same_answer_and_it_stops_by_itself(autojump_clock: Clock) -> None:
    first, second = await answer(engine(), request(10)), await answer(engine(), request(10))
    assert (first[0], first[1].usage) == (second[0], second[1].usage)
    text, finished = first
    assert len(text.split()) == ANSWER_TOKENS
    assert (finished.reason, finished.stop_sequence) == ("stop", None)
    assert finished.usage == Usage(prompt_tokens=10, cached_tokens=0, output_tokens=ANSWER_TOKENS)


@pytest.mark.parametrize("limit", [1, 7, ANSWER_TOKENS - 1])
async def test_an_answer_that_max_tokens_cuts_ends_with_length(limit: int, autojump_clock: Clock) -> None:
    whole, _ = await answer(engine(), request(10))
    text, finished = await answer(engine(), request(10, max_tokens=limit))
    assert finished.reason == "length"
    assert finished.usage.output_tokens == limit
    assert len(text.split()) == limit
    assert whole.startswith(text)


async def test_an_answer_that_max_tokens_just_fits_ends_with_stop(autojump_clock: Clock) -> None:
    _, finished = await answer(engine(), request(10, max_tokens=ANSWER_TOKENS))
    assert finished.reason == "stop"


async def test_an_answer_that_the_context_cuts_ends_with_length(autojump_clock: Clock) -> None:
    _, finished = await answer(engine(context_length=32), request(27))
    assert (finished.reason, finished.usage.output_tokens) == ("length", 5)


async def test_a_stop_string_ends_the_text_before_it_and_the_computation_with_it(autojump_clock: Clock) -> None:
    whole, _ = await answer(engine(), request(10))
    words = whole.split()
    text, finished = await answer(engine(), request(10, stop=("nowhere", words[2])))
    assert text == whole[: whole.index(words[2])]
    assert (finished.reason, finished.usage, finished.stop_sequence) == ("stop", Usage(10, 0, 3), words[2])


async def test_a_stop_string_is_found_across_words(autojump_clock: Clock) -> None:
    whole, _ = await answer(engine(), request(10))
    words = whole.split()
    string = f"{words[1][-1]} {words[2]} {words[3][0]}"
    text, finished = await answer(engine(), request(10, stop=(string,)))
    assert text == whole[: whole.index(string)]
    assert (finished.reason, finished.stop_sequence) == ("stop", string)
    assert finished.usage.output_tokens == 4


async def test_the_seconds_of_both_phases_are_told_and_those_in_the_queue_are_not(autojump_clock: Clock) -> None:
    single = engine(parallel=1)
    ends: list[Finished] = []

    async def client(kind: int) -> None:
        ends.append((await answer(single, request(300, kind=kind, max_tokens=20)))[1])

    async with trio.open_nursery() as nursery:
        for kind in (1, 2):
            nursery.start_soon(client, kind)
    for end in ends:
        assert end.prefill_seconds == pytest.approx(300 / PREFILL_TPS)
        assert end.decode_seconds == pytest.approx(20 / DECODE_TPS)


# --- an answer that is given ------------------------------------------------------------------------------------------

SCRIPT = "Café <tool>né</tool> 😀."


def scripted(script: str | Callable[[GenerationRequest], str] = SCRIPT) -> SimulatedEngine:
    return SimulatedEngine(answer=script, decode_tps=DECODE_TPS)


async def test_a_given_text_is_the_answer_in_tokens_of_four_bytes(autojump_clock: Clock) -> None:
    text, end = await answer(scripted(), request(10))
    assert (text, end.reason) == (SCRIPT, "stop")
    assert end.usage.output_tokens == -(-len(SCRIPT.encode()) // 4)


async def test_a_given_text_may_depend_on_the_request(autojump_clock: Clock) -> None:
    depends = scripted(lambda request: f"{len(request.prompt)} tokens")
    assert (await answer(depends, request(10)))[0] == "10 tokens"
    assert (await answer(depends, request(7)))[0] == "7 tokens"


async def test_limits_and_stop_strings_end_a_given_text(autojump_clock: Clock) -> None:
    text, end = await answer(scripted(), request(10, max_tokens=2))
    assert (text, end.reason) == ("Café <t", "length")
    text, end = await answer(scripted(), request(10, stop=("</tool>",)))
    assert (text, end.reason, end.stop_sequence) == ("Café <tool>né", "stop", "</tool>")
    _, end = await answer(scripted("12345678"), request(10, max_tokens=2))
    assert end.reason == "stop", "it just fits"


@pytest.mark.parametrize("simulated", [engine(context_length=200), scripted("short")])
async def test_a_model_that_may_not_end_goes_on_to_the_limit(simulated: SimulatedEngine, autojump_clock: Clock) -> None:
    endless = replace(request(10, max_tokens=100), ignore_eos=True)
    _, end = await answer(simulated, endless)
    assert (end.reason, end.usage.output_tokens) == ("length", 100)


async def test_logprobs_are_those_of_every_token(autojump_clock: Clock) -> None:
    wants = replace(request(10, stop=("né",)), top_logprobs=3)
    told: list[TokenLogprob] = []
    async with scripted().generate(wants) as generation:
        await generation.prefill()
        async for event in generation:
            if isinstance(event, TextDelta):
                told += event.logprobs
    data = b"".join(each.data for each in told)
    assert data.startswith("Café <tool>".encode())
    assert SimulatedTokenizer().pieces([each.token for each in told]) == [each.data for each in told]
    assert {(each.logprob, each.top) for each in told} == {(0.0, ())}


class Interruption:
    """A guide that lets so many tokens pass, then forces a text once."""

    def __init__(self, after: int, text: str) -> None:
        self.seen = ""
        self.greedy = False
        self._left, self._text = after, text

    def observe(self, text: str, *, special: bool) -> None:
        self.seen += text
        self._left -= 1

    @property
    def forced(self) -> str:
        if self._left > 0:
            return ""
        text, self._text = self._text, ""
        return text


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_what_a_guide_forces_is_part_of_the_answer(after: int, autojump_clock: Clock) -> None:
    guide = Interruption(after, "[forced, né]")
    text, end = await answer(scripted("abcdefghijklmnop"), replace(request(10), guide=guide))
    assert text == guide.seen == "abcdefghijklmnop"[: 4 * after] + "[forced, né]" + "abcdefghijklmnop"[4 * after :]
    assert end.usage.output_tokens == 4 + 4


async def test_forced_text_obeys_the_limit(autojump_clock: Clock) -> None:
    guide = Interruption(1, "x" * 100)
    text, end = await answer(scripted("abcdefgh"), replace(request(10, max_tokens=3), guide=guide))
    assert (text, end.reason) == ("abcdxxxxxxxx", "length")


class Broken:
    greedy = False
    forced = ""

    def observe(self, text: str, *, special: bool) -> None:
        raise IndexError(text)


async def test_a_guide_that_fails_fails_its_request_only(autojump_clock: Clock) -> None:
    simulated = scripted()
    with pytest.raises(EngineError, match="IndexError") as failure:
        await answer(simulated, replace(request(10), guide=Broken()))
    assert "Caf" not in str(failure.value)
    assert (await answer(simulated, request(10)))[0] == SCRIPT


# --- kept prefixes ----------------------------------------------------------------------------------------------------


async def test_a_prefix_that_was_computed_takes_no_time_again(autojump_clock: Clock) -> None:
    kept = engine()
    await prefill_seconds(kept, request(500))
    assert await prefill_seconds(kept, request(700)) == pytest.approx(200 / PREFILL_TPS)
    _, finished = await answer(kept, request(800))
    assert finished.usage.cached_tokens == 700


async def test_of_a_prompt_that_was_computed_whole_only_the_last_token_is_computed_again(autojump_clock: Clock) -> None:
    kept = engine()
    await prefill_seconds(kept, request(500))
    told: list[Progress] = []
    async with kept.generate(request(500), on_progress=told.append) as generation:
        await generation.prefill()
    assert [(progress.cached_tokens, progress.prefilled_tokens) for progress in told] == [(499, 499), (499, 500)]
    assert told[-1].rate == pytest.approx(PREFILL_TPS)


async def test_another_conversation_shares_nothing(autojump_clock: Clock) -> None:
    kept = engine()
    await prefill_seconds(kept, request(500, kind=1))
    assert await prefill_seconds(kept, request(500, kind=2)) == pytest.approx(5)
    assert await prefill_seconds(kept, request(600, kind=1)) == pytest.approx(1)


async def test_a_cancelled_prefill_keeps_its_finished_chunks_for_the_next_try(autojump_clock: Clock) -> None:
    kept = engine()
    with trio.move_on_after(2.5) as scope:
        await prefill_seconds(kept, request(1000))
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(2.5), "leaving takes no time"
    assert (kept.running, kept.waiting) == (0, 0)

    _, finished = await answer(kept, request(1000))
    assert finished.usage.cached_tokens == 200


async def test_a_client_with_a_deadline_gets_there_by_trying_again(autojump_clock: Clock) -> None:
    kept = engine()
    tries = 0
    done = False
    while not done and tries < 10:
        tries += 1
        with trio.move_on_after(2.5):
            await prefill_seconds(kept, request(700))
            done = True
    assert (done, tries) == (True, 4)


async def test_the_prefix_in_a_slot_that_another_prompt_has_taken_is_gone(autojump_clock: Clock) -> None:
    full = engine(parallel=2)
    await prefill_seconds(full, request(300, kind=1))
    await prefill_seconds(full, request(400, kind=2))
    async with full.generate(request(500, kind=3)) as taker:
        await taker.prefill()
        _, finished = await answer(full, request(301, kind=1, max_tokens=1))
    assert finished.usage.cached_tokens == 0


# --- the queue --------------------------------------------------------------------------------------------------------


async def test_with_one_slot_the_next_request_starts_when_the_first_has_left(autojump_clock: Clock) -> None:
    single = engine(parallel=1)
    ends: dict[int, float] = {}

    async def client(kind: int) -> None:
        await answer(single, request(100, kind=kind, max_tokens=20))
        ends[kind] = trio.current_time()

    async with trio.open_nursery() as nursery:
        for kind in (1, 2, 3):
            nursery.start_soon(client, kind)
            await trio.testing.wait_all_tasks_blocked()
        assert (single.running, single.waiting) == (1, 2)
    assert ends == pytest.approx({1: 2, 2: 4, 3: 6})
    assert (single.running, single.waiting) == (0, 0)


async def test_a_request_in_the_queue_knows_its_position(autojump_clock: Clock) -> None:
    single = engine(parallel=1)
    async with (
        single.generate(request(10)) as first,
        single.generate(request(20)) as second,
        single.generate(request(30)) as third,
    ):
        assert second.progress == Progress(Phase.QUEUED, queue_position=1, queue_length=2, prompt_tokens=20)
        assert third.progress == Progress(Phase.QUEUED, queue_position=2, queue_length=2, prompt_tokens=30)
        assert (first.progress.queue_position, first.progress.queue_length) == (0, 0)


async def test_a_request_that_is_cancelled_in_the_queue_leaves_it_and_computes_nothing(autojump_clock: Clock) -> None:
    single = engine(parallel=1)
    async with single.generate(request(10)) as first:
        await first.prefill()
        with trio.move_on_after(3):
            await prefill_seconds(single, request(500, kind=2))
        assert (single.running, single.waiting) == (1, 0)
    _, finished = await answer(single, request(600, kind=2))
    assert finished.usage.cached_tokens == 0


async def test_whoever_fails_inside_the_block_gives_the_place_back(autojump_clock: Clock) -> None:
    single = engine(parallel=1, max_queue=0)

    async def fail(generation: Generation) -> None:
        await generation.prefill()
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        async with single.generate(request(10)) as generation:
            await fail(generation)
    assert (single.running, single.waiting) == (0, 0)
    await answer(single, request(10))


async def test_a_full_queue_refuses_on_entering(autojump_clock: Clock) -> None:
    single = engine(parallel=1, max_queue=0)
    async with single.generate(request(10)):
        with pytest.raises(QueueFullError):
            async with single.generate(request(10)):
                pytest.fail("there was no place")
    assert await prefill_seconds(single, request(10)) == pytest.approx(0.1)


async def test_a_refusal_says_when_the_first_of_the_running_will_have_ended(autojump_clock: Clock) -> None:
    single = engine(parallel=1, max_queue=0)
    for _ in range(30):
        await answer(single, request(10))
    decoding = ANSWER_TOKENS / DECODE_TPS

    async def retry_after() -> int:
        with pytest.raises(QueueFullError) as caught:
            async with single.generate(request(10)):
                pytest.fail("there was no place")
        return caught.value.retry_after

    async with single.generate(request(1000)) as generation:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(generation.prefill)
            await trio.sleep(2.5)
            prefill = generation.progress.eta
            assert prefill is not None
            assert await retry_after() == pytest.approx(prefill + decoding, abs=1)
        assert await retry_after() == pytest.approx(decoding, abs=1)
        async for _ in generation:
            break
        await trio.sleep(decoding / 2)
        assert await retry_after() == pytest.approx(decoding / 2, abs=1)


async def test_after_stop_admission_running_requests_end_and_all_others_are_told(autojump_clock: Clock) -> None:
    single = engine(parallel=1)
    async with single.generate(request(10)) as running, single.generate(request(10)) as waiting:
        await running.prefill()
        single.stop_admission()
        with trio.fail_after(HANGS), pytest.raises(EngineStoppedError):
            await waiting.prefill()
        with pytest.raises(EngineStoppedError):
            async with single.generate(request(10)):
                pytest.fail("nothing new is started")
        _, finished = await read(running)
    assert finished.usage.output_tokens == ANSWER_TOKENS
    assert (single.running, single.waiting) == (0, 0)


# --- tokens -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(left=st.text(max_size=20), right=st.text(max_size=20))
@example(left="a", right="\0a")
def test_tokens_are_four_bytes_each_and_tell_texts_apart(left: str, right: str) -> None:
    tokenizer = SimulatedTokenizer()
    left_tokens, right_tokens = tokenizer.tokenize(left), tokenizer.tokenize(right)
    assert len(left_tokens) == -(-len(left.encode()) // 4)
    assert (left_tokens == right_tokens) == (left == right)
    assert b"".join(tokenizer.pieces(left_tokens)) == left.encode()


@pytest.mark.parametrize("token", [-1, 0, 2, 2 << 32])
def test_a_number_that_is_no_token_is_an_error(token: int) -> None:
    with pytest.raises(ValueError, match=f"no token {token}"):
        SimulatedTokenizer().pieces([token])


async def test_prepare_gives_what_is_built_and_raises_what_building_raises() -> None:
    def fail(_: Tokenizer) -> None:
        raise LookupError("no such template")

    assert await SimulatedEngine().prepare(lambda tokenizer: len(tokenizer.tokenize("four" * 3))) == 3
    with pytest.raises(LookupError, match="no such template"):
        await SimulatedEngine().prepare(fail)
