"""An answer from its first token to its last: reasoning, then text, formatted content or calls.

Reasoning and text are free, but for one thing: a marker that begins calls begins constrained ones, and what the reader
would take for a call without that marker does not occur.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from ds4trio.chat.dialects.rows import Dialect
from ds4trio.chat.grammar.calls import Calls
from ds4trio.chat.grammar.source import ANY_TEXT, Source, choice, sequence

__all__ = ["Reasoning", "answer"]

Reasoning = Literal["closed", "open", "may_begin"]
"""How the prompt left the reasoning: there is none, it has begun, or the answer may begin it."""

_SPACE = r"/[ \n]{1,4}/"
"""What models write behind their reasoning."""


def answer(
    source: Source,
    dialect: Dialect,
    *,
    calls: Calls | None,
    content: str | None,
    must_call: bool,
    known: tuple[str, ...],
    reasoning: Reasoning,
    begun: str,
) -> str:
    """A whole answer in any dialect but Harmony's.

    ``content`` is what an answer without calls has to be, None for any text; ``calls`` is None where there must be
    none. ``known`` are the names of all tools that the reader knows. ``begun`` is the marker of a call that the prompt
    ends with.
    """
    begins = frozenset(_begins(dialect, known)) if known else frozenset()
    parts = _Answer(source=source, dialect=dialect, calls=calls, content=content, must_call=must_call, begins=begins)
    return parts.behind(begun) if begun else parts.whole(reasoning)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """The arguments of `answer`, and the texts that must not occur where text is free."""

    source: Source
    dialect: Dialect
    calls: Calls | None
    content: str | None
    must_call: bool
    begins: Collection[str]

    def behind(self, begun: str) -> str:
        """The answer behind a marker of the prompt: the rest of a call or of a wrapper that begins like one."""
        source = self.source
        wrappers = [wrapper for wrapper in self.dialect.wrappers if wrapper.startswith(begun)]
        options = [self.calls.after(begun)] if self.calls is not None else []
        if not self.must_call:
            said = choice(self._free()) if self.content is None else self.content
            options += [sequence(source.literal(wrapper.removeprefix(begun)), said) for wrapper in wrappers]
        return choice(options or [self._visible()])

    def whole(self, reasoning: Reasoning) -> str:
        """The answer from its first token on."""
        visible = self.source.rule(self._visible())
        if reasoning == "closed" or not self.dialect.think_ends:
            return visible
        thinking = self.source.rule(self._thinking(visible))
        if reasoning == "open":
            return thinking
        return choice([visible, sequence(self.source.literal(self.dialect.think_start.strip()), thinking)])

    def _thinking(self, visible: str) -> str:
        """The rest of the answer from within the reasoning on. A call may begin before the reasoning has ended."""
        source, calls = self.source, self.calls
        if self.must_call or self.content is not None:
            space = f"({source.terminal(_SPACE)})?"
            visible = sequence(space, self._wrapped(space), visible)
        ends = [source.until(end.strip(), without=self.begins) for end in self.dialect.think_ends]
        options = [sequence(choice(ends), visible)]
        if calls is not None and calls.trigger:
            options.append(sequence(source.until(calls.trigger, without=self.begins), calls.after(calls.trigger)))
        return choice(options)

    def _visible(self) -> str:
        """The answer without its reasoning."""
        calls = [self.calls.after("")] if self.calls is not None else []
        if self.must_call:
            return choice(calls)
        if self.content is None:
            return choice(self._free())
        return choice([sequence(self._wrapped(), self.content, self._wrapped()), *calls])

    def _wrapped(self, space: str = "") -> str:
        """Markers around content; a few of them, since a turn within the turn takes several."""
        wrappers = [self.source.literal(wrapper) for wrapper in self.dialect.wrappers]
        return f"({sequence(choice(wrappers), space)}){{0,3}}" if wrappers else ""

    def _free(self) -> Iterator[str]:
        """The ways to write text with calls at its end."""
        source, calls = self.source, self.calls
        special = [wrapper for wrapper in self.dialect.wrappers if not source.is_text(wrapper)]
        wrapper = choice(map(source.literal, special)) if special else ""
        text = source.text(without=self.begins)
        text_before = f"({sequence(text, wrapper)})*" if wrapper else ""
        if calls is None:
            yield sequence(text_before, text)
            return
        if calls.trigger:
            before = source.until(calls.trigger, without=self.begins)
            yield sequence(text_before, text)
            yield sequence(text_before, before, calls.after(calls.trigger))
        else:
            # Without a marker only the beginning can tell text from calls.
            text = source.terminal(rf"/[ \n]*/ (/[^ \n{re.escape(calls.first)}]/ {ANY_TEXT})?")
            text_before = ""
            yield sequence(text, f"({sequence(wrapper, source.text())})*" if wrapper else "")
            yield sequence(f"({source.terminal(_SPACE)})?", calls.after(""))
        for opener in self.dialect.openers:
            if not source.is_text(opener):
                yield sequence(text_before, text, source.literal(opener), calls.after(""))


def _begins(dialect: Dialect, known: tuple[str, ...]) -> Iterator[str]:
    """Texts that the reader takes for the beginning of a call. Plain words are left out: they occur in any text."""
    for marker in (dialect.section_markers[0], dialect.call_begin.strip(), *dialect.openers):
        if not marker.isalnum():
            yield marker
    tag = re.split(r"\{(?:id|index)\}", dialect.head_parts[0])[-1].strip()
    if not re.fullmatch(r"[\w.]*", tag):
        yield from (tag + name for name in known)
