"""A model's vocabulary: text to tokens and back, and which tokens are more than text. Thread-safe: it never changes.

The C functions release the GIL, but a call cannot be interrupted, and for most models llama.cpp splits a text into
words with ``std::regex``, which calls itself for every character of a match: about 25,000 of them overflow the stack of
a thread and end the process. A match may be a run of letters, a line of words or all of a text, so no call gets more
than `LONGEST_PIECE` characters. A cut is made where it cannot change a token: before a special token, or between a word
and white space. A stretch that is longer than a piece and has no such place (base64, ideographs, dashes) is cut all the
same, so there a token may differ from what llama.cpp alone would make of it. Where the cuts are depends on what stands
before them only, so a text that goes on keeps its tokens.
"""

import ctypes
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import llama_cpp
import numpy as np

from ds4trio.engine.base import EngineError

__all__ = ["Vocabulary", "any_of"]

CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
USER_DEFINED = llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
UNKNOWN = llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
# Characters: a third of what a stack of 8 MB takes under the hungriest pre-tokenizer, and some 10 ms of work. It also
# bounds a search for special tokens, whose time grows with the square of their number: 130,000 in one call take 31 s.
LONGEST_PIECE = 8192
# As much as possible up to the end of a word. No pre-tokenizer of the BPE kind sees across it: nearly all split there,
# what the others join there no merge does, and what looks ahead at white space stands in white space itself.
UP_TO_A_WORDS_END = re.compile(r".*[A-Za-z](?=[ \n])", re.DOTALL)
SPANS_WORDS = re.compile(rb"[A-Za-z][ \n]")
# Tokens turned into bytes between two checks: about 2 ms.
TOKENS_PER_CHECK = 1024


class Vocabulary:
    """The vocabulary of an open model. None of its methods may be called once the model is freed.

    ``end_tokens`` are the tokens with which the model says that it is done. ``special`` maps the text of every
    control and user-defined token to its id, ``control`` are the texts of the former.
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
        self.control = frozenset(text for text, token in self.special.items() if self._attributes[token] & CONTROL)
        # No merge crosses the end of a word. Every token is looked at: a tenth of a second for 50,000.
        self._words_are_apart = self._is_bpe and not any(
            SPANS_WORDS.search(self.piece(token, special=True)) for token in range(self.size)
        )
        special = self._partitioning_texts()
        self._special_start = re.compile(any_of(special) or "(?!)")
        self._longest_special = max(map(len, special), default=0)

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

    def pieces(self, tokens: Sequence[int], *, check: Callable[[], None] = lambda: None) -> list[bytes]:
        """The bytes of each token, special tokens spelled out. Raises `ValueError` for an id that does not exist.

        ``check`` is called now and then and may raise to give up.
        """
        pieces: list[bytes] = []
        for index, token in enumerate(tokens):
            if index % TOKENS_PER_CHECK == 0:
                check()
            if not 0 <= token < self.size:
                raise ValueError(f"there is no token {token}: ids go from 0 to {self.size - 1}")
            pieces.append(self.piece(token, special=True))
        return pieces

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
        start = 0
        while (end := self._end_of_piece(text, start)) < len(text):
            yield text[start:end]
            start = end
        yield text[start:]

    def _end_of_piece(self, text: str, start: int) -> int:
        """Where the piece that begins at ``start`` ends. Looks at the text in windows: a search holds the GIL."""
        window = start
        while (stop := window + LONGEST_PIECE) < len(text):
            specials = self._special_start.finditer(text, window, stop + self._longest_special)
            places = [match.start() for match in specials if start < match.start() <= stop]
            if self._words_are_apart and (words := UP_TO_A_WORDS_END.match(text, window, stop + 1)):
                places.append(words.end())
            if places:
                return max(places)
            if self._is_bpe:
                return stop
            window = stop  # other kinds treat the beginning of a text in a way of their own
        return len(text)

    def _partitioning_texts(self) -> set[str]:
        """The texts at which llama.cpp parts a text before anything else happens to it."""
        texts = {
            llama_cpp.llama_vocab_get_text(self.pointer, token).decode(errors="replace")
            for token, attributes in enumerate(self._attributes)
            if attributes & (CONTROL | USER_DEFINED | UNKNOWN)
        }
        return texts - {""}

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
