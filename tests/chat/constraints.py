"""A vocabulary without a model, and what a grammar makes of it.

Tokens are single bytes, a few words that cross the borders of JSON, and a dialect's special tokens.
"""

import random
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from ds4trio.chat.dialects import Dialect, DialectReader
from ds4trio.chat.events import ContentDelta, ReasoningDelta, ToolCallDelta, ToolCallStart
from ds4trio.chat.messages import Tool

__all__ = ["Answer", "Vocabulary"]

_WORDS = ('"}', '"}}', "}}\n", '": ', '", "', "</", ">\n", "\n</", "the ", "true", "null", "é", "😀", "=", "[{", '"]')
_CLOSING = frozenset([b'"', b"}", b"]", b")", b"<", b">", b"/", b"\n"])
_END = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reader makes of an answer."""

    reasoning: str
    content: str
    calls: tuple[tuple[str, str], ...]


class Vocabulary:
    """Implements what llguidance wants of a tokenizer. ``specials`` are the texts of the special tokens."""

    eos_token_id = _END
    bos_token_id = None

    def __init__(self, specials: Collection[str] = ()) -> None:
        texts = ["<end>", *sorted(specials)]
        self.special_tokens = {text: token for token, text in enumerate(texts) if token}
        self.special_token_ids = list(range(len(texts)))
        self._bytes = len(texts)
        self.tokens = [b"\xff" + text.encode() for text in texts]
        self.tokens += [bytes([byte]) for byte in range(256)] + [word.encode() for word in _WORDS]
        self._split = re.compile("|".join(map(re.escape, self.special_tokens)) or "(?!)")
        self._tokenizer = LLTokenizer(TokenizerWrapper(self))
        self._matchers: dict[str, LLMatcher] = {}

    def __call__(self, text: bytes) -> list[int]:
        return [self._bytes + byte for byte in text]

    def accepts(self, grammar: str | None, text: str, *, complete: bool = True) -> bool:
        """Whether ``text`` is an answer by the grammar, or at least the beginning of one."""
        matcher = self._matcher(grammar)
        tokens = self._tokens(text)
        return bool(matcher.try_consume_tokens(tokens) == len(tokens) and (matcher.is_accepting() or not complete))

    def walk(self, grammar: str | None, seed: int, towards: Sequence[str], longest: int = 2000) -> list[int] | None:
        """Random tokens, all of which the grammar allows, up to its end; None if it is not reached.

        Now and then it tries to write one of the texts in ``towards``, since chance alone finds no marker.
        """
        chance = random.Random(seed)
        matcher = self._matcher(grammar)
        tokens: list[int] = []
        queue: list[int] = []
        while not matcher.is_stopped() and len(tokens) < longest:
            allowed = self._allowed(matcher)
            if not queue and chance.random() < 0.15:
                queue = self._tokens(chance.choice(towards))
            token = queue.pop(0) if queue else -1
            if token not in allowed:
                queue = []
                closing = [token for token in allowed if self.tokens[token][:1] in _CLOSING or token < self._bytes]
                token = chance.choice(closing if closing and chance.random() < 0.8 else allowed)
            assert matcher.consume_token(token), matcher.get_error()
            tokens.append(token)
        return tokens if matcher.is_stopped() else None

    def read(
        self, dialect: Dialect, answer: str | Sequence[int], tools: Sequence[Tool], prompt_end: str = ""
    ) -> Answer:
        """The answer as the dialect's reader reads it."""
        reader = DialectReader(dialect, tools=tools, prompt_end=prompt_end, special_tokens=self.special_tokens)
        tokens = self._tokens(answer) if isinstance(answer, str) else answer
        events = [event for piece, special in self._pieces(tokens) for event in reader.feed(piece, special=special)]
        events += reader.finish()
        calls: list[tuple[str, str]] = []
        for event in events:
            if isinstance(event, ToolCallStart):
                calls.append((event.name, ""))
            elif isinstance(event, ToolCallDelta):
                calls[-1] = (calls[-1][0], calls[-1][1] + event.arguments)
        return Answer(
            reasoning="".join(event.text for event in events if isinstance(event, ReasoningDelta)),
            content="".join(event.text for event in events if isinstance(event, ContentDelta)),
            calls=tuple(calls),
        )

    def _matcher(self, grammar: str | None) -> LLMatcher:
        assert grammar is not None
        if grammar not in self._matchers:
            self._matchers[grammar] = LLMatcher(self._tokenizer, grammar, log_level=0)
        matcher = self._matchers[grammar].deep_copy()
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def _allowed(self, matcher: LLMatcher) -> list[int]:
        mask = np.zeros((len(self.tokens) + 31) // 32, dtype=np.int32)
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        allowed = np.unpackbits(mask.view(np.uint8), count=len(self.tokens), bitorder="little")
        tokens: list[int] = np.flatnonzero(allowed).tolist()
        assert tokens, "the grammar allows nothing"
        return tokens

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = []
        start = 0
        for special in self._split.finditer(text):
            tokens += [*self(text[start : special.start()].encode()), self.special_tokens[special[0]]]
            start = special.end()
        return tokens + self(text[start:].encode())

    def _pieces(self, tokens: Sequence[int]) -> Iterator[tuple[str, bool]]:
        data = b""
        for token in tokens:
            if token >= self._bytes:
                data += self.tokens[token]
            elif token != _END:
                yield data.decode(), False
                yield self.tokens[token][1:].decode(), True
                data = b""
        yield data.decode(), False
