"""How a template closes an assistant's turn: where in a rendered text an answer ends and the template goes on.

Found out by rendering marked messages once for each model. A closing is what stands between the last that a message
says and the control token after it: nothing in most turns of text, the brackets and tags that close a call. What
differs with the arguments (the last one's quotes, for instance) is left out, and found again by the control token.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from ds4trio.chat.capabilities import Capabilities
from ds4trio.chat.dialects import Dialect
from ds4trio.chat.messages import Conversation, Message, Tool, ToolCall
from ds4trio.chat.replay.marks import marked, unmarked
from ds4trio.chat.template import TemplateFailedError

__all__ = ["Closing", "Endings", "find_endings"]

# Words that no template writes by itself.
_USER, _NEXT_USER, _SAID = (
    Message("user", "quokkaask"),
    Message("user", "wombatagain"),
    Message("assistant", "tapirsay"),
)
_TOOL, _RESULT = "gibbontool", "emuresult"
_SCHEMA = {"type": "object", "properties": {"dingokey": {"type": "string", "description": "d"}}}
_TOOLS = (Tool(_TOOL, "d", _SCHEMA),)
_CALLS = (("zebraid01", '{"dingokey": "kiwivalue"}'), ("llamaid12", '{"dingokey": 5}'), ("hyenaid23", "{}"))
_THOUGHT = "narwhalthought"
# What the last argument may add to the text beside its own characters: escapes, a schema's type.
_SLACK = 200
# Characters between the last control token of a prompt and the answer.
_LONGEST_OPENING = 64
_NEVER = re.compile("(?!)")


@dataclass(frozen=True, slots=True)
class Closing:
    """What closes a turn, and the control token that follows.

    ``last`` is the control token that the text ends with, if it does, and ``whole`` says that it is all of a marker.
    ``follow`` may be sampled, too, where it is a ``wrapper``.
    """

    text: str
    follow: str
    wrapper: bool
    last: str
    whole: bool

    def end(
        self, text: str, at: int, tokens: Sequence[int], special_tokens: Mapping[str, int], *, room: int
    ) -> int | None:
        """Where the answer ends whose last word ends ``at``, None if it cannot be told.

        At most ``room`` characters of arguments stand before the closing. What ended the answer is none of its
        ``tokens``, so it is the first that is left in the text.
        """
        closing = self.text + self.follow
        found = text.find(closing, at, at + len(closing) + room)
        if found < 0:
            return None
        end = found + len(self.text)
        if self.wrapper and special_tokens.get(self.follow) == tokens[-1]:
            return end + len(self.follow)
        if self.last and special_tokens.get(self.last) not in tokens:
            return end - len(self.last) if self.whole else None
        return end


@dataclass(frozen=True, slots=True, kw_only=True)
class Endings:
    """The closings of a template, None where there is no telling.

    ``json_text`` arguments reach the text as they are. ``single_calls``: parallel calls are written as turns of their
    own. ``reasoning`` is a part of the message, or the template knows none and leaves it ``inline`` where the model has
    put it, or takes it away. ``head`` matches the marks of reasoning at the end of a prompt, ``tokens`` the control
    tokens, ``outer`` those that no answer holds, ``turn_end`` those and what else may follow a turn.
    """

    said: Closing | None = None
    called: Closing | None = None
    json_text: bool = False
    single_calls: bool = False
    reasoning: Literal["message", "inline", "none"] = "none"
    head: re.Pattern[str] = re.compile(r"\Z")
    tokens: re.Pattern[str] = _NEVER
    outer: re.Pattern[str] = _NEVER
    turn_end: re.Pattern[str] = _NEVER

    def same_turn(self, text: str, start: int, word: int) -> bool:
        """Whether the turn of ``text`` that begins before ``start`` is the one that has ``word`` in it."""
        if self.outer.search(text, start, word):
            return False
        if all(self.outer.fullmatch(closing.follow) for closing in (self.said, self.called) if closing is not None):
            return True
        # Turns of this model end with what may stand within one, too; but none begins within another.
        begins = [token.start() for token in self.tokens.finditer(text, max(0, start - _LONGEST_OPENING), start)]
        return not begins or text.find(text[begins[-1] : start], start, word) < 0

    def end(
        self, text: str, at: int, message: Message, tokens: Sequence[int], special_tokens: Mapping[str, int]
    ) -> int | None:
        """Where in ``text`` the ``tokens`` end that ``message`` was made of; its last word ends ``at``."""
        calls = message.tool_calls
        closing = self.called if calls else self.said
        if closing is None or (len(calls) > 1 and self.single_calls):
            return None
        room = 2 * len(calls[-1].arguments) + _SLACK if calls else 0
        end = closing.end(text, at, tokens, special_tokens, room=room)
        # A turn that is closed in another way ends before the next one that is closed in this way.
        return None if end is None or self.turn_end.search(text, at, end - 1) else end


def find_endings(
    render: Callable[[Conversation], str], can: Capabilities, dialect: Dialect, control_tokens: Collection[str]
) -> Endings:
    """The endings of a template. ``control_tokens`` are the texts of those that no message can hold. Never raises."""
    json_text = can.arguments == "text"
    tokens = _any_of(control_tokens)

    def gap(message: Message, follow: Message, *others: Message, tools: tuple[Tool, ...] = ()) -> str | None:
        messages = (_USER, marked(1, message, json_text=json_text), follow, *others)
        try:
            text, marks = unmarked(render(Conversation(messages=messages, tools=tools)))
        except TemplateFailedError:
            return None
        end = marks.ends.get(1, len(text))
        following = text.find(follow.content, end)
        return text[end:following] if following >= 0 else None

    def called(call_id: str, arguments: str) -> str | None:
        caller = Message("assistant", tool_calls=(ToolCall(call_id, _TOOL, arguments),))
        result = Message("tool", _RESULT, tool_call_id=call_id, name=_TOOL)
        return gap(caller, result, _SAID, _NEXT_USER, tools=_TOOLS)

    said = _closing([gap(_SAID, _NEXT_USER)], (), dialect, tokens)
    calling = _closing([called(*call) for call in _CALLS], _call_ends(dialect), dialect, tokens)
    reasoning: Literal["message", "inline", "none"] = "inline" if _keeps_inline(render, dialect) else "none"
    outer = {token for token in control_tokens if not any(token in marker for marker in dialect.markers)}
    return Endings(
        said=said,
        called=calling,
        json_text=json_text,
        single_calls=not can.parallel_calls,
        reasoning="message" if can.reasoning else reasoning,
        head=_head(dialect),
        tokens=tokens,
        outer=_any_of(outer),
        turn_end=_any_of(outer | {closing.follow for closing in (said, calling) if closing is not None}),
    )


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or _NEVER.pattern)


def _head(dialect: Dialect) -> re.Pattern[str]:
    marks = filter(None, (dialect.think_start.strip(), *map(str.strip, dialect.think_ends)))
    return re.compile(rf"(?:(?:{'|'.join(map(re.escape, marks)) or _NEVER.pattern})\s*)*\Z")


def _call_ends(dialect: Dialect) -> tuple[str, ...]:
    """What ends the calls of an answer, the outermost first."""
    ends = (dialect.section_markers[1], dialect.section_end, dialect.call_end, dialect.tail)
    return tuple(filter(None, map(str.strip, ends)))


def _closing(
    gaps: Sequence[str | None], ends: tuple[str, ...], dialect: Dialect, tokens: re.Pattern[str]
) -> Closing | None:
    """What the gaps have in common, up to the first control token behind the last thing that the model writes."""
    closings = [_closed(gap, ends, dialect, tokens) if gap is not None else None for gap in gaps]
    # What stands behind the name of a call without arguments is not always what closes it.
    follows = {closing[1] for closing in closings[:2] if closing is not None}
    alike = [closing[0] for closing in closings if closing is not None and closing[1] in follows]
    if len(follows) != 1 or None in closings[:2]:
        return None
    text, follow = _common_end(alike), follows.pop()
    last = next((token.group() for token in tokens.finditer(text) if token.end() == len(text)), "")
    return Closing(text, follow, follow in dialect.wrappers, last, last in (*ends, *dialect.wrappers))


def _common_end(texts: Sequence[str]) -> str:
    backwards = zip(*(reversed(text) for text in texts), strict=False)
    size = sum(1 for _ in takewhile(lambda characters: len(set(characters)) == 1, backwards))
    return texts[0][len(texts[0]) - size :]


def _closed(gap: str, ends: tuple[str, ...], dialect: Dialect, tokens: re.Pattern[str]) -> tuple[str, str] | None:
    """The closing in one gap, and the control token behind it."""
    start = next((gap.find(end) + len(end) for end in ends if end in gap), 0)
    while wrapper := next((each for each in dialect.wrappers if gap.startswith(each, start)), ""):
        if tokens.fullmatch(wrapper):
            break
        start += len(wrapper)
    token = tokens.search(gap, start)
    return None if token is None else (gap[: token.start()], token.group())


def _keeps_inline(render: Callable[[Conversation], str], dialect: Dialect) -> bool:
    end = next(iter(dialect.think_ends), "")
    thinker = replace(_SAID, content=f"{dialect.think_start}{_THOUGHT}{end}{_SAID.content}")
    try:
        return _THOUGHT in render(Conversation(messages=(_USER, thinker, _NEXT_USER)))
    except TemplateFailedError:
        return False
