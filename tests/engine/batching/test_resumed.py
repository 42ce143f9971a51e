"""Answers that were cut between two tokens and go on in another sequence, on every kind of memory."""

from ds4trio.cache import MemoryKind
from ds4trio.engine.base import Phase, Progress, TextDelta
from tests.engine.batching.bench import Bench, Client, answer, talkative, tokens_of
from tests.engine.batching.kinds import every_kind

PROMPT = 300
MOST = 60


def cut(bench: Bench, prompt: list[int]) -> Client:
    """One whose client leaves in the middle of its answer."""
    first = bench.ask(prompt, most=MOST)
    bench.until(lambda: first.writer.sampled >= MOST // 2)
    first.request.keeps_writer = True
    first.request.cancelled = True
    bench.step()
    assert first.released
    assert not first.writer.closed
    return first


def resumed(bench: Bench, first: Client) -> Client:
    """The same question again, which goes on with the answer."""
    retry = Client(first.prompt, most=MOST)
    retry.request.writer = retry.writer = first.writer
    retry.request.tokens = [*first.request.tokens]
    retry.request.decoded = 1000.0
    bench.batcher.add(retry.request)
    bench.run()
    return retry


@every_kind
def test_the_text_goes_on_and_only_what_was_never_computed_is_computed(kind: MemoryKind) -> None:
    bench = Bench(kind)
    first = cut(bench, talkative(0, PROMPT, MOST))
    before = bench.computed
    retry = resumed(bench, first)
    expected, reason = answer(first.prompt, MOST)
    assert first.text + retry.text == "".join(f"{token} " for token in expected)
    assert retry.finished is not None
    assert retry.finished.reason == reason
    assert retry.finished.usage.output_tokens == MOST
    assert retry.finished.usage.cached_tokens == PROMPT
    assert retry.finished.decode_seconds > 1000 > retry.finished.prefill_seconds
    assert bench.computed - before == PROMPT + MOST - 1 - first.request.computed
    assert retry.writer.closed


@every_kind
def test_what_others_took_the_cells_of_is_a_prefill_again(kind: MemoryKind) -> None:
    bench = Bench(kind, cells=1200, slots=2, ubatch=64, state_bytes=0)
    first = cut(bench, talkative(0, PROMPT, MOST))
    for seed in (1, 2, 3):
        bench.ask(tokens_of(seed, 1000), most=2)
        bench.run()
    retry = resumed(bench, first)
    expected, _ = answer(first.prompt, MOST)
    assert first.text + retry.text == "".join(f"{token} " for token in expected)
    told = [update for update in retry.updates if isinstance(update, Progress | TextDelta)]
    phases = [update.phase for update in told if isinstance(update, Progress)]
    assert phases.count(Phase.PREFILL) >= PROMPT // 64
    assert phases[-1] is Phase.DECODE
    assert isinstance(told[0], Progress)
    assert retry.cached == 0
