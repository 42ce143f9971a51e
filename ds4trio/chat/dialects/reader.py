"""The reader of one answer as the rest of the server sees it: text and special tokens in, events out.

Special tokens are single characters inside this package: each one that the dialect knows is replaced by a character of
the last private-use plane as it comes in, and the dialect's row is translated the same way once. So a marker that is a
special token is found only as that token, never in text that spells it, and everything else is plain text.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from ds4trio.chat.dialects.answer import Answer
from ds4trio.chat.dialects.cursor import Cursor
from ds4trio.chat.dialects.harmony import harmony
from ds4trio.chat.dialects.output import Output
from ds4trio.chat.dialects.reading import Reading
from ds4trio.chat.dialects.rows import GEMMA4_QUOTE, HARMONY_MARKERS, Dialect
from ds4trio.chat.events import OutputEvent
from ds4trio.chat.messages import Tool

__all__ = ["DialectReader"]

_FIRST_SPECIAL = 0x10F000
_SPECIALS = 0xFFE
"""Special tokens that can be told apart: as many as private-use characters are left in the last plane."""
_FOREIGN = dict.fromkeys(range(_FIRST_SPECIAL, _FIRST_SPECIAL + _SPECIALS), "\N{REPLACEMENT CHARACTER}")
_CERTAIN_PARTIAL = 3
"""Characters of a marker after which it is likelier than text that happens to begin like one."""


class DialectReader:
    """Implements `Reader` for one dialect.

    ``prompt_end`` are the last characters of the rendered prompt: the answer may begin within the reasoning.
    ``special_tokens`` are the texts that are special tokens in the model's vocabulary; those in
    `Dialect.special_markers` have to be fed with ``special=True`` to count. Without ``tools`` nothing is a call.
    """

    def __init__(
        self, dialect: Dialect, *, tools: Sequence[Tool], prompt_end: str, special_tokens: Collection[str] = ()
    ) -> None:
        specials = sorted(dialect.special_markers(special_tokens), key=len, reverse=True)[:_SPECIALS]
        self._specials = {text: chr(_FIRST_SPECIAL + index) for index, text in enumerate(specials)}
        self._cursor = Cursor()
        self._output = Output({ord(char): text for text, char in self._specials.items()}, calls=bool(tools))
        row = _translated(dialect, self._specials)
        self._reading = Reading(self._cursor, self._output, row, tools)
        translated_end = _in_specials(prompt_end, self._specials)
        if dialect.codec == "harmony":
            marks = {marker: _in_specials(marker, self._specials) for marker in HARMONY_MARKERS}
            self._steps = harmony(self._reading, marks, translated_end)
        else:
            quote = _in_specials(GEMMA4_QUOTE, self._specials)
            self._steps = Answer(self._reading, frozenset(self._specials.values()), quote).read(translated_end)
        next(self._steps)

    def feed(self, text: str, *, special: bool = False) -> list[OutputEvent]:
        """Take a piece of text and say what is certain now.

        ``special``: it is one special token. One that is no marker is dropped if it looks like a control token.
        """
        if special and (char := self._specials.get(text)):
            text = char
        elif special and _is_control(text):
            return []
        elif not text.isascii():
            text = text.translate(_FOREIGN)
        if text:
            self._cursor.push(text)
            next(self._steps)
        return self._output.take()

    def finish(self) -> list[OutputEvent]:
        """The answer is complete: say what the rest is. A call that was cut off gets its end here, too."""
        self._cursor.closed = True
        next(self._steps, None)
        self._output.close()
        return self._output.take()

    @property
    def reasoning(self) -> bool:
        """Whether the text read so far ends within the reasoning."""
        return self._output.channel == "reasoning" and not self._output.calling

    @property
    def structural(self) -> bool:
        """Whether what comes next is structure: markers, names, punctuation; not text, reasoning or a value."""
        return self._reading.structural or self._cursor.partial >= _CERTAIN_PARTIAL


def _is_control(text: str) -> bool:
    return text[:1] + text[-1:] in ("<>", "[]")


def _in_specials(text: str, specials: Mapping[str, str]) -> str:
    for token, char in specials.items():
        text = text.replace(token, char)
    return text


def _translated(dialect: Dialect, specials: Mapping[str, str]) -> Dialect:
    changed: dict[str, object] = {}
    for field in dataclasses.fields(dialect):
        value = getattr(dialect, field.name)
        if isinstance(value, str) and field.name != "codec":
            changed[field.name] = _in_specials(value, specials)
        elif isinstance(value, tuple):
            changed[field.name] = tuple(_in_specials(text, specials) for text in value)
    return dataclasses.replace(dialect, **changed)  # type: ignore[arg-type]
