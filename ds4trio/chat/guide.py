"""How the next token is drawn, from what the text means so far: the chat room's side of the engine's `Guide`.

Two rules. The structure of a tool call (tags, names, punctuation) is drawn greedily, since a creative angle bracket
helps nobody; its payload, and everything else, with the request's settings. And reasoning that has spent its budget is
ended by force.
"""

from ds4trio.chat.dialects import DialectReader

__all__ = ["AnswerGuide"]


class AnswerGuide:
    """Implements the engine's ``Guide``. Lives on the thread that computes, so its reader is its own.

    ``budget`` is in tokens, None for no bound; ``think_end`` is the text that ends the reasoning.
    """

    def __init__(self, reader: DialectReader, *, budget: int | None, think_end: str) -> None:
        self._reader = reader
        self._left = budget if think_end else None
        self._think_end = think_end

    def observe(self, text: str, *, special: bool) -> None:
        """Take the text of one token."""
        if self._reader.reasoning and self._left is not None:
            self._left -= 1
        self._reader.feed(text, special=special)

    @property
    def greedy(self) -> bool:
        """Whether a call's structure is being written."""
        return self._reader.structural

    @property
    def forced(self) -> str:
        """The end of the reasoning, once its budget is spent."""
        if self._left is None or self._left > 0 or not self._reader.reasoning:
            return ""
        self._left = None  # a reader that did not take the end for one would otherwise be told again and again
        return self._think_end
