"""Finds a template's dialect by rendering: what does it write around a call, two calls, a thought, a plain answer?

The conversations hold sentinels that occur in no template. What stands between them is cut into units, each a tag, a
word or white space, and compared: what two calls have in common around them belongs to a call, and what is not around
a plain answer belongs to the section. A template that cannot show what it expects is known by a text of its source.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ds4trio.chat.dialects.rows import HERMES, OVERRIDES, Dialect
from ds4trio.chat.template import ChatTemplate, TemplateFailedError

__all__ = ["derive"]

_NAMES = ("fnq_first", "fnq_second")
_KEYS = ("argq_one", "argq_two")
_VALUES = ("valq_a", "valq_b")
_ARGUMENTS = dict(zip(_KEYS, _VALUES, strict=True))
_IDS = ("idq000001", "idq000002")
_QUESTION, _THOUGHT, _ANSWER = "questionq", "thoughtq", "answerq"

_UNIT = re.compile(r"<[^<>]*>?|\[/?[A-Z_]+\]|\s+|[^<\[\s]+|\[")
_TAG = re.compile(r"<[^<>]*>|\[/?[A-Z_]+\]|\W+")
_NAME_IN_JSON = re.compile(r'\{\s*(?:"\w+":\s*"[^"{}]*",\s*)*"(\w+)":\s*"$')
_ARGUMENTS_IN_JSON = re.compile(r'^"\s*,\s*"(\w+)":\s*\{\s*"$')
_THINKS = re.compile(r"think|thought|reason", re.IGNORECASE)
_THINK_PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""How reasoning is written by templates that do not show it again."""


def derive(template: ChatTemplate, source: str) -> Dialect:
    """The dialect of ``template``, whose Jinja is ``source``. Never raises.

    A template that shows no calls, or none that can be understood, gets the Hermes row with its own thinking markers.
    """
    start, end = _thinking(template, source)
    row = next((row for text, row in OVERRIDES if text in source), None) or _calls(template, end) or HERMES
    if not row.think_start and row.codec != "harmony" and start:
        row = replace(row, think_start=start, think_ends=(end,))
    if "<response></response>" in source:  # Granite 3.3 is told so in words
        row = replace(row, wrappers=("<response>", "</response>"), openers=("<|tool_call|>",))
    if "</assistant>" in source:  # Laguna may spell its end token
        row = replace(row, stops=("</assistant>",))
    if "<![CDATA[" in source:
        row = replace(row, cdata=True)
    return row


