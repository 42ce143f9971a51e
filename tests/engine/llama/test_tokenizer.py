"""The tokenizer inside `Engine.prepare`: what is special, what is text, and that no cut of a long text shows."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.engine import EngineStoppedError, Tokenizer
from ds4trio.engine.llama import LlamaOptions, open_llama_engine
from ds4trio.engine.llama.engine import PREPARED_AT_ONCE
from ds4trio.engine.llama.model import load_model
from ds4trio.engine.llama.vocabulary import Vocabulary, any_of

pytestmark = pytest.mark.slow

TURN = "<|im_start|>user\nHi  there, né<|im_end|>\n"
SOURCE = 'def main(argv: list[str]) -> None:\n    print("né", 12345)\n\nif __name__ == "__main__":\n    main()\n'


@pytest.fixture(scope="module")
def vocabulary(model: Path) -> Iterator[Vocabulary]:
    with load_model(str(model), n_gpu_layers=0, on_progress=lambda _: True) as loaded:
        yield loaded.vocabulary


@given(texts=st.sets(st.text("ab<.|\n", min_size=1, max_size=5)), text=st.text("ab<.|\n", max_size=20))
def test_the_pattern_of_special_tokens_finds_the_longest_at_each_place(texts: set[str], text: str) -> None:
    longest_first = "|".join(re.escape(each) for each in sorted(texts, key=len, reverse=True))
    found = [match.span() for match in re.finditer(any_of(texts) or "(?!)", text)]
    assert found == [match.span() for match in re.finditer(longest_first or "(?!)", text)]


def test_special_tokens_count_or_are_plain_text(vocabulary: Vocabulary) -> None:
    start, end = vocabulary.special["<|im_start|>"], vocabulary.special["<|im_end|>"]
    ids = vocabulary.tokenize(TURN)
    assert (ids[0], ids[-2]) == (start, end)
    plain = vocabulary.tokenize(TURN, parse_special=False)
    assert not {start, end} & set(plain)
    for tokens in (ids, plain):
        assert b"".join(vocabulary.pieces(tokens)) == TURN.encode()
    assert vocabulary.piece(start) == b""
    assert end in vocabulary.end_tokens


@pytest.mark.parametrize("token", [-1, 49_152, 2**31])
async def test_an_id_that_does_not_exist_is_an_error(options: LlamaOptions, token: int) -> None:
    async with open_llama_engine(options) as engine:
        assert engine.info.vocabulary_size == 49_152
        with pytest.raises(ValueError, match=f"no token {token}"):
            await engine.prepare(lambda tokenizer: tokenizer.pieces([1, token]))


async def test_prepare_raises_what_building_raises(options: LlamaOptions) -> None:
    def fail(_: Tokenizer) -> None:
        raise LookupError("no such template")

    async with open_llama_engine(options) as engine:
        with pytest.raises(LookupError, match="no such template"):
            await engine.prepare(fail)


async def test_a_tokenizer_that_outlives_its_engine_refuses(options: LlamaOptions) -> None:
    kept: list[Tokenizer] = []
    async with open_llama_engine(options) as engine:
        await engine.prepare(kept.append)
    for use in (lambda: kept[0].tokenize("a"), lambda: kept[0].pieces([1])):
        with pytest.raises(EngineStoppedError):
            use()


async def test_text_full_of_special_tokens_is_tokenized_in_linear_time_and_all_the_same(options: LlamaOptions) -> None:
    # llama.cpp alone takes 31 s for 130,000 of them, and hours for a body of the largest size.
    turn = "<|im_start|>user\nHi  there, <|im_end|>\n"
    async with open_llama_engine(options) as engine:
        once = await engine.prepare(lambda tokenizer: tokenizer.tokenize(turn))
        assert await engine.prepare(lambda tokenizer: tokenizer.tokenize(turn * 1500)) == once * 1500
        with trio.fail_after(20):
            assert len(await engine.prepare(lambda tokenizer: tokenizer.tokenize("<|im_start|>" * 130_000))) == 130_000


@pytest.mark.parametrize("text", ["<|im_start|>" * 1_000_000, SOURCE * 100_000], ids=["special", "source"])
async def test_leaving_stops_the_tokenizing_of_a_long_text(options: LlamaOptions, text: str) -> None:
    async with open_llama_engine(options) as engine:
        with trio.fail_after(3), trio.move_on_after(0.2) as scope:
            await engine.prepare(lambda tokenizer: tokenizer.tokenize(text))
        assert scope.cancelled_caught


async def test_leaving_stops_the_spelling_of_many_tokens(options: LlamaOptions) -> None:
    async with open_llama_engine(options) as engine:
        tokens = [1] * 5_000_000
        with trio.fail_after(3), trio.move_on_after(0.2) as scope:
            await engine.prepare(lambda tokenizer: tokenizer.pieces(tokens))
        assert scope.cancelled_caught


async def test_preparing_takes_no_thread_from_others_nor_they_from_it(options: LlamaOptions) -> None:
    others = trio.to_thread.current_default_thread_limiter()
    async with open_llama_engine(options) as engine, trio.open_nursery() as nursery:
        free = threading.Event()
        for _ in range(PREPARED_AT_ONCE + 1):
            nursery.start_soon(engine.prepare, lambda _: free.wait())
        await trio.testing.wait_all_tasks_blocked()
        assert others.borrowed_tokens == 0
        free.set()
        for holder in range(int(others.total_tokens)):
            others.acquire_on_behalf_of_nowait(holder)
        with trio.fail_after(5):
            assert await engine.prepare(lambda tokenizer: tokenizer.tokenize("a"))
        for holder in range(int(others.total_tokens)):
            others.release_on_behalf_of(holder)
