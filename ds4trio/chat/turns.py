"""Where turns begin in a prompt of token ids: the places where another prompt is likely to part from it.

An agent's next prompt leaves this one where the answer begins, an edited one before a turn of the user, and another
conversation of the same agent behind what its system text and its tools say: before the first turn of the user.

Templates do not say where their turns begin, but they write a text of their own just before a message's content, such
as ``<|im_start|>user``. `turn_marks` finds it out by rendering a small conversation, once for each model; `turn_starts`
looks for its ids in a prompt. Nothing is guessed: a mark begins with a control token, and what a message spells is none
(see `ds4trio.chat.spelling`). A template that has no such marks has no turns here, and nobody is worse off.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile

from ds4trio.chat.capabilities import Capabilities
from ds4trio.chat.messages import Conversation, Message
from ds4trio.chat.prepare import prepare
from ds4trio.chat.template import ChatTemplate, TemplateFailedError

__all__ = ["TurnMarks", "turn_marks", "turn_starts"]

# Words that no template writes by itself.
_ASKED = ("quokkaask", "wombatagain", "ibismore")
_SAID = Message("assistant", "tapirsay")
# Up to the end of a word before white space: the one place within text where tokens do not merge with what follows.
_WORDS = re.compile(r".*[A-Za-z](?=\s)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TurnMarks:
    """Texts of a template, each empty where there is none.

    ``user`` begins each turn of the user, ``answer`` the one that is to be written; earlier turns may begin with that,
    too. Both begin with a control token, and their ids are the same whatever follows.
    """

    user: str = ""
    answer: str = ""


def turn_starts(tokens: Sequence[int], *, user: Sequence[int], answer: Sequence[int]) -> tuple[int, ...]:
    """Where turns of the user begin in ``tokens``, and the answer's; ascending, without 0.

    ``user`` and ``answer`` are the ids of `TurnMarks`, or nothing. 100,000 tokens take 2 ms.
    """
    starts = [start for start in _occurrences(tokens, user) if start]
    last = max(_occurrences(tokens, answer), default=0)
    if last > max(starts, default=0):
        starts.append(last)
    return tuple(starts)


def _occurrences(tokens: Sequence[int], pattern: Sequence[int]) -> Iterator[int]:
    pattern = list(pattern)
    start = -1
    while pattern:
        try:
            start = tokens.index(pattern[0], start + 1)
        except ValueError:
            return
        if list(tokens[start : start + len(pattern)]) == pattern:
            yield start


def turn_marks(template: ChatTemplate, capabilities: Capabilities, control_tokens: Collection[str]) -> TurnMarks:
    """The marks of a template. ``control_tokens`` are the texts of those that no message can hold. Never raises."""
    text = _rendered(template, capabilities)
    # Some vocabularies have thousands, a template a dozen.
    known = sorted((token for token in control_tokens if token in text), key=len, reverse=True)
    if not known or any(text.count(content) != 1 for content in _ASKED):
        return TurnMarks()
    tokens = re.compile(f"({'|'.join(map(re.escape, known))})")
    closed = _rendered(template, capabilities, closed=True)
    answer = _answer_mark(text, closed, tokens) if closed else ""
    return TurnMarks(_user_mark(text, tokens, answer), answer)


def _rendered(template: ChatTemplate, capabilities: Capabilities, *, closed: bool = False) -> str:
    """A conversation that ends with the user; ``closed``: without the beginning of an answer. Nothing if it fails."""
    first, *others = (Message("user", content) for content in _ASKED)
    turns = (first, *chain.from_iterable((_SAID, other) for other in others))
    variables = {"add_generation_prompt": False} if closed else {}
    prepared = prepare(Conversation(messages=turns, variables=variables), capabilities)
    try:
        return template.render(prepared.messages, **prepared.variables)
    except TemplateFailedError:
        return ""


def _answer_mark(text: str, closed: str, tokens: re.Pattern[str]) -> str:
    """What is added for the answer to begin: from its first control token to the first that tells it from the rest."""
    parts = zip(tokens.split(text), tokens.split(closed), strict=False)
    shared = sum(len(part) for part, other in takewhile(lambda pair: pair[0] == pair[1], parts))
    added = list(tokens.finditer(text, shared))
    marks = (text[added[0].start() : token.end()] for token in added)
    return next((mark for mark in marks if text.rfind(mark) == added[0].start()), "")


def _user_mark(text: str, tokens: re.Pattern[str], answer: str) -> str:
    """The shortest text that begins with a control token and stands before what the user says, and nowhere else.

    With the answer's mark where that is in front of it, since then each turn begins so, whoever speaks.
    """
    heads = [text.partition(content)[0] for content in _ASKED]
    for token in reversed(list(tokens.finditer(heads[0]))):
        opening = heads[0][token.start() :]
        mark = _without_what_may_merge(opening, tokens)
        if all(head.endswith(opening) for head in heads) and text.count(mark) == len(_ASKED):
            return answer + mark if all(head.endswith(answer + opening) for head in heads) else mark
    return ""


def _without_what_may_merge(opening: str, tokens: re.Pattern[str]) -> str:
    last = tokens.split(opening)[-1]
    words = _WORDS.match(last)
    return opening.removesuffix(last) + (words.group() if words else "")
