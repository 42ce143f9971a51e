"""A dialect is one row of data: how a model writes reasoning and tool calls into its text.

Only data lives here: the row's type, and the rows that no probe can find. `probe` finds the others, `reader` reads by
them and a grammar writes by them. A row holds every string as the model's template writes it, white space included, so
that it is good for writing; reading is lenient with white space next to markers.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CDATA_BEGIN",
    "CDATA_END",
    "GEMMA4_QUOTE",
    "HARMONY_FINAL",
    "HARMONY_MARKERS",
    "HARMONY_NEXT",
    "HERMES",
    "LLAMA4",
    "OVERRIDES",
    "PLACEHOLDER",
    "Codec",
    "Dialect",
]

Codec = Literal["json", "named", "tagged", "gemma4", "pythonic", "minimax_m3", "harmony"]

PLACEHOLDER = re.compile(r"\{(?:name|id|index)\}")
"""What stands in a head for what differs from call to call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How calls and reasoning look in a model's text.

    An answer's calls are ``section_begin``, calls joined by ``separator``, ``section_end``. One call is
    ``call_begin``, a body that depends on the codec, ``call_end``. The bodies:

    - ``json``: one object with the name under ``name_key`` and the arguments under ``args_key``, the call's id under
      ``id_key`` if there is one; with ``name_is_key`` the object is ``{name: arguments}``.
    - ``named``: ``head``, the arguments as JSON, ``tail``.
    - ``tagged``: ``head``, then for each argument ``key_begin`` key ``key_end`` ``value_begin`` value ``value_end``,
      then ``tail``. Strings are written as they are, everything else as JSON. With ``hints`` (the words for a string
      and for other values, empty for the name of its JSON type) ``{hint}`` in ``key_end`` tells which it is. With
      ``cdata`` strings that hold markup or a line break are CDATA sections, with ``entities`` keys are escaped as in
      XML.
    - ``gemma4``: as ``named``, in a notation with bare keys and strings between ``<|"|>``.
    - ``pythonic``: ``name(key=value, …)`` with Python literals.
    - ``minimax_m3``: as ``tagged``, each argument an element of its own name, objects and lists as nested elements.
    - ``harmony``: messages with a channel and a recipient; the other fields say nothing.

    ``head`` holds ``{name}``, and ``{id}`` or ``{index}`` where the template writes them, counted from
    ``first_index``. ``bare`` calls need no marker if nothing but white space stands before them. ``openers`` are
    further markers that may stand before a call. ``wrappers`` are markers around content and are dropped. Text ends
    before one of ``stops``.
    """

    codec: Codec
    think_start: str = ""
    think_ends: tuple[str, ...] = ()
    section_begin: str = ""
    section_end: str = ""
    separator: str = ""
    call_begin: str = ""
    call_end: str = ""
    bare: bool = False
    openers: tuple[str, ...] = ()
    name_key: str = "name"
    args_key: str = "arguments"
    id_key: str = ""
    name_is_key: bool = False
    head: str = ""
    first_index: int = 0
    tail: str = ""
    key_begin: str = ""
    key_end: str = ""
    value_begin: str = ""
    value_end: str = ""
    hints: tuple[str, str] | None = None
    cdata: bool = False
    entities: bool = False
    wrappers: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()

    @property
    def head_parts(self) -> tuple[str, str]:
        """``head`` before and after the name, placeholders included."""
        before, _, after = self.head.partition("{name}")
        return before, after

    @property
    def section_markers(self) -> tuple[str, str]:
        """What begins and ends a section, without the brackets of a list."""
        begin, end = self.section_begin.strip(), self.section_end.strip()
        if self.codec in ("json", "pythonic"):
            return begin.removesuffix("[").rstrip(), end.removeprefix("]").lstrip()
        return begin, end

    @property
    def markers(self) -> frozenset[str]:
        """Every literal of the row, white space around it stripped: each may be, or hold, a special token."""
        return frozenset(stripped for literal in self._literals() if (stripped := literal.strip()))

    def special_markers(self, special_tokens: Collection[str]) -> frozenset[str]:
        """Those of a vocabulary's special tokens that are markers or parts of one: the reader wants them as such.

        Tokens of white space or of a plain word, which some vocabularies declare, are none.
        """
        markers = self.markers
        return frozenset(
            token
            for token in special_tokens
            if len(token) > 1 and not token.isspace() and not token.isalnum() and any(token in m for m in markers)
        )

    def _literals(self) -> Iterator[str]:
        yield from (self.think_start, *self.think_ends, *self.section_markers)
        yield from (self.call_begin, self.call_end, *self.openers, *PLACEHOLDER.split(self.head), self.tail)
        yield from (self.key_begin, *self.key_end.split("{hint}"), self.value_begin, self.value_end)
        yield from (*self.wrappers, *self.stops)
        if self.codec == "gemma4":
            yield GEMMA4_QUOTE
        if self.codec == "harmony":
            yield from HARMONY_MARKERS


CDATA_BEGIN, CDATA_END = "<![CDATA[", "]]>"
"""What stands around a value that is taken as it is."""

GEMMA4_QUOTE = '<|"|>'
"""What Gemma 4 writes around strings."""

HARMONY_MARKERS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>")
"""What gpt-oss makes its messages of."""

HARMONY_NEXT, HARMONY_FINAL = "<|end|><|start|>assistant", "<|channel|>final<|message|>"
"""What ends a message of gpt-oss and begins the next one, and how that goes on as the visible answer."""

HERMES = Dialect(codec="json", call_begin="<tool_call>\n", call_end="\n</tool_call>", separator="\n")
"""The row for templates without tools: the calls that most models were trained on, Qwen's among them."""

