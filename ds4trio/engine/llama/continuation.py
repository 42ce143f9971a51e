"""What comes after the prompt of one sequence: each next token decided and turned into text.

Who has a say, in this order: the guide may force the next tokens or want the likeliest one; the grammar forbids
tokens; the sampler draws from what is left. All of it only moves forward, on tokens that are part of the answer, so a
batch that was aborted or is computed again changes nothing here, and an answer may stop between two tokens and go on
another time. Used by the worker thread only, but for `close`. It does not keep the prompt.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ds4trio.engine.answer_text import AnswerText, guidance
from ds4trio.engine.base import GenerationRequest, TokenLogprob
from ds4trio.engine.batching import Extension
from ds4trio.engine.llama.context import Logits
from ds4trio.engine.llama.grammar import Grammar
from ds4trio.engine.llama.sampler import Sampler
from ds4trio.engine.llama.vocabulary import Vocabulary

__all__ = ["Continuation"]

# Logits this close to the highest nearly always hold all the alternatives that anybody asks for.
NEAR = 12.0


class Continuation:
    """Implements `Writer`: writes the answer to one request. `close` frees what it holds in C."""

    def __init__(
        self, request: GenerationRequest, *, vocabulary: Vocabulary, grammar: Grammar | None, context_length: int
    ) -> None:
        self._markers = request.markers
        self._top_logprobs = request.top_logprobs
        self._vocabulary = vocabulary
        self._grammar = grammar
        self._guide = request.guide
        self._limit = min(request.max_tokens, context_length - len(request.prompt))
        self._sampler = Sampler(
            request.sampling,
            vocabulary_size=vocabulary.size,
            prompt=request.prompt,
            max_tokens=request.max_tokens,
            # A grammar says itself where an answer ends; there it may leave nothing but the end.
            bias=dict.fromkeys(vocabulary.end_tokens, -np.inf) if request.ignore_eos and grammar is None else {},
        )
        self._answer = AnswerText(request)

    @property
    def sampled(self) -> int:
        """Tokens of the answer so far, the one that ended it included."""
        return self._answer.sampled

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the answer, or None."""
        return self._answer.stopped

    def extend(self, row: Logits) -> Extension:
        """Continue the answer by at least one token, from the logits of a batch's row.

        Raises `EngineError` when the guide or the grammar fails.
        """
        extension = Extension([], [])
        self._force(extension)
        if not extension.tokens and extension.reason is None:
            token, logprob = self._draw(row)
            self._take(token, logprob, extension)
            self._force(extension)
        if extension.reason is not None:
            extension.deltas += self._answer.finish()
        return extension

    def close(self) -> None:
        """Free the sampler; safe to call twice."""
        self._sampler.close()

    def _force(self, extension: Extension) -> None:
        """Append what the guide wants, as long as it wants something."""
        if self._guide is None:
            return
        while extension.reason is None and (tokens := self._wanted()):
            for token in tokens:
                self._sampler.accept(token)
                self._take(token, self._certain(token), extension)
                if extension.reason is not None:
                    break

    def _wanted(self) -> list[int]:
        assert self._guide is not None
        with guidance():
            text = self._guide.forced
            return self._vocabulary.tokenize(text, add_special=False) if text else []

    def _draw(self, row: Logits) -> tuple[int, TokenLogprob | None]:
        raw: npt.NDArray[np.float32] | None = None
        if self._top_logprobs is not None:
            raw = row.array().copy()
        if self._grammar is not None:
            self._grammar.restrict(row.array())
        draw: Callable[..., int] = self._sampler.sample
        if self._guide is not None:
            with guidance():
                draw = self._sampler.likeliest if self._guide.greedy else draw
        token = draw(row.context, row.row)
        return token, None if raw is None else self._logprob(token, raw)

    def _take(self, token: int, logprob: TokenLogprob | None, extension: Extension) -> None:
        """Make ``token`` a part of the answer."""
        answer = self._answer
        if token in self._vocabulary.end_tokens:
            answer.end()
            extension.reason = "stop"
            return
        extension.tokens.append(token)
        marker = self._markers.get(token)
        data = self._vocabulary.piece(token) if marker is None else b""
        extension.deltas += answer.take(token, data, marker=marker, logprob=logprob)
        if self._grammar is not None:
            self._grammar.accept(token)
        if answer.stopped is not None or (self._grammar is not None and self._grammar.complete):
            extension.reason = "stop"
        elif answer.sampled >= self._limit:
            extension.reason = "length"

    def _logprob(self, token: int, logits: npt.NDArray[np.float32]) -> TokenLogprob:
        """The log-softmax of the model's own logits at ``token`` and at the likeliest tokens."""
        highest = logits.max()
        normalizer = float(highest) + float(np.log(np.exp(logits - highest).sum(dtype=np.float64)))
        likeliest = _likeliest(logits, highest, self._top_logprobs or 0)
        each = (TokenLogprob(other, self._bytes(other), float(logits[other]) - normalizer) for other in likeliest)
        return TokenLogprob(token, self._bytes(token), float(logits[token]) - normalizer, tuple(each))

    def _certain(self, token: int) -> TokenLogprob | None:
        """A forced token had no alternative."""
        return None if self._top_logprobs is None else TokenLogprob(token, self._bytes(token), 0.0)

    def _bytes(self, token: int) -> bytes:
        return self._vocabulary.piece(token, special=True)


def _likeliest(logits: npt.NDArray[np.float32], highest: np.float32, count: int) -> list[int]:
    """The ``count`` likeliest tokens, likeliest first. Partitioning all of a vocabulary would take 0.4 ms."""
    near = np.flatnonzero(logits >= highest - NEAR)
    if len(near) < count:
        near = np.arange(len(logits))
    order = np.argsort(-logits[near], kind="stable")[:count]
    likeliest: list[int] = near[order].tolist()
    return likeliest
