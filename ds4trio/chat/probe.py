"""Finding out what a chat template can do, by trying.

A template is a program, and what it supports is what survives a rendering: a few small conversations of made-up words
are prepared and rendered under different `Capabilities`, and the first ones under which every word comes out are taken.
So the very code that prepares real conversations is what is tried. Candidates are ordered: what a template does best
comes first. The source is only searched for names of variables, so that variables which nobody reads are not tried.

Some fifty renderings, 2 to 20 ms a template, once for each model.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from ds4trio.chat.capabilities import Capabilities, Switch
from ds4trio.chat.messages import Conversation, Message, Thinking, Tool, ToolCall
from ds4trio.chat.prepare import prepare
from ds4trio.chat.template import ChatTemplate, TemplateFailedError

__all__ = ["probe"]

_SWITCHES = (
    Switch("enable_thinking", on=True, off=False),
    Switch("thinking", on=True, off=False),
    Switch("reasoning", on=True, off=False),
    Switch("thinking_mode", on="enabled", off="disabled"),
    Switch("thinking_option", on="on", off="off"),
)
_EFFORT_NAMES = ("reasoning_effort", "thinking_effort")
_EFFORTS = ("none", "no_think", "minimal", "low", "medium", "high", "xhigh", "max")
_OFF_WORDS = ("none", "no_think", "minimal", "low")
_BUDGET = "thinking_budget"
_TEXT_SWITCH = "/no_think"
# LFM2 lists tools and reads results, but leaves it to the client to write calls, as Python between special tokens.
_LFM_TOOLS = ("<|tool_list_start|>", "List of tools: [")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "thought", "content")

_HOMELESS = {"instructions": "user", "late_instructions": False}
_CLOSED = {"add_generation_prompt": False}

# Words that no template writes by itself, and that none of them contains another.
_ASK, _ASK_AGAIN = "quokkaask", "wombatagain"
_RULE, _LATER_RULE = "ibisrule", "lemurlater"
_SAY, _SAY_AGAIN = "tapirsay", "okapimore"
_THOUGHT = "narwhalthought"
_TOOL, _KEY, _VALUE, _RESULT = "gibbontool", "dingokey", "kiwivalue", "emuresult"
_ID, _OTHER_ID = "zebraid", "llamaid"
_OTHER_TOOL, _OTHER_VALUE, _OTHER_RESULT = "ocelottool", "koalavalue", "lynxresult"

_USER, _USER_AGAIN = Message("user", _ASK), Message("user", _ASK_AGAIN)
_SYSTEM = Message("system", _RULE)
_ASSISTANT, _ASSISTANT_AGAIN = Message("assistant", _SAY), Message("assistant", _SAY_AGAIN)
_TOOLS = (
    Tool(_TOOL, "d", {"type": "object", "properties": {_KEY: {"type": "string", "description": "d"}}}),
    Tool(
        _OTHER_TOOL, "", {"properties": {_KEY: {}, "other": {"type": ["string", "null"]}, "more": {"type": "object"}}}
    ),
)
# Two spaces: JSON text that is passed through looks unlike JSON that is written anew.
_CALL = ToolCall(_ID, _TOOL, f'{{"{_KEY}":  "{_VALUE}"}}')
_OTHER_CALL = ToolCall(_OTHER_ID, _OTHER_TOOL, f'{{"{_KEY}":  "{_OTHER_VALUE}"}}')
_CALLER = Message("assistant", tool_calls=(_CALL,))
_BOTH_CALLER = Message("assistant", tool_calls=(_CALL, _OTHER_CALL))
_ANSWER = Message("tool", _RESULT, tool_call_id=_ID)
_OTHER_ANSWER = Message("tool", _OTHER_RESULT, tool_call_id=_OTHER_ID)


def probe(template: ChatTemplate, source: str) -> Capabilities:
    """What ``template``, compiled from ``source``, can do. Never raises: of a broken one the defaults are said."""
    return _Probe(template, source).capabilities()


class _Probe:
    def __init__(self, template: ChatTemplate, source: str) -> None:
        self._template = template
        self._source = source
        self._can = Capabilities()

    def capabilities(self) -> Capabilities:
        self._turns()
        self._tools()
        self._calls()
        self._thinking()
        self._reasoning()
        self._preamble()
        self._texts()
        return self._can

    # --- one rendering ---

    def _text(
        self,
        *messages: Message,
        can: Capabilities | None = None,
        tools: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """What comes out, with as much reasoning as there can be; nothing where the template fails."""
        can = self._can if can is None else can
        conversation = Conversation(
            messages=messages,
            tools=_TOOLS if tools else (),
            thinking=Thinking(enabled=True),
            variables=variables or {},
        )
        prepared = prepare(conversation, can)
        try:
            return self._template.render(prepared.messages, **prepared.variables)
        except TemplateFailedError:
            return ""

    def _choose(self, variants: Iterable[Mapping[str, Any]], works: Callable[[Capabilities], bool]) -> bool:
        """Take the first variant of what is known so far that works; without one everything stays as it is."""
        for variant in variants:
            candidate = replace(self._can, **variant)
            if works(candidate):
                self._can = candidate
                return True
        return False

    # --- turns ---

    def _turns(self) -> None:
        self._choose(
            ({"empty_tools": empty, "parts": parts} for empty, parts in product((False, True), repeat=2)),
            lambda can: _ASK in self._text(_USER, can=can),
        )
        developer = [{"instructions": "developer"}] if "developer" in self._source else []
        self._choose(
            ({}, *developer, _HOMELESS), lambda can: _in_order(self._text(_SYSTEM, _USER, can=can), _RULE, _ASK)
        )
        neighbours = (_USER, _USER_AGAIN, _ASSISTANT, _ASSISTANT_AGAIN, replace(_USER, content=_VALUE))
        self._choose(
            ({}, {"alternation": True}),
            lambda can: _in_order(self._text(*neighbours, can=can), _ASK, _ASK_AGAIN, _SAY, _SAY_AGAIN, _VALUE),
        )
        late = (_SYSTEM, _USER, _ASSISTANT, replace(_SYSTEM, content=_LATER_RULE), _USER_AGAIN)
        self._choose(
            ({}, {"late_instructions": False}),
            lambda can: _in_order(self._text(*late, can=can), _ASK, _SAY, _LATER_RULE, _ASK_AGAIN),
        )
        self._choose(({}, {"needs_user": True}), lambda can: _RULE in self._text(_SYSTEM, can=can))

    # --- tools ---

    def _tools(self) -> None:
        lists = [
            {"functions": functions, "simple_schemas": simple} for functions, simple in product((False, True), repeat=2)
        ]
        if not self._choose(lists, lambda can: _has(self._text(_USER, can=can, tools=True), _TOOL, _KEY, _OTHER_TOOL)):
            self._can = replace(self._can, tools=False)

    def _calls(self) -> None:
        places = ("tool_responses", "tool", "user") if "tool_responses" in self._source else ("tool", "user")
        forms = product(places, ("given", "nine", "counted"), ("", None), ("object", "text"))
        names = ("results", "call_ids", "empty_content", "arguments")
        written = self._choose(
            (dict(zip(names, form, strict=True)) for form in forms),
            lambda can: _well_written(self._call(can)) and _in_order(self._call(can), _ASK, _RESULT, _SAY, _ASK_AGAIN),
        )
        if written:
            self._written_calls()
        elif self._can.tools and any(mark in self._source for mark in _LFM_TOOLS):
            self._can = replace(self._can, calls=False, call_text="pythonic")
        else:
            # A role of results that is written nevertheless proves little: many templates write every role.
            self._can = replace(self._can, tools=False, calls=False, results="user")

    def _call(self, can: Capabilities) -> str:
        return self._text(_USER, _CALLER, _ANSWER, _ASSISTANT, _USER_AGAIN, can=can, tools=can.tools)

    def _written_calls(self) -> None:
        """The finer points of calls, of a template that writes them."""
        # DeepSeek R1 writes an empty turn of its own for content that is there but empty.
        length = len(self._call(self._can))
        self._choose(
            [{"empty_content": None}], lambda can: _well_written(self._call(can)) and len(self._call(can)) < length
        )
        text = self._call(self._can)
        if self._can.call_ids == "given" and _ID in text and f"functions.{_TOOL}:0" in text:
            self._can = replace(self._can, call_ids="counted_in_turn")
        # JSON that is passed through keeps the very text that the model has sampled, and with it the cached prefix.
        if json.dumps({_KEY: _VALUE}) in text:
            self._choose([{"arguments": "text"}], lambda can: _CALL.arguments in self._call(can))
        both = (_USER, _BOTH_CALLER, _ANSWER, _OTHER_ANSWER, _ASSISTANT, _USER_AGAIN)
        words = (_VALUE, _OTHER_TOOL, _OTHER_VALUE, _RESULT, _OTHER_RESULT, _SAY, _ASK_AGAIN)
        self._choose(({}, {"parallel_calls": False}), lambda can: _has(self._text(*both, can=can), *words))
        # Mistral Nemo writes the system text into the last turn of all, and only if that is the user's.
        self._choose(
            ({}, _HOMELESS), lambda can: _has(self._text(_SYSTEM, _USER, _CALLER, _ANSWER, can=can), _RULE, _ASK)
        )
        self._choose(
            ({}, {"alternation": True}),
            lambda can: _ASK_AGAIN in self._text(_USER, _CALLER, _ANSWER, _USER_AGAIN, can=can),
        )

    def _preamble(self) -> None:
        """Where text beside calls goes. It is the last question about calls: reasoning may be in its way."""
        if not self._can.calls:
            return
        first = replace(_CALLER, reasoning=_THOUGHT)
        second = Message("assistant", _SAY, "a thought", tool_calls=(_OTHER_CALL,))
        working = (_USER, first, _ANSWER, second, _OTHER_ANSWER)
        # gpt-oss takes a text before the calls for the answer, and forgets the thoughts that led to it.
        silent = (_USER, first, _ANSWER, replace(second, content=""), _OTHER_ANSWER)
        kept = (_THOUGHT,) if _THOUGHT in self._text(*silent) else ()
        places = ("beside", "before", "reasoning") if self._can.reasoning else ("beside", "before")
        placed = self._choose(
            ({"preamble": place} for place in places),
            lambda can: (
                _in_order(self._text(*working, can=can), *kept, _RESULT, _SAY, _OTHER_VALUE, _OTHER_RESULT)
                and _in_order(self._text(*working, _ASSISTANT_AGAIN, _USER_AGAIN, can=can), _SAY_AGAIN, _ASK_AGAIN)
            ),
        )
        if not placed:
            self._can = replace(self._can, preamble="nowhere")

    # --- reasoning ---

    def _thinking(self) -> None:
        switches = tuple(switch for switch in _SWITCHES if self._differs(switch.name, switch.on, switch.off))
        self._can = replace(self._can, switches=switches, budget=_BUDGET if self._differs(_BUDGET, 0, 512) else "")
        for name in _EFFORT_NAMES:
            if name in self._source and not self._can.effort:
                self._effort(name)
        can = self._can
        if can.switches or can.budget or can.effort_off or _TEXT_SWITCH not in self._source:
            return
        off = self._text(replace(_SYSTEM, content=f"{_RULE}\n{_TEXT_SWITCH}"), _USER)
        if _tail(off) != _tail(self._text(_SYSTEM, _USER)):
            self._can = replace(can, text_switch=_TEXT_SWITCH)

    def _differs(self, name: str, value: object, other: object) -> bool:
        """Whether it makes a difference which value a variable has."""
        return name in self._source and any(
            self._text(_USER, tools=tools, variables={name: value})
            != self._text(_USER, tools=tools, variables={name: other})
            for tools in (False, True)
        )

    def _effort(self, name: str) -> None:
        texts = {word: self._text(_USER, variables={name: word}) for word in (*_EFFORTS, _VALUE)}
        accepted = [word for word in _EFFORTS if texts[word]]
        if len({texts[word] for word in accepted}) <= 1:
            return
        most = _tail(texts[accepted[-1]])
        self._can = replace(
            self._can,
            effort=name,
            efforts=tuple(word for word in accepted if word not in ("none", "no_think")),
            any_effort=bool(texts[_VALUE]),
            effort_off=next((word for word in _OFF_WORDS if word in accepted and _tail(texts[word]) != most), ""),
        )

    def _reasoning(self) -> None:
        thinker = replace(_CALLER if self._can.calls else _ASSISTANT, reasoning=_THOUGHT)
        turns = (_USER, thinker, _ANSWER) if self._can.calls else (_USER, thinker)
        self._choose(
            ({"reasoning": key} for key in _REASONING_KEYS),
            lambda can: _thought_through(self._text(*turns, can=can, tools=can.tools)),
        )

    # --- texts of the template's own ---

    def _texts(self) -> None:
        """What our own text about tools has to repeat, where there will be one."""
        can = self._can
        if can.tools:
            return
        # A text with a date in it would be wrong tomorrow.
        if can.instructions != "user" and "strftime_now" not in self._source:
            self._can = can = replace(can, default_instructions=self._default_instructions())
        if can.calls:
            self._can = replace(can, call_example=self._call_example())

    def _default_instructions(self) -> str:
        plain = replace(self._can, switches=(), effort="")
        before, rule, after = self._text(_SYSTEM, _USER, can=plain).partition(_RULE)
        without = self._text(_USER, can=plain)
        fits = rule and without.startswith(before) and without.endswith(after)
        return without[len(before) : len(without) - len(after)] if fits else ""

    def _call_example(self) -> str:
        """What a turn with a call has and a turn with a text has not."""
        call = ToolCall(_ID, "function_name", '{"argument_name": "value"}')
        opening, said, closing = self._text(_USER, _ASSISTANT, variables=_CLOSED).partition(_SAY)
        calling = self._text(_USER, Message("assistant", tool_calls=(call,)), variables=_CLOSED)
        if not said:
            return ""
        pairs = enumerate(zip(opening, calling, strict=False))
        example = calling[next((index for index, (a, b) in pairs if a != b), len(opening)) :]
        end = closing.strip()
        return (example.partition(end)[0] if end else example).strip()


def _has(text: str, *words: str) -> bool:
    return all(word in text for word in words)


def _in_order(text: str, *words: str) -> bool:
    position = 0
    for word in words:
        position = text.find(word, position)
        if position < 0:
            return False
    return True


def _well_written(text: str) -> bool:
    """Whether the call is there, in full, and neither as Python's dict nor as JSON within JSON."""
    after = text.partition(_ASK)[2] or text
    return (
        _has(after, _TOOL, _KEY, _VALUE)
        and f'\\"{_KEY}' not in after
        and f"{{'{_KEY}" not in after
        and "None" not in after
    )


def _thought_through(text: str) -> bool:
    """Whether the reasoning is there, once, and not as a quoted value of a list that the template did not expect."""
    return text.count(_THOUGHT) == 1 and f"'{_THOUGHT}" not in text and f'"{_THOUGHT}' not in text


def _tail(text: str) -> str:
    """What follows the user's turn: the beginning of the assistant's."""
    return text.rpartition(_ASK)[2]
