"""From sampled tokens to the deltas of an answer: what both engines do with a token once they have it.

A token may end inside a UTF-8 character, a stop string may begin in one token and end in another, and a marker must
never be taken for a text that spells it. The guide sees every character as soon as it is complete; a delta carries it
as soon as it is final. Pure: no clock, no engine.
"""

import codecs
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ds4trio.engine.base import EngineError, GenerationRequest, TextDelta, TokenLogprob
from ds4trio.engine.text import Piece, StopFilter

__all__ = ["AnswerText", "guidance"]


@contextmanager
def guidance() -> Iterator[None]:
    """Around a question to a guide: whatever it raises fails its own request only, as `EngineError`."""
    try:
        yield
    except Exception as error:
        raise EngineError(f"what guides the answer failed: {type(error).__name__}") from error


class AnswerText:
    """The text of the answer to one request as it grows.

    ``sampled`` counts its tokens. ``stopped`` is the stop string that ended the text, or None. Bytes that are no
    UTF-8 become U+FFFD.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self._guide = request.guide
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._filter = StopFilter(request.stop)
        self.sampled = 0
        self._read = 0
        self._given = 0
        self._tokens: list[int] = []
        """Those that no delta has carried."""
        self._logprobs: deque[tuple[int, TokenLogprob]] = deque()
        """Logprobs that no delta has carried, each with the place in the text where its token begins."""

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text, or None."""
        return self._filter.stopped

    def take(
        self, token: int, data: bytes, *, marker: str | None = None, logprob: TokenLogprob | None = None
    ) -> list[TextDelta]:
        """Take one token: its id, and the bytes that it stands for or, where it is a marker, the marker's text.

        Returns what is final by now. Raises `EngineError` when the guide fails.
        """
        self.sampled += 1
        self._tokens.append(token)
        pieces = [] if marker is None else self._feed(self._decoder.decode(b"", final=True))
        if logprob is not None:
            self._logprobs.append((self._read, logprob))
        if marker is None:
            pieces += self._feed(self._decoder.decode(data), observed=True)
        else:
            pieces += self._feed(marker, special=True, observed=True)
        return self._deltas(pieces)

    def end(self) -> None:
        """Count the token with which the model ended the answer; it has no text."""
        self.sampled += 1

    def finish(self) -> list[TextDelta]:
        """What was held back, now that nothing follows. Tokens behind a stop string are dropped, logprobs and all."""
        pieces = self._filter.feed(self._decoder.decode(b"", final=True))
        deltas = self._deltas([*pieces, *self._filter.finish()])
        if self._logprobs and self.stopped is None:
            rest = tuple(logprob for _, logprob in self._logprobs)
            last = deltas.pop() if deltas else TextDelta("", self.sampled)
            deltas.append(replace(last, logprobs=last.logprobs + rest))
        if self._tokens and self.stopped is None:
            last = deltas.pop() if deltas else TextDelta("", self.sampled)
            deltas.append(replace(last, tokens=last.tokens + self._carried()))
        return deltas

    def _feed(self, text: str, *, special: bool = False, observed: bool = False) -> list[Piece]:
        """Pass text on to the guide (``observed``: even if it is empty) and to the filter."""
        self._read += len(text)
        if self._guide is not None and (text or observed):
            with guidance():
                self._guide.observe(text, special=special)
        return self._filter.feed(text, special=special)

    def _deltas(self, pieces: Sequence[Piece]) -> list[TextDelta]:
        deltas = []
        for text, special in pieces:
            self._given += len(text)
            logprobs = self._due() if self._logprobs else ()
            deltas.append(TextDelta(text, self.sampled, special, logprobs, self._carried()))
        return deltas

    def _carried(self) -> tuple[int, ...]:
        """The ids for the next delta."""
        tokens = tuple(self._tokens)
        self._tokens.clear()
        return tokens

    def _due(self) -> tuple[TokenLogprob, ...]:
        """Logprobs of the tokens that begin in the text given so far."""
        due = []
        while self._logprobs and self._logprobs[0][0] < self._given:
            due.append(self._logprobs.popleft()[1])
        return tuple(due)
