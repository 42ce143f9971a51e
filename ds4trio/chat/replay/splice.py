"""Putting remembered ids where the template writes the answers that they are.

The conversation is rendered with marks in every answer that looks like a remembered one. Then the text is walked once.
All that stands before an answer, text and ids, makes a digest; an answer begins where the digest is the one under
which it was sampled, and ends where the template closes its turn. What is in between gives way to the ids. The same
digest, taken at the end, is the place of the answer that is to come.

Reasoning that the client has dropped is put back before rendering, to see whether the template keeps it. Where it does
not, or where the answer was given at another place, the conversation is rendered again without.
"""

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ds4trio.chat.messages import Conversation, Message
from ds4trio.chat.replay.endings import Endings
from ds4trio.chat.replay.marks import marked, unmarked
from ds4trio.chat.replay.memory import Place, Remembered, ReplayMemory
from ds4trio.chat.template import TemplateFailedError

__all__ = ["Piece", "Spliced", "spliced"]

Piece = str | tuple[int, ...]
"""A part of a prompt: text that is still to be tokenized, or ids."""

# Renderings in which dropped reasoning is tried; each time less of it.
_TRIES = 2
# Characters of a prompt's end, marks of reasoning and white space, that belong to its answer.
_LONGEST_HEAD = 256


@dataclass(frozen=True, slots=True)
class Spliced:
    """``pieces`` of text and ids in turn, the ``text`` that the template has written, and the answer's ``place``."""

    pieces: tuple[Piece, ...]
    text: str
    place: Place | None


def spliced(
    conversation: Conversation,
    render: Callable[[Conversation], str],
    *,
    said: Sequence[Message],
    memory: ReplayMemory,
    endings: Endings,
    special_tokens: Mapping[str, int],
) -> Spliced:
    """The prompt of a conversation with what ``memory`` knows of it.

    ``said`` are its messages as their client has sent them, should they differ by now. ``render`` makes the text.
    Blocks as long as one to three renderings. Raises what ``render`` raises for the conversation as it is.
    """
    # An answer stands behind somebody else's message, and the last message is a part of the answer to come.
    known = {
        number: answers
        for number, (before, message) in enumerate(pairwise(said[:-1]), 1)
        if message.role == "assistant" != before.role and (answers := memory.known(message))
    }
    if not known:
        return _Walk(render(conversation)).done(endings)
    thoughts: dict[int, str] = {}
    if endings.reasoning == "message":
        # Any of them tells whether the template keeps it here.
        thoughts = {
            number: answer.reasoning
            for number, answers in known.items()
            if not said[number].reasoning.strip()
            for answer in answers
            if answer.reasoning
        }
    splicing = _Splicing(conversation, render, known, endings, special_tokens)
    try:
        prompt, used = splicing.best(thoughts)
    except (TemplateFailedError, ValueError, RecursionError):  # whatever marks have to do with it
        return _Walk(render(conversation)).done(endings)
    memory.use(used)
    return prompt


@dataclass(frozen=True, slots=True)
class _Splicing:
    """One conversation, and the answers that some of its messages may be, by the messages' numbers."""

    conversation: Conversation
    render: Callable[[Conversation], str]
    known: Mapping[int, Sequence[Remembered]]
    endings: Endings
    special_tokens: Mapping[str, int]

    def best(self, thoughts: Mapping[int, str]) -> tuple[Spliced, list[Remembered]]:
        """The prompt with as much as possible of the ``thoughts``, and the answers that have found their places."""
        for _ in range(_TRIES):
            prompt, used = self._attempt(thoughts)
            if thoughts.keys() <= used.keys():
                return prompt, list(used.values())
            thoughts = {number: thought for number, thought in thoughts.items() if number in used}
        prompt, used = self._attempt({})
        return prompt, list(used.values())

    def _attempt(self, thoughts: Mapping[int, str]) -> tuple[Spliced, dict[int, Remembered]]:
        """One rendering, with ``thoughts`` put back, and the answers by the numbers of their messages."""
        messages = list(self.conversation.messages)
        for number in self.known:
            thinking = replace(messages[number], reasoning=thoughts.get(number, messages[number].reasoning))
            messages[number] = marked(number, thinking, json_text=self.endings.json_text)
        text, marks = unmarked(self.render(replace(self.conversation, messages=tuple(messages))))
        walk = _Walk(text)
        used: dict[int, Remembered] = {}
        for number, answers in self.known.items():
            if number not in marks.ends:
                continue
            answer = walk.answer(answers, marks.first(number), self.endings)
            if answer is None or not self._keeps(answer, number in marks.thoughts):
                continue
            tokens = answer.tokens
            end = self.endings.end(text, marks.ends[number], messages[number], tokens, self.special_tokens)
            if end is not None:
                walk.replace(end, answer, tokens)
                used[number] = answer
        return walk.done(self.endings), used

    def _keeps(self, answer: Remembered, thought: bool) -> bool:
        """Whether the template wants the reasoning, whose ``thought`` it writes or not. Empty marks harm nobody."""
        return thought or not answer.reasoning or self.endings.reasoning == "inline"


class _Walk:
    """One walk through a rendered text, from answer to answer."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._replaced = 0
        """Characters of the text that gave way to ids."""
        self._digest = hashlib.blake2b(digest_size=16)
        self._pieces: list[Piece] = []

    def start(self, answer: Remembered) -> int:
        """Where in the text an answer would begin."""
        return answer.place.characters + self._replaced

    def answer(self, answers: Sequence[Remembered], word: int, endings: Endings) -> Remembered | None:
        """The one that was sampled at the beginning of the turn in which ``word`` is, if it was."""
        digest, at = self._digest.copy(), self._at
        near = [answer for answer in answers if at <= self.start(answer) <= word]
        for answer in sorted(near, key=self.start):
            start = self.start(answer)
            digest.update(self._text[at:start].encode())
            at = start
            if digest.digest() == answer.place.digest and endings.same_turn(self._text, start, word):
                return answer
        return None

    def replace(self, end: int, answer: Remembered, tokens: tuple[int, ...]) -> None:
        """Go on to ``end``, with the head and the ids of ``answer`` in place of the text."""
        start = self.start(answer)
        self._say(start, answer.place.head)
        # No text has these bytes, so nothing else has this digest.
        self._digest.update(b"\xff" + struct.pack("<I", len(tokens)) + answer.data)
        self._pieces.append(tokens)
        self._replaced += end - start
        self._at = end

    def done(self, endings: Endings) -> Spliced:
        """All of it."""
        text = self._text
        head = endings.head.search(text, max(self._at, len(text) - _LONGEST_HEAD))
        assert head is not None, "nothing is a head, too"
        digest = self._digest.copy()
        digest.update(text[self._at : head.start()].encode())
        place = Place(digest.digest(), head.start() - self._replaced, head.group())
        self._say(len(text))
        return Spliced(tuple(self._pieces), text, place)

    def _say(self, end: int, head: str = "") -> None:
        """Take the text up to ``end``, and ``head`` behind it."""
        said = self._text[self._at : end] + head
        if said:
            self._pieces.append(said)
            self._digest.update(said.encode())
        self._at = end
