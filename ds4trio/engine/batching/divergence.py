"""Why a prompt missed the cache: where it parts from the conversation that it shares most with, and a guess why."""

import re
from collections.abc import Callable, Sequence

from ds4trio.engine.base import Divergence

__all__ = ["BEFORE", "FROM", "divergence"]

# Tokens that are quoted before and from the place where two prompts part.
BEFORE, FROM = 12, 8
# Tokens before it that may show that the place is in the tools.
TOOLS_BEFORE = 64
# Fewer tokens than this are not worth a word: the end of a generation prompt, or a template's first line.
LEAST_LOST = 32
DATE = re.compile(
    r"\d{4}-\d\d|\d{1,2}[:/.]\d\d|\b20\d\d\b|\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b"
    r"|\b(?:mon|tues?|wednes|thurs?|fri|satur|sun)day\b",
    re.IGNORECASE,
)
DIGIT = re.compile(r"\d")
TOOLS = re.compile(r'"(?:parameters|function|description|properties|input_schema|type)"|<tools?>|namespace functions')


def divergence(
    prompt: Sequence[int],
    position: int,
    *,
    cached: Sequence[int],
    lost: int,
    turns: Sequence[int],
    text: Callable[[list[int]], str],
) -> Divergence | None:
    """Explain why only the first ``position`` tokens of ``prompt`` are cached; None where that is natural.

    It is natural that a conversation goes on with another question, and that another conversation begins after the
    same system prompt. ``cached`` are the tokens around that place in the cached conversation, from `BEFORE` tokens
    before it to `FROM` after it, and ``lost`` is how many it has from there on. ``turns`` are the prompt's own
    (`GenerationRequest.turns`); ``text`` spells tokens.
    """
    if lost < LEAST_LOST or not turns or position >= len(prompt) - 1:
        return None
    was, now = text(list(cached)), text(list(prompt[max(0, position - BEFORE) : position + FROM]))
    if position < turns[0]:
        reason = _reason_in_system(was, now, text(list(prompt[max(0, position - TOOLS_BEFORE) : position])))
    elif len(turns) > 2 and turns[1] <= position < turns[-2]:
        reason = "the history was edited, or an earlier answer is written differently now"
    else:
        return None
    return Divergence(position=position, lost=lost, reason=reason, cached=was, asked=now)


def _reason_in_system(was: str, now: str, before: str) -> str:
    if all(DATE.search(side) and DIGIT.search(side) for side in (was, now)):
        return "a date or time in the system prompt or the template"
    if TOOLS.search(before) or (TOOLS.search(was) and TOOLS.search(now)):
        return "other tools"
    return "another system prompt"
