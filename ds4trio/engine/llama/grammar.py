"""Grammars: which tokens an answer may go on with. The only file that knows llguidance.

A grammar is compiled once (milliseconds, off the event loop), kept, and copied for each answer (30 µs). Per token it
gives a mask over the vocabulary, which numpy lays over the logits before the sampler sees them: 0.1 ms for 49,152
tokens. llama.cpp's own grammar sampler is not an alternative: it takes 10 ms a token, and a token outside of the
grammar ends the process.

llguidance's view of the vocabulary is made while the model loads, since that holds the GIL: 0.1 s for 49,152 tokens.
"""

import ctypes
import logging
import threading
from collections import OrderedDict

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer

from ds4trio.engine.base import EngineError, GrammarError
from ds4trio.engine.llama.model import Model
from ds4trio.engine.llama.vocabulary import Vocabulary

__all__ = ["Grammar", "GrammarCompiler"]

log = logging.getLogger("ds4trio.engine")

# Compiled grammars, and characters of their sources, that are kept: a schema may be megabytes long.
MOST_KEPT = 64
MOST_KEPT_CHARACTERS = 4_000_000

# llama_tokenize as llguidance calls it: vocabulary, text, its size, tokens, room for how many, add and parse specials.
TOKENIZE = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.c_bool,
    ctypes.c_bool,
)


class Grammar:
    """One answer's place in a grammar. Used by one thread at a time."""

    def __init__(self, matcher: LLMatcher, vocabulary_size: int) -> None:
        self._matcher = matcher
        self._size = vocabulary_size
        self._mask = np.zeros((vocabulary_size + 31) // 32, dtype=np.int32)

    def restrict(self, logits: npt.NDArray[np.float32]) -> None:
        """Set the logits of all tokens that the grammar does not allow now to minus infinity, in place."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
        allowed = np.unpackbits(self._mask.view(np.uint8), count=self._size, bitorder="little")
        logits[allowed == 0] = -np.inf

    def accept(self, token: int) -> None:
        """Go on behind ``token``. Raises `GrammarError` where the grammar does not allow it."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def complete(self) -> bool:
        """Whether nothing can follow any more."""
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            # Not the matcher's own message, which quotes the answer.
            raise GrammarError(f"the answer cannot go on within its grammar ({self._matcher.stop_reason()})")


class GrammarCompiler:
    """Compiles grammars for one model and keeps the most recent ones. Thread-safe. Making one blocks, see above."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tokenize = _tokenize_function(model.vocabulary)  # llguidance has its address only
        self._tokenizer: LLTokenizer | None = None
        try:
            self._tokenizer = _tokenizer(model.vocabulary, self._tokenize)
        except ValueError as error:  # a vocabulary without an end, say: no reason not to serve the rest
            log.warning("this model cannot answer within a grammar: %s", error)
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        self._kept_characters = 0
        self._keeping = threading.Lock()

    def compile(self, source: str) -> Grammar:
        """The beginning of a grammar. Blocks.

        Raises `GrammarError` for a grammar that llguidance refuses, and `EngineError` once the model is closed.
        """
        if self._tokenizer is None:
            raise EngineError("this model cannot answer within a grammar")
        with self._model.in_use():
            matcher = self._recent(source)
            if matcher is None:
                matcher = LLMatcher(self._tokenizer, source, log_level=0)
                if matcher.is_error():
                    raise GrammarError(f"the grammar cannot be used: {matcher.get_error()}")
                self._keep(source, matcher)
            return Grammar(matcher.deep_copy(), self._model.vocabulary.size)

    def _recent(self, source: str) -> LLMatcher | None:
        with self._keeping:
            if source in self._kept:
                self._kept.move_to_end(source)
            return self._kept.get(source)

    def _keep(self, source: str, matcher: LLMatcher) -> None:
        with self._keeping:
            if source not in self._kept:  # else another thread was quicker
                self._kept_characters += len(source)
            self._kept[source] = matcher
            while len(self._kept) > MOST_KEPT or self._kept_characters > MOST_KEPT_CHARACTERS:
                oldest, _ = self._kept.popitem(last=False)
                self._kept_characters -= len(oldest)


def _tokenize_function(vocabulary: Vocabulary) -> "ctypes._FuncPointer":
    """`Vocabulary.tokenize` in the shape of ``llama_tokenize``, which may not be called with a long text itself."""

    @TOKENIZE  # type: ignore[untyped-decorator]  # a ctypes function type
    def tokenize(_: int, data: int, size: int, tokens: int, room: int, *add_and_parse_special: bool) -> int:
        text = ctypes.string_at(data, size).decode(errors="replace")
        add, parse = add_and_parse_special
        ids = np.array(vocabulary.tokenize(text, add_special=add, parse_special=parse), dtype=np.int32)
        if len(ids) > room:
            return -len(ids)
        ctypes.memmove(tokens, ids.ctypes.data, ids.nbytes)
        return len(ids)

    return tokenize


def _tokenizer(vocabulary: Vocabulary, tokenize: "ctypes._FuncPointer") -> LLTokenizer:
    """llguidance's own view of the vocabulary."""
    tokens = [
        # llguidance's sign for a token that is never text.
        b"\xff" + piece if _is_never_text(vocabulary, token, piece) else piece
        for token, piece in enumerate(vocabulary.pieces(range(vocabulary.size)))
    ]
    tokenizer: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # missing in its stubs
        tokens=tokens,
        vocab_ptr=vocabulary.pointer,
        tokenize_fptr=ctypes.cast(tokenize, ctypes.c_void_p).value,
        eos_token=sorted(vocabulary.end_tokens),
        slices=None,
    )
    return tokenizer


def _is_never_text(vocabulary: Vocabulary, token: int, piece: bytes) -> bool:
    """Control tokens, and those user-defined ones that look like them: others are indentation or emoticons."""
    looks_like_one = piece[:1] in b"<[" and piece[-1:] in b">]" and len(piece) > 2
    return vocabulary.is_control(token) or (vocabulary.is_user_defined(token) and looks_like_one)
