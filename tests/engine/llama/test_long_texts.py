"""Long texts under the pre-tokenizers of many models: no text ends the process, and no cut shows that need not.

llama.cpp matches most pre-tokenizers with a regex engine that calls itself for every character of a match. Here the
demo model's vocabulary goes by their names, so a stack that overflows ends a process of its own.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from ds4trio.engine import EngineError
from ds4trio.engine.llama import grammar
from ds4trio.engine.llama import vocabulary as cuts
from ds4trio.engine.llama.grammar import GrammarCompiler
from ds4trio.engine.llama.model import Model

pytestmark = pytest.mark.slow

# One for each way in which a match can be long: runs of one class, of several, and lines of words.
PRE_TOKENIZERS = (
    "smollm",
    "llama-bpe",
    "qwen2",
    "deepseek-v3",
    "deepseek-llm",
    "deepseek-coder",
    "tekken",
    "gpt-4o",
    "poro-chat",
    "exaone-moe",
    "seed-coder",
    "youtu",
    "kimi-k2",
    "default",
)
RUNS = ("a", "A", "-", " ", "中", "\n", "\r\n", "1", "=-", "aB", "a1-", "é", "e\u0301", "-\n", "a ", "word ", "\u00a0")
# Twice what the hungriest takes to overflow.
LENGTH = 60_000


@contextmanager
def opened(model: Path, pre_tokenizer: str) -> Iterator[Model]:
    """The demo model's vocabulary with the pre-tokenizer of another model."""
    llama_cpp.llama_backend_init()
    overrides = (llama_cpp.llama_model_kv_override * 2)()
    overrides[0].key, overrides[0].tag = b"tokenizer.ggml.pre", llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR
    overrides[0].value.val_str = pre_tokenizer.encode()  # type: ignore[union-attr]  # a union in C
    params = llama_cpp.llama_model_default_params()
    params.vocab_only, params.kv_overrides = True, overrides
    pointer = llama_cpp.llama_model_load_from_file(str(model).encode(), params)
    assert pointer
    opened = Model(pointer)
    try:
        yield opened
    finally:
        opened.close()


def tokenize_all(model: Path, pre_tokenizer: str) -> None:
    """In a thread, since its stack is what can overflow."""
    with opened(model, pre_tokenizer) as loaded:
        done: list[str] = []

        def tokenize() -> None:
            for run in RUNS:
                assert loaded.vocabulary.tokenize(run * (LENGTH // len(run)))
                done.append(run)

        thread = threading.Thread(target=tokenize)
        thread.start()
        thread.join()
        assert done == list(RUNS)


def literal_in_a_grammar(model: Path, pre_tokenizer: str) -> None:
    """llguidance calls llama.cpp's tokenizer too."""
    with opened(model, pre_tokenizer) as loaded:
        grammars = GrammarCompiler(loaded)
        done: list[bool] = []

        def follow() -> None:
            literal = grammars.compile(f'start: "{"a" * 60_000}"')
            logits = np.zeros(loaded.vocabulary.size, dtype=np.float32)
            for _ in range(3):
                literal.restrict(logits)
                literal.accept(int(logits.argmax()))
            done.append(True)

        thread = threading.Thread(target=follow)
        thread.start()
        thread.join()
        assert done


@pytest.mark.parametrize("job", [tokenize_all.__name__, literal_in_a_grammar.__name__])
@pytest.mark.parametrize("pre_tokenizer", PRE_TOKENIZERS)
def test_no_text_overflows_a_stack(model: Path, pre_tokenizer: str, job: str) -> None:
    code = f"import sys, {__name__} as tests; from pathlib import Path; tests.{job}(Path(sys.argv[1]), sys.argv[2])"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(model), pre_tokenizer],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


# Whatever a pre-tokenizer looks at, with places where a cut may be.
fragments = st.sampled_from(
    [
        "a",
        "The",
        "'s",
        "1",
        "234",
        ".",
        ");",
        "é",
        "中",
        "😀",
        "\u00a0",
        "\t",
        "\r\n",
        "-",
        "=",
        "<",
        "<|im_start|>",
        "<|im_",
    ]
)
stretches = st.lists(fragments, max_size=3).map("".join)
white = st.text(" \n", min_size=1, max_size=4)
texts = st.lists(st.tuples(stretches, st.sampled_from(["x", "Word"]), white).map("".join), max_size=25).map("".join)


# superbpe takes minutes for a long run of digits, in whatever pieces.
@pytest.mark.parametrize("pre_tokenizer", [*PRE_TOKENIZERS, "superbpe", "laguna", "falcon", "tiny_aya", "afmoe"])
def test_cuts_at_words_and_special_tokens_do_not_show(model: Path, pre_tokenizer: str) -> None:
    with opened(model, pre_tokenizer) as loaded:
        vocabulary = loaded.vocabulary

        @settings(max_examples=100, deadline=None)
        @given(text=texts)
        def compare(text: str) -> None:
            whole = vocabulary.tokenize(text)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cuts, "LONGEST_PIECE", 48)  # there is a place in every 47 characters
                assert vocabulary.tokenize(text) == whole

        compare()


