"""The tokenizer inside `Engine.prepare`: what is special, what is text, and that no cut of a long text shows."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ds4trio.engine import EngineError, Tokenizer
from ds4trio.engine.llama import LlamaOptions, open_llama_engine
from ds4trio.engine.llama import vocabulary as cuts
from ds4trio.engine.llama.model import load_model
from ds4trio.engine.llama.vocabulary import Vocabulary, any_of

pytestmark = pytest.mark.slow

TURN = "<|im_start|>user\nHi  there, né<|im_end|>\n"
SOURCE = 'def main(argv: list[str]) -> None:\n    print("né", 12345)\n\nif __name__ == "__main__":\n    main()\n'


@pytest.fixture(scope="module")
def vocabulary(model: Path) -> Iterator[Vocabulary]:
    with load_model(str(model), n_gpu_layers=0, on_progress=lambda _: True) as loaded:
        yield loaded.vocabulary


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "LONG_PIECE", 2)
    monkeypatch.setattr(cuts, "SPECIALS_PER_PIECE", 2)


# Whatever a pre-tokenizer looks at: letters, digits, punctuation, white space of every kind, contractions.
fragments = st.sampled_from(
    [
        "\n",
        "\n\n",
        "\r\n",
        " ",
        "  ",
        "\t",
        "a",
        "The",
        "'s",
        "'",
        "1",
        "23",
        ".",
        ");",
        "é",
        "日",
        "😀",
        "\u00a0",
        "\u2028",
    ]
)
texts = st.lists(st.one_of(fragments, st.just("\n"), st.sampled_from(["<|im_start|>", "x"])), max_size=40).map("".join)


@settings(max_examples=500, deadline=None)
@given(text=texts)
@example(text="a\nb  \nc\n\nd \n e;\nf\r\ng1\nh")
def test_pieces_have_the_same_tokens_as_the_whole(vocabulary: Vocabulary, text: str) -> None:
    whole = vocabulary.tokenize(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "LONG_PIECE", 2)
        patch.setattr(cuts, "SPECIALS_PER_PIECE", 2)
        assert vocabulary.tokenize(text) == whole
    assert b"".join(vocabulary.pieces(whole)) == text.encode()


def test_lines_are_where_a_long_text_is_cut(vocabulary: Vocabulary, short_pieces: None) -> None:
    cut = 0

    def count() -> None:
        nonlocal cut
        cut += 1

    vocabulary.tokenize("one\ntwo\n  three\n\nfour\nfive", check=count)
    assert cut == 3, "after one and after four"


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
        with pytest.raises(EngineError, match="stopped"):
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