def _turn(template: ChatTemplate, message: dict[str, Any]) -> str:
    """What the template writes behind the user's text for this answer of the model; empty if it refuses."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": "",
                "parameters": {"type": "object", "properties": {key: {"type": "string"} for key in _KEYS}},
            },
        }
        for name in _NAMES
    ]
    conversation = [{"role": "user", "content": _QUESTION}, {"role": "assistant", **message}]
    try:
        text = template.render(
            conversation, add_generation_prompt=False, tools=tools, functions=json.dumps(tools), datetime=""
        )
    except TemplateFailedError:
        return ""
    return text[text.rfind(_QUESTION) + len(_QUESTION) :]


def _calls_turn(template: ChatTemplate, count: int) -> str:
    """As `_turn`, for so many calls, in whatever shape the template takes them."""
    for arguments in (_ARGUMENTS, json.dumps(_ARGUMENTS)):
        for content in ("", None):
            calls = [
                {"id": _IDS[index], "type": "function", "function": {"name": _NAMES[index], "arguments": arguments}}
                for index in range(count)
            ]
            turn = _turn(template, {"content": content, "tool_calls": calls})
            if all(sentinel in turn for sentinel in (*_NAMES[:count], *_VALUES)):
                return turn.replace(_IDS[0], "{id}").replace(_IDS[1], "{id}")
    return ""


@dataclass(frozen=True, slots=True)
class _Core:
    """What a call is made of besides its markers: from ``start`` to ``end`` of the text. ``row`` is what it tells."""

    start: int
    end: int
    row: Dialect
    after_name: str = ""


def _core(turn: str, name: str) -> _Core | None:
    """The first call of ``name``; None if it is written in a way that no codec knows."""
    key = turn.find(_KEYS[0], turn.find(name))
    at = turn.rfind(name, 0, key)
    if key < 0 or at < 0:
        return None
    before, after = turn[:at], turn[at + len(name) : key]
    if (named := _NAME_IN_JSON.search(before)) and (arguments := _ARGUMENTS_IN_JSON.match(after)):
        value, end = json.JSONDecoder().raw_decode(turn, named.start())
        others = [other for other in value if other not in (named[1], arguments[1])]
        row = Dialect(
            codec="json", name_key=named[1], args_key=arguments[1], id_key=next((k for k in others if "id" in k), "")
        )
        return _Core(named.start(), end, row)
    if before.endswith('{"') and re.fullmatch(r'":\s*\{\s*"', after):
        _, end = json.JSONDecoder().raw_decode(turn, at - 2)
        return _Core(at - 2, end, Dialect(codec="json", name_is_key=True))
    if re.search(r'\{\s*"$', after):
        start = turn.rfind("{", 0, key)
        _, end = json.JSONDecoder().raw_decode(turn, start)
        return _Core(at, end, Dialect(codec="named"), turn[at + len(name) : start])
    return _tagged_core(turn, at, name)


def _tagged_core(turn: str, at: int, name: str) -> _Core | None:
    places = [at + len(name)]
    for sentinel in (_KEYS[0], _VALUES[0], _KEYS[1], _VALUES[1]):
        place = turn.find(sentinel, places[-1])
        if place < 0:
            return None
        places += [place, place + len(sentinel)]
    after_name, between, after_value = (turn[places[i] : places[i + 1]] for i in (0, 2, 4))
    key_begin = _common_end(after_name, after_value).lstrip()
    if not key_begin:
        return None
    key_end, value_begin = between, ""
    units = _units(between)
    if len(units) > 1 and _TAG.fullmatch(units[-1]) and units[-1].startswith("<"):
        key_end, value_begin = "".join(units[:-1]), units[-1]
    hinted = re.fullmatch(r'(.*\bstring=")true(".*)', key_end, re.DOTALL)
    row = Dialect(
        codec="tagged",
        key_begin=key_begin,
        key_end=f"{hinted[1]}{{hint}}{hinted[2]}" if hinted else key_end,
        value_begin=value_begin,
        value_end=after_value.removesuffix(key_begin),
        hints=("true", "false") if hinted else None,
    )
    return _Core(at, places[-1], row, after_name.removesuffix(key_begin))


def _calls(template: ChatTemplate, think_end: str) -> Dialect | None:
    """The row's part about calls; None if the template shows none that can be understood."""
    plain = _turn(template, {"content": _ANSWER})
    prefix, _, suffix = plain.partition(_ANSWER)
    turn = _calls_turn(template, 2)
    first, second = (_core(turn, name) for name in _NAMES) if turn else (None, None)
    if first is not None and second is not None:
        row = _several(turn, first, second, prefix, suffix)
    else:
        turn = _calls_turn(template, 1)
        first = _core(turn, _NAMES[0]) if turn else None
        if first is None:
            return None
        row = _single(turn, first, prefix, suffix)
    if row is None:
        return None
    section_begin = row.section_begin.rpartition(think_end)[2] if think_end else row.section_begin
    return replace(row, section_begin=section_begin.lstrip(), wrappers=_wrappers(prefix, suffix, turn))


def _single(turn: str, core: _Core, prefix: str, suffix: str) -> Dialect | None:
    """A template that writes one call at most."""
    begin = _without_begin(turn[: core.start], prefix)
    end = _without_end(turn[core.end :], suffix)
    if core.row.codec != "json":
        return None
    if not begin.strip():
        return replace(core.row, bare=True, openers=("<|python_tag|>",), separator="; ")
    return replace(core.row, call_begin=begin, call_end=end.rstrip())


def _several(turn: str, first: _Core, second: _Core, prefix: str, suffix: str) -> Dialect | None:
    """A template that writes many: what stands before, between and behind two."""
    before, gap, after = turn[: first.start], turn[first.end : second.start], turn[second.end :]
    end = _common_begin(gap, after)
    begin = _common_end(before, gap[len(end) :])
    if not (begin + end).strip():
        begin = end = ""
    space = begin[: len(begin) - len(begin.lstrip())]
    begin = begin.lstrip()
    section_begin = _without_begin(before.removesuffix(begin), prefix)
    section_end = ""
    if section_begin.strip():
        section_end = _up_to_tag(_without_end(after[len(end) :], suffix))
    else:
        section_begin, space = "", end[len(end.rstrip()) :] + space
        end = end.rstrip()
    separator = gap[len(end) : len(gap) - len(begin)] if begin or end else gap
    row = replace(first.row, section_begin=section_begin, section_end=section_end, separator=separator)
    if row.codec == "json":
        return replace(row, call_begin=begin, call_end=end)
    return _with_head(row, first, second, begin, end)