TALE = "the river ran " * 5000
LINES = "    indented(line)\n" * 5000


@pytest.mark.parametrize(
    "text",
    [TALE, LINES, "\n" * 70_000, "x" * 70_000, "<|im_start|>" * 20_000, "<|im_star" * 10_000],
    ids=["one line", "indented lines", "empty lines", "one word", "special tokens", "nearly special tokens"],
)
def test_no_piece_of_any_text_is_longer_than_the_longest(
    model: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    with opened(model, "smollm") as loaded:
        lengths: list[int] = []
        tokenize = loaded.vocabulary._tokenize

        def measured(piece: str, **options: bool) -> list[int]:
            lengths.append(len(piece))
            return tokenize(piece, **options)

        monkeypatch.setattr(loaded.vocabulary, "_tokenize", measured)
        tokens = loaded.vocabulary.tokenize(text)
        assert max(lengths) <= cuts.LONGEST_PIECE
        assert sum(lengths) == len(text)
        assert b"".join(loaded.vocabulary.pieces(tokens)) == text.encode()


def test_a_text_that_goes_on_keeps_its_tokens(model: Path) -> None:
    with opened(model, "deepseek-v3") as loaded:
        text = "".join((TALE, "中" * 20_000, " so", LINES, "<|im_end|>", "=" * 30_000, " end"))
        tokens = loaded.vocabulary.tokenize(text)
        assert loaded.vocabulary.tokenize(text + TALE)[: len(tokens)] == tokens


def test_a_vocabulary_without_an_end_has_no_grammars_but_the_model_is_served(model: Path) -> None:
    with opened(model, "smollm") as loaded:
        loaded.vocabulary.end_tokens = frozenset()
        with pytest.raises(EngineError, match="cannot answer within a grammar"):
            GrammarCompiler(loaded).compile('start: "a"')


def test_few_grammars_are_kept_and_few_characters_of_them(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def compiling(tokenizer: LLTokenizer, source: str, *, log_level: int) -> LLMatcher:
        compiled.append(source)
        return LLMatcher(tokenizer, source, log_level=log_level)

    monkeypatch.setattr(grammar, "LLMatcher", compiling)
    monkeypatch.setattr(grammar, "MOST_KEPT", 3)
    monkeypatch.setattr(grammar, "MOST_KEPT_CHARACTERS", 200)
    with opened(model, "smollm") as loaded:
        grammars = GrammarCompiler(loaded)

        def sources(*numbers: int, size: int) -> list[str]:
            return [f'start: "{number}"'.ljust(size) for number in numbers]

        def compiles(*wanted: str) -> list[str]:
            compiled.clear()
            for source in wanted:
                grammars.compile(source)
            return compiled.copy()

        a, b, c, d = sources(1, 2, 3, 4, size=20)
        assert compiles(a, b, c, a, b, c) == [a, b, c]
        assert compiles(d, b, c, a) == [d, a], "the fourth takes the place of the one that rested longest"
        (large, too_large) = sources(5, size=150) + sources(6, size=201)
        assert compiles(large, a, c, large) == [large], "two small ones fit beside it"
        assert compiles(c, d, large, a) == [d, a]
        assert compiles(too_large, too_large) == [too_large] * 2
