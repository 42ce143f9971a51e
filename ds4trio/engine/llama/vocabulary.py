"""A model's vocabulary: text to tokens and back, and which tokens are more than text. Thread-safe: it never changes.

The C functions release the GIL, but a call cannot be interrupted, so long texts are tokenized in pieces. A cut is only
made where it cannot change a token: before special tokens, and at ends of lines where no token spans them.
"""

import ctypes
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import llama_cpp
import numpy as np

from ds4trio.engine.base import EngineError

__all__ = ["Vocabulary", "any_of"]

CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
USER_DEFINED = llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
UNKNOWN = llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
# llama.cpp searches a text for special tokens in a time that grows with the square of their number: 130,000 in one
# call take 31 s.
SPECIALS_PER_PIECE = 512
# Characters after which a piece ends at the next line that allows it: 0.1 s of work, at most 256 KB.
LONG_PIECE = 64 * 1024
# A line's end that stands between a visible character and a letter. Every pre-tokenizer of the BPE kind splits here,
# whatever follows: only white space looks ahead.
LINE_END = re.compile(r"(?<=\S)\n(?=[A-Za-z])")
SPANS_LINES = re.compile(rb"\n[A-Za-z]")


class Vocabulary:
    """The vocabulary of an open model. None of its methods may be called once the model is freed.

    ``end_tokens`` are the tokens with which the model says that it is done. ``special`` maps the text of every
    control and user-defined token to its id.
    """

    def __init__(self, pointer: llama_cpp.llama_vocab_p) -> None:
        self.pointer = pointer
        self.size = int(llama_cpp.llama_vocab_n_tokens(pointer))
        self._attributes = [int(llama_cpp.llama_vocab_get_attr(pointer, token)) for token in range(self.size)]
        self.end_tokens = frozenset(token for token in range(self.size) if llama_cpp.llama_vocab_is_eog(pointer, token))
        self.bos_token = self._token_text(llama_cpp.llama_vocab_bos(pointer))
        self.eos_token = self._token_text(llama_cpp.llama_vocab_eos(pointer))
        self.special: Mapping[str, int] = {
            self._token_text(token): token
            for token, attributes in enumerate(self._attributes)
            if attributes & (CONTROL | USER_DEFINED) and self.piece(token, special=True)
        }
        self._adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(pointer))
        self._is_bpe = llama_cpp.llama_vocab_type(pointer) == llama_cpp.LLAMA_VOCAB_TYPE_BPE
        self._special_start = self._special_pattern()
        self._lines_are_apart: bool | None = None
        self._scanning = threading.Lock()

    def tokenize(
        self,
        text: str,
        *,
        add_special: bool = True,
        parse_special: bool = True,
        check: Callable[[], None] = lambda: None,
    ) -> list[int]:
        """See `Tokenizer.tokenize`; user-defined tokens count even without ``parse_special``, as in llama.cpp.

        ``check`` is called between pieces and may raise to give up. Raises `EngineError` for a text that the
        tokenizer cannot take.
        """
        tokens: list[int] = []
        add_bos = add_special and self._adds_bos and not (self.bos_token and text.startswith(self.bos_token))
        for number, piece in enumerate(self._pieces(text)):
            check()
            tokens += self._tokenize(piece, add_bos=add_bos and number == 0, parse_special=parse_special)
        return tokens

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token, special tokens spelled out. Raises `ValueError` for an id that does not exist."""
        if wrong := [token for token in tokens if not 0 <= token < self.size]:
            raise ValueError(f"there is no token {wrong[0]}: ids go from 0 to {self.size - 1}")
        return [self.piece(token, special=True) for token in tokens]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that a token stands for; empty for control tokens unless ``special`` ones are spelled out."""
        buffer = ctypes.create_string_buffer(64)
        size = llama_cpp.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = llama_cpp.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, special)
        return buffer.raw[:size]

    def is_control(self, token: int) -> bool:
        """Whether the token is the model's own punctuation and never text."""
        return bool(self._attributes[token] & CONTROL)

    def is_user_defined(self, token: int) -> bool:
        """Whether the token was added to the vocabulary by name; it may be text all the same."""
        return bool(self._attributes[token] & USER_DEFINED)

    def _tokenize(self, text: str, *, add_bos: bool, parse_special: bool) -> list[int]:
        data = text.encode(errors="replace")
        tokens = np.empty(len(data) + 2, dtype=np.int32)
        count = llama_cpp.llama_tokenize(
            self.pointer,
            data,
            len(data),
            tokens.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token)),
            len(tokens),
            add_bos,
            parse_special,
        )
        if count < 0:
            raise EngineError(f"the tokenizer failed on a text of {len(data)} bytes")
        ids: list[int] = tokens[:count].tolist()
        return ids

    def _pieces(self, text: str) -> Iterator[str]:
        for block in self._blocks(text):
            start = 0
            for number, match in enumerate(self._special_start.finditer(block), 1):
                if number % SPECIALS_PER_PIECE == 0:
                    yield block[start : match.start()]
                    start = match.start()
            yield block[start:]

    def _blocks(self, text: str) -> Iterator[str]:
        """A long text in blocks that end with a line, where this vocabulary allows it."""
        start = 0
        if len(text) > LONG_PIECE and self._can_cut_lines():
            while match := LINE_END.search(text, start + LONG_PIECE):
                yield text[start : match.end()]
                start = match.end()
        yield text[start:]

    def _can_cut_lines(self) -> bool:
        """Whether a text may be cut between a line's end and a letter: then no merge crosses the cut.

        Asked for long texts only: it looks at every token, once.
        """
        if not self._is_bpe:
            return False  # other kinds treat the beginning of a text in a way of their own
        with self._scanning:
            if self._lines_are_apart is None:
                spans = (SPANS_LINES.search(self.piece(token, special=True)) for token in range(self.size))
                self._lines_are_apart = not any(spans)
            return self._lines_are_apart

    def _special_pattern(self) -> re.Pattern[str]:
        texts = {
            llama_cpp.llama_vocab_get_text(self.pointer, token).decode(errors="replace")
            for token, attributes in enumerate(self._attributes)
            if attributes & (CONTROL | USER_DEFINED | UNKNOWN)
        }
        return re.compile(any_of(texts - {""}) or "(?!)")

    def _token_text(self, token: int) -> str:
        return self.piece(token, special=True).decode(errors="replace") if token >= 0 else ""


def any_of(texts: Iterable[str]) -> str:
    """A pattern that matches any of the texts, of several that begin alike the longest.

    Beginnings that they share are compared once: some vocabularies have thousands of ``<unused…>``, and a plain list
    of those costs 60 µs at every angle bracket.
    """
    ordered = sorted(texts)
    first, last = (ordered[0], ordered[-1]) if ordered else ("", "")
    shared = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    rests = [text[shared:] for text in ordered]
    branches = [any_of(alike) for _, alike in groupby(filter(None, rests), key=lambda rest: rest[0])]
    if branches and "" in rests:
        branches.append("")
    return re.escape(first[:shared]) + (f"(?:{'|'.join(branches)})" if branches else "")
