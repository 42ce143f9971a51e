"""Grammars: which tokens an answer may go on with. The only file that knows llguidance.

A grammar is compiled once (milliseconds, off the event loop), kept, and copied for each answer (30 µs). Per token it
gives a mask over the vocabulary, which numpy lays over the logits before the sampler sees them: 0.1 ms for 49,152
tokens. llama.cpp's own grammar sampler is not an alternative: it takes 10 ms a token, and a token outside of the
grammar ends the process.
"""

import ctypes
import logging
import threading
from collections import OrderedDict

import llama_cpp
import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer

from ds4trio.engine.base import EngineError
from ds4trio.engine.llama.model import Model
from ds4trio.engine.llama.vocabulary import Vocabulary

__all__ = ["Grammar", "GrammarCompiler"]

log = logging.getLogger("ds4trio.engine")

MOST_KEPT = 64


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
        """Go on behind ``token``. Raises `EngineError` where the grammar does not allow it."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def complete(self) -> bool:
        """Whether nothing can follow any more."""
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            # The message may quote the answer: that is for the log of whoever debugs, not for everyone's.
            log.debug("a grammar failed: %s", self._matcher.get_error())
            raise EngineError(f"the answer cannot go on within its grammar ({self._matcher.stop_reason()})")


class GrammarCompiler:
    """Compiles grammars for one model and keeps the most recent ones. Thread-safe."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tokenizer: LLTokenizer | None = None
        self._tokenizing = threading.Lock()
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        self._keeping = threading.Lock()

    def compile(self, source: str) -> Grammar:
        """The beginning of a grammar. Blocks, the first time for as long as the vocabulary takes (0.2 s for 49,152).

        Raises `EngineError` for a grammar that llguidance refuses.
        """
        with self._model.in_use():
            matcher = self._recent(source)
            if matcher is None:
                matcher = LLMatcher(self._vocabulary(), source, log_level=0)
                if matcher.is_error():
                    raise EngineError(f"the grammar cannot be used: {matcher.get_error()}")
                self._keep(source, matcher)
            return Grammar(matcher.deep_copy(), self._model.vocabulary.size)

    def _recent(self, source: str) -> LLMatcher | None:
        with self._keeping:
            if source in self._kept:
                self._kept.move_to_end(source)
            return self._kept.get(source)

    def _keep(self, source: str, matcher: LLMatcher) -> None:
        with self._keeping:
            self._kept[source] = matcher
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)

    def _vocabulary(self) -> LLTokenizer:
        with self._tokenizing:
            if self._tokenizer is None:
                self._tokenizer = _tokenizer(self._model.vocabulary)
            return self._tokenizer


def _tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    """llguidance's own view of the vocabulary. It calls llama.cpp's tokenizer without Python in the path."""
    pieces = vocabulary.pieces(range(vocabulary.size))
    tokens = [
        # llguidance's sign for a token that is never text.
        b"\xff" + piece if _is_never_text(vocabulary, token, piece) else piece
        for token, piece in enumerate(pieces)
    ]
    tokenize = ctypes.cast(llama_cpp.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
    tokenizer: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # missing in its stubs
        tokens=tokens,
        vocab_ptr=vocabulary.pointer,
        tokenize_fptr=tokenize,
        eos_token=sorted(vocabulary.end_tokens),
        slices=None,
    )
    return tokenizer


def _is_never_text(vocabulary: Vocabulary, token: int, piece: bytes) -> bool:
    """Control tokens, and those user-defined ones that look like them: others are indentation or emoticons."""
    looks_like_one = piece[:1] in b"<[" and piece[-1:] in b">]" and len(piece) > 2
    return vocabulary.is_control(token) or (vocabulary.is_user_defined(token) and looks_like_one)
