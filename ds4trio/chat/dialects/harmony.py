"""gpt-oss's messages: a header with a role, a channel and a recipient, then the text, then what ends it.

``analysis`` is reasoning, every other channel is content, and a message to ``functions.NAME`` is a call, whatever its
channel. The recipient stands before or behind the channel. Messages to the model's own tools (``python``, ``browser``)
are dropped: nobody runs these here. So are headers that never come to their message.
"""

import re
from collections.abc import Mapping

from ds4trio.chat.dialects.cursor import Markers, Step
from ds4trio.chat.dialects.literals import JSON
from ds4trio.chat.dialects.reading import Reading

__all__ = ["harmony"]

_RECIPIENT = re.compile(r"\bto=([\w.\-/:]+)")
_BARE_HEADER = re.compile(r"\s*(?:t|to|to=\S*\s*\w{0,16})?")
"""What a header that the prompt began may have before its first marker; other text is content that has no header."""
_LONGEST_HEADER = 512
_PEOPLE = ("assistant", "user", "all")
"""Recipients that are no tools: what they get is text."""


def harmony(reading: Reading, marks: Mapping[str, str], prompt_end: str) -> Step[None]:
    """Read one answer. ``marks`` are the markers as they come in, ``prompt_end`` is what stands before it."""
    cursor, output = reading.cursor, reading.output
    channel = marks["<|channel|>"]
    ends = [marks[name] for name in ("<|end|>", "<|call|>", "<|return|>")]
    in_text = Markers(ends)
    after_text = Markers([marks["<|start|>"], channel])
    reading.ends = in_text
    begun = prompt_end.rfind(marks["<|start|>"])
    prefix = prompt_end[begun:] if begun >= 0 and marks["<|message|>"] not in prompt_end[begun:] else ""
    while (header := (yield from _header(reading, marks, prefix))) is not None:
        prefix = ""
        reading.structural = False
        recipient = _RECIPIENT.findall(header)[-1:]
        name = recipient[0].removeprefix("functions.") if recipient else ""
        if name and reading.schemas and (name != recipient[0] or name in reading.schemas) and reading.start(name):
            yield from cursor.space()
            output.end(complete=(yield from cursor.look(in_text)) or (yield from reading.value(JSON)))
            dropped = True
        elif header.rpartition(channel)[2].lstrip().startswith("analysis"):
            output.switch("reasoning")
            dropped = bool(name) and name not in _PEOPLE
        else:
            output.switch("content")
            dropped = bool(name) and name not in _PEOPLE
        while True:
            text, found = yield from cursor.until(in_text)
            if not dropped:
                output.say(text)
            if found:
                if len(found) == 1:  # a special token
                    break
                # Text may spell a marker; only where a message follows, or nothing, has this one ended.
                space = yield from cursor.space()
                if (yield from cursor.look(after_text)) or not (yield from cursor.peek()):
                    break
                if not dropped:
                    output.say(found + space)
            elif not text:
                return
        output.switch("content")


def _header(reading: Reading, marks: Mapping[str, str], header: str) -> Step[str | None]:
    """The rest of a header up to its message, None at the end. Text that is no header is said."""
    cursor, output = reading.cursor, reading.output
    ends = {marks[name] for name in ("<|end|>", "<|call|>", "<|return|>")}
    in_header = Markers(marks.values())
    marked, headless, pending = False, False, ""  # a marker of this header has come; its text is none; text since then
    while True:
        reading.structural = marked
        text, found = yield from cursor.until(in_header)
        pending += text
        headless = headless or len(pending) > _LONGEST_HEADER or not (marked or _BARE_HEADER.fullmatch(pending))
        if headless or not (marked or text or found or "to=" in pending):
            output.channel = "content"
            output.say(pending)
            pending = ""
        if found == marks["<|message|>"]:
            return header + pending
        if found == marks["<|start|>"]:
            marked, headless, header, pending = True, False, found, ""
        elif found in ends:
            marked, headless, header, pending = False, False, "", ""
        elif found:
            marked, headless, header, pending = True, False, header + pending + found, ""
        elif not text:
            return None