def _with_head(row: Dialect, first: _Core, second: _Core, begin: str, end: str) -> Dialect:
    """Tell the call's markers from its head and tail."""
    units = _units(begin)
    if units and _TAG.fullmatch(units[0]):
        count = 2 if len(units) > 1 and units[1].isspace() else 1
        call_begin, head = "".join(units[:count]), "".join(units[count:])
    else:
        call_begin, head = "", begin
    after_name, first_index = first.after_name, 0
    for index in (0, 1):
        indexed = [
            re.sub(rf"(?<!\d){index + offset}(?!\d)", "{index}", core.after_name)
            for offset, core in enumerate((first, second))
        ]
        if indexed[0] == indexed[1] != first.after_name:
            after_name, first_index = indexed[0], index
    if row.codec == "tagged":
        if not end.startswith(row.value_end):  # white space before the next key that the last value has not
            space = row.value_end[len(row.value_end.rstrip()) :]
            row = replace(row, value_end=row.value_end.rstrip(), key_begin=space + row.key_begin)
        end = end.removeprefix(row.value_end)
    call_end = ""
    if call_begin:
        tags = [unit for unit in _units(end) if _TAG.fullmatch(unit) and not unit.isspace()]
        at = end.rfind(tags[-1]) if tags else len(end)
        end, call_end = end[:at], end[at:]
    head = f"{head}{{name}}{after_name}"
    return replace(row, call_begin=call_begin, head=head, first_index=first_index, tail=end, call_end=call_end)


def _thinking(template: ChatTemplate, source: str) -> tuple[str, str]:
    """What begins and ends reasoning, empty if the template knows none."""
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": _THOUGHT}]},
        {"type": "text", "text": _ANSWER},
    ]
    for message in ({"content": _ANSWER, "reasoning_content": _THOUGHT, "thinking": _THOUGHT}, {"content": parts}):
        before, thought, after = _turn(template, message).partition(_THOUGHT)
        starts = [unit for unit in _units(before) if _TAG.fullmatch(unit) and not unit.isspace()]
        ends = [unit for unit in _units(after.partition(_ANSWER)[0]) if _TAG.fullmatch(unit) and not unit.isspace()]
        if thought and starts and ends and _THINKS.search(starts[-1]):
            return starts[-1], ends[0]
    return next((pair for pair in _THINK_PAIRS if pair[1] in source), ("", ""))


def _wrappers(prefix: str, suffix: str, turn: str) -> tuple[str, ...]:
    """The tags right before and behind a plain answer, if calls have none such before them."""
    before, behind = _units(prefix)[-1:], _units(suffix)[:1]
    if before and behind and _TAG.fullmatch(before[0]) and before[0].startswith("<") and before[0] not in turn:
        return (before[0], behind[0])
    return ()


def _up_to_tag(text: str) -> str:
    """``text`` up to its first tag; what follows ends the turn."""
    units = _units(text)
    last = next((index for index, unit in enumerate(units) if unit.startswith("<")), len(units))
    return "".join(units[: last + 1]).rstrip()


def _units(text: str) -> list[str]:
    return _UNIT.findall(text)


def _shared(first: Sequence[str], second: Sequence[str]) -> Iterator[str]:
    for one, other in zip(first, second, strict=False):
        if one != other:
            return
        yield one


def _common_begin(first: str, second: str) -> str:
    return "".join(_shared(_units(first), _units(second)))


def _common_end(first: str, second: str) -> str:
    return "".join(reversed(list(_shared(_units(first)[::-1], _units(second)[::-1]))))


def _without_begin(text: str, other: str) -> str:
    return text[len(_common_begin(text, other)) :]


def _without_end(text: str, other: str) -> str:
    return text.removesuffix(_common_end(text, other))
