"""What a model's chat template can write down, as values.

Templates agree on a list of messages and on little else. Each field here is one point where they differ; its default
is what most of them do. `ds4trio.chat.probe` finds the values out, `ds4trio.chat.prepare` acts on them. Nothing here
knows a model's name.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Capabilities", "Switch"]


@dataclass(frozen=True, slots=True)
class Switch:
    """A template variable that turns reasoning on and off."""

    name: str
    on: str | bool
    off: str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """How a conversation has to look for one template.

    Turns:

    - ``parts``: content is a list of parts, not a text.
    - ``instructions``: the role of what leads a conversation; ``user`` where the template has none but the user's.
    - ``late_instructions``: a system message further down is written where it stands.
    - ``alternation``: user and assistant have to take turns, the user first, and nobody else speaks between them.
    - ``needs_user``: a conversation without any user turn is refused.
    - ``default_instructions``: the system text that the template writes when it gets none.

    Tools:

    - ``empty_tools``: without tools the template wants an empty list, not None.
    - ``tools``: the template lists them; ``functions``: it takes the list from a JSON text of that name;
      ``simple_schemas``: each parameter has to have a description and one type, and no more than one.
    - ``calls``: it writes an assistant's calls. ``call_example``: how one looks, where the template writes calls but
      does not tell the model about it. ``call_text``: how we write them where the template does not.
    - ``results``: where results of calls go: a turn of the tool, the list ``tool_responses`` of the assistant's turn,
      or a user turn.
    - ``arguments``: a call's arguments as JSON text or as the object itself.
    - ``empty_content``: the content of an assistant that only calls.
    - ``parallel_calls``: one turn may hold several calls.
    - ``call_ids``: ``given`` by the client; ``nine`` letters and digits (Mistral); ``counted``, the name of the tool
      and the number of the call in the conversation (Kimi-K2); ``counted_in_turn``, the same with the number in its
      turn.
    - ``preamble``: where the text of an assistant goes that also calls: ``beside`` the calls, ``before`` them in a
      turn of its own, after its ``reasoning`` (gpt-oss), or nowhere.

    Reasoning:

    - ``reasoning``: the key under which a message carries it, ``content`` for a part of the content, empty for none.
    - ``switches``: all that turn it on and off. ``text_switch``: a word in the system text that turns it off.
    - ``budget``: the variable for the number of tokens, 0 for none of them.
    - ``effort``: the variable for the effort, ``efforts`` the usual words that it takes, ``any_effort`` whether it
      takes every other one, too. ``effort_off``: the word that stands for no reasoning at all.
    """

    parts: bool = False
    instructions: Literal["system", "developer", "user"] = "system"
    late_instructions: bool = True
    alternation: bool = False
    needs_user: bool = False
    default_instructions: str = ""

    empty_tools: bool = False
    tools: bool = True
    functions: bool = False
    simple_schemas: bool = False
    calls: bool = True
    call_example: str = ""
    call_text: Literal["hermes", "pythonic"] = "hermes"
    results: Literal["tool", "tool_responses", "user"] = "tool"
    arguments: Literal["text", "object"] = "object"
    empty_content: str | None = ""
    parallel_calls: bool = True
    call_ids: Literal["given", "nine", "counted", "counted_in_turn"] = "given"
    preamble: Literal["beside", "before", "reasoning", "nowhere"] = "beside"

    reasoning: str = ""
    switches: tuple[Switch, ...] = ()
    text_switch: str = ""
    budget: str = ""
    effort: str = ""
    efforts: tuple[str, ...] = ()
    any_effort: bool = False
    effort_off: str = ""
