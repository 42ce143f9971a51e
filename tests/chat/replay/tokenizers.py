"""A tokenizer without a model, and answers sampled in tokens that it would not have made of their text."""

import random
import re
from collections.abc import Callable, Iterable, Sequence

__all__ = ["Words", "oddly"]


class Words:
    """Implements the engine's ``Tokenizer``: words with the space before them, special tokens, else characters.

    Special tokens have ids from 0, all else gets an id when it first comes up.
    """

    def __init__(self, special: Iterable[str]) -> None:
        longest_first = sorted(special, key=len, reverse=True)
        self.special = {text: token for token, text in enumerate(longest_first)}
        self._split = re.compile("|".join([*map(re.escape, longest_first), r" ?\w+", "."]), re.DOTALL)
        self._ids = dict(self.special)

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return [self._ids.setdefault(piece, len(self._ids)) for piece in self._split.findall(text)]

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        texts = list(self._ids)
        return [texts[token].encode() for token in tokens]

    def check(self) -> None:
        pass


def oddly(
    text: str, tokenize: Callable[[str], list[int]], special: Iterable[str], chance: random.Random
) -> list[list[int]]:
    """The text's tokens, some words in pieces that no tokenizer makes: in groups that are whole characters."""
    marks = re.compile(f"({'|'.join(map(re.escape, sorted(special, key=len, reverse=True))) or '(?!)'})")
    groups = []
    for part in marks.split(text):
        if marks.fullmatch(part):
            groups.append(tokenize(part))
            continue
        while part:
            size = chance.choice((1, 3, 7, 20, 40))
            groups.append(tokenize(part[:size]))
            part = part[size:]  # noqa: PLW2901 - what is left of it
    return groups