HARMONY = Dialect(codec="harmony", stops=("<|call|>", "<|return|>"))
"""gpt-oss."""

GEMMA4 = Dialect(
    codec="gemma4",
    think_start="<|channel>thought",
    think_ends=("<channel|>",),
    call_begin="<|tool_call>",
    head="call:{name}",
    call_end="<tool_call|>",
)
"""Gemma 4."""

KIMI_K3 = Dialect(
    codec="tagged",
    think_start="<|open|>think<|sep|>",
    think_ends=("<|close|>think<|sep|>",),
    section_begin="<|open|>tools<|sep|>",
    section_end="<|close|>tools<|sep|>",
    head='<|open|>call tool="{name}" index="{index}"<|sep|>',
    first_index=1,
    key_begin='<|open|>argument key="',
    key_end='" type="{hint}"<|sep|>',
    value_end="<|close|>argument<|sep|>",
    tail="<|close|>call<|sep|>",
    hints=("string", ""),
    entities=True,
    wrappers=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
)
"""Kimi K3."""

LLAMA4 = Dialect(
    codec="pythonic",
    section_begin="[",
    section_end="]",
    separator=", ",
    bare=True,
    openers=("<|python_start|>",),
    wrappers=("<|python_end|>",),
)
"""Llama 4, whose own template writes its calls as Python."""

LFM2 = Dialect(codec="pythonic", section_begin="<|tool_call_start|>[", section_end="]<|tool_call_end|>", separator=", ")
"""LFM2 and LFM2.5, whose templates expect the calls ready-made."""

MINIMAX_M3 = Dialect(
    codec="minimax_m3",
    think_start="<mm:think>",
    think_ends=("</mm:think>",),
    section_begin="]<]minimax[>[<tool_call>\n",
    section_end="]<]minimax[>[</tool_call>",
    head=']<]minimax[>[<invoke name="{name}">',
    key_begin="]<]minimax[>[<",
    key_end=">",
    value_end="]<]minimax[>[</",
    tail="]<]minimax[>[</invoke>\n",
)
"""MiniMax M3, where one special token stands before every tag."""

FUNCTIONARY = Dialect(codec="named", call_begin=">>>", head="{name}\n", wrappers=(">>>all\n",))
"""Functionary 3.2, whose every message has a recipient; the prompt writes the first ``>>>``."""

SOLAR = Dialect(
    codec="named",
    think_start="<|think|>",
    think_ends=("<|end|>",),
    section_begin="<|tool_calls|>",
    section_end="<|calls|>",
    call_begin="<|tool_call:begin|>",
    head="{id}<|tool_call:name|>{name}<|tool_call:args|>",
    call_end="<|tool_call:end|>",
    wrappers=("<|begin|>assistant", "<|content|>", "<|end|>"),
)
"""Solar, which writes reasoning and content as messages of their own."""

MUSE = Dialect(
    codec="tagged",
    think_start="to=self<|message|>",
    think_ends=("<|eom|>",),
    call_begin=" to=",
    head='{name}<|message|><atem:function_calls>\n<atem:invoke name="{name}">\n',
    key_begin='<atem:parameter name="',
    key_end='">',
    value_end="</atem:parameter>\n",
    tail="</atem:invoke>\n",
    call_end="</atem:function_calls>",
    separator="<|eom|><|start|>assistant",
    wrappers=("<|start|>assistant", "to=user<|message|>", "<|eom|>", "<|eot|>"),
)
"""Muse Glimmer, where reasoning, content and calls are messages to different recipients."""

PHI4_MINI = Dialect(codec="json", section_begin="functools[", section_end="]", separator=", ")
"""Phi-4-mini, whose template shows no calls."""

OVERRIDES: tuple[tuple[str, Dialect], ...] = (
    ("<|channel|>", HARMONY),
    ("<|tool_call>call:", GEMMA4),
    ("]<]minimax[>[", MINIMAX_M3),
    ("<|open|>", KIMI_K3),
    (">>>all", FUNCTIONARY),
    ("<|tool_call:begin|>", SOLAR),
    ("<atem:", MUSE),
    ("<|python_start|>", LLAMA4),
    ("<|tool_call_start|>", LFM2),
    ("<|/tool|>", PHI4_MINI),
    ("<|tool_list_start|>", LFM2),
    ("keep_past_thinking", LFM2),
)
"""Rows by a text in the template's source, for calls that a template does not show when it is probed, or not whole."""
