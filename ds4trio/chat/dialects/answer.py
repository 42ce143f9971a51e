"""Reads an answer of every dialect but Harmony: reasoning, content, and the markers between them.

A marker counts where it is legal, else it is text: a call's begin marker needs a well-formed call behind it, and a
known tool within reasoning or where words could stand there by chance; the start of reasoning needs a place where
nothing was said yet. Special tokens that are markers are never text, except before what looks like a call and is none.
The calls themselves are left to `CallReader`.
"""

import re

from ds4trio.chat.dialects.calls import CallReader, JsonCalls, NamedCalls, PythonCalls, gemma4
from ds4trio.chat.dialects.cursor import Markers, Step
from ds4trio.chat.dialects.literals import JSON
from ds4trio.chat.dialects.minimax_m3 import MinimaxCalls
from ds4trio.chat.dialects.reading import Reading
from ds4trio.chat.dialects.tagged import TaggedCalls

__all__ = ["Answer"]

_WORDS = re.compile(r"[\w\s=>]+")
"""A marker that text may well hold by chance, so that only a known tool tells."""
_LONGEST_NOISE = 128
"""Text between the begin of a section and its first call that is forgiven."""


class Answer:
    """Reads one answer. ``specials`` are the characters that stand for special tokens, ``quote`` is Gemma 4's."""

    def __init__(self, reading: Reading, specials: frozenset[str], quote: str) -> None:
        dialect = reading.dialect
        self._reading = reading
        self._specials = specials
        self._calls = _call_reader(reading, quote)
        self._section, section_end = dialect.section_markers
        self._section_ends = {section_end} - {""}
        self._call_begins = {dialect.call_begin.strip(), self._calls.opener} - {""}
        self._call_ends = {dialect.call_end.strip()} - {""}
        self._openers = ({self._section, *dialect.openers} | self._call_begins) - {""}
        self._think_starts = {dialect.think_start.strip()} - {""}
        self._think_ends = {end.strip() for end in dialect.think_ends} - {""}
        self._wrappers = set(dialect.wrappers)
        self._wrapped = False  # content has begun with a wrapper
        self._called = False  # there was a call
        in_reasoning = self._think_starts | self._think_ends | self._openers
        self._ends = self._section_ends | self._call_ends | ({dialect.tail.strip()} - {""})
        self._in_reasoning = Markers(in_reasoning | self._wrappers)
        self._in_content = Markers(in_reasoning | self._wrappers | self._ends)
        self._begins = Markers(self._call_begins)
        self._list = Markers(["["] if dialect.codec in ("json", "pythonic") else [])
        self._after_call = Markers(self._section_ends | self._call_ends | self._call_begins | set(self._calls.between))

    def read(self, prompt_end: str) -> Step[None]:
        """Read all of it. ``prompt_end`` is what stands before it."""
        cursor, output = self._reading.cursor, self._reading.output
        yield from self._begin(prompt_end.rstrip())
        while True:
            content = output.channel == "content"
            if content and self._reading.dialect.bare and output.fresh and (yield from self._bare()):
                continue
            text, found = yield from cursor.until(self._in_content if content else self._in_reasoning)
            if text:
                output.say(text)
            if found:
                yield from self._marker(found)
            elif not text:
                return

    def _begin(self, prompt_end: str) -> Step[None]:
        """Go on from the marker that the prompt ends with, if it does."""
        output = self._reading.output
        opener = next((opener for opener in self._openers if prompt_end.endswith(opener)), "")
        if prompt_end.endswith(tuple(self._think_starts)):
            output.switch("reasoning")
        elif prompt_end.endswith((*self._think_ends, *self._wrappers)):
            self._wrapped = prompt_end.endswith(tuple(self._wrappers))
            output.marker()
        elif opener:
            rest = [wrapper.removeprefix(opener) for wrapper in self._wrappers if wrapper.startswith(opener)]
            if not (yield from self._reading.cursor.at(Markers(rest))):
                yield from self._opener("", known_only=True)

    def _bare(self) -> Step[bool]:
        """Try to read calls without a marker where the answer begins like one; False if it does not."""
        cursor, output = self._reading.cursor, self._reading.output
        space = yield from cursor.space()
        if space:
            output.say(space)
        char = yield from cursor.peek()
        if not self._reading.schemas or not char or char not in self._calls.first:
            return False
        yield from self._opener("", known_only=True)
        return True

    def _marker(self, found: str) -> Step[None]:
        """Do what a marker means, or say it if it means nothing here."""
        output = self._reading.output
        special = not self._specials.isdisjoint(found)
        free = special or output.fresh
        if found in self._openers and self._reading.schemas:
            certain = found not in ("", self._calls.opener) and not _WORDS.fullmatch(found)
            yield from self._opener(found, known_only=not certain or output.channel == "reasoning")
        elif output.channel == "reasoning" and found in self._think_ends:
            output.switch("content")
        elif found in self._think_starts and free:
            output.switch("reasoning")
        elif found in self._wrappers and (free or self._wrapped):
            self._wrapped = True
            output.switch("content")
        elif special or (free and found in self._think_ends) or (free and found in self._ends and self._called):
            output.marker()
        else:
            output.say(found)

    def _opener(self, opener: str, *, known_only: bool) -> Step[None]:
        """Read the calls behind ``opener``; say it if there are none."""
        reading, cursor = self._reading, self._reading.cursor
        reading.known_only, reading.structural = known_only, True
        cursor.mark(back=len(opener))
        begun = opener
        in_section = bool(opener) and opener == self._section
        if in_section:
            yield from cursor.space()
            if (yield from cursor.at(Markers(self._section_ends))):
                cursor.forget()
                reading.output.marker()
                return
            begun = yield from cursor.at(self._begins)
            if not begun and self._call_begins:  # some models stammer here
                _, begun = (yield from cursor.before(self._begins, _LONGEST_NOISE)) or ("", "")
        yield from cursor.space()
        in_list = bool((yield from cursor.at(self._list)))
        while True:
            if not (yield from self._calls.read(begun=bool(begun) and begun == self._calls.opener)):
                text = cursor.marked()
                if known_only or not cursor.closed or cursor.waiting:
                    reading.output.say(text)
                break  # a call that was cut off before its name was known is nothing
            self._called = reading.structural = True
            cursor.mark()
            begun, another = yield from self._gap(in_section=in_section, in_list=in_list)
            if not another:
                break
        reading.structural = False

    def _gap(self, *, in_section: bool, in_list: bool) -> Step[tuple[str, bool]]:
        """What stands behind a call: the marker that begins the next one, and whether there is one.

        Text behind the last end marker stays unread.
        """
        cursor = self._reading.cursor
        comma = False
        while True:
            yield from cursor.space()
            found = yield from cursor.at(self._after_call)
            if found in self._call_begins:
                return found, True
            if not found:
                char = yield from cursor.peek()
                if char and (char in self._calls.first or (comma and char.isidentifier())):
                    return "", True
                cursor.rewind()
                return "", False
            if found in self._section_ends or (found in self._call_ends and not in_section):
                cursor.forget()
                return "", False
            if found in self._call_ends or (found == "]" and in_list):
                cursor.forget()
                cursor.mark()
            comma = found == ","


def _call_reader(reading: Reading, quote: str) -> CallReader:
    match reading.dialect.codec:
        case "json":
            return JsonCalls(reading)
        case "named":
            return NamedCalls(reading, JSON)
        case "gemma4":
            return NamedCalls(reading, gemma4(quote))
        case "pythonic":
            return PythonCalls(reading)
        case "minimax_m3":
            return MinimaxCalls(reading)
        case _:
            return TaggedCalls(reading)
