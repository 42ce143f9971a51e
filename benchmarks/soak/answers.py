"""Whether an answer is right, although the same request may rightly get another one.

llama.cpp's logits depend a little on what is computed together, so at temperature 0 an answer may part from an earlier
one where two tokens are all but equally likely, and only there. A reference knows how far ahead each of its tokens
was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

__all__ = ["LEAST_MARGIN", "Reference", "reference_of"]

LEAST_MARGIN = 0.5
"""Of two logprobs: nearer ones may change places (f16 accumulation moves logits by up to 0.2 each)."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The texts of an answer's tokens, at ``most`` so many, and how much likelier each was than the next best."""

    texts: tuple[str, ...]
    margins: tuple[float, ...]
    most: int

    def margin(self, text: str) -> float:
        """How much likelier the token was from which ``text`` parts than the next best; 0 where it never does."""
        whole = "".join(self.texts)
        if text == whole:
            return 0.0
        if not text or (text.startswith(whole) and len(self.texts) == self.most):
            return math.inf  # there was something to say, and then no more than that was asked for
        parting = next(
            (at for at, (a, b) in enumerate(zip(whole, text, strict=False)) if a != b), min(len(whole), len(text))
        )
        ends = accumulate(map(len, self.texts))
        token = next((index for index, end in enumerate(ends) if parting < end), len(self.texts) - 1)
        # A longer token may have been taken instead of the one before, and part from it here only.
        return min(self.margins[max(0, token - 1) : token + 1], default=0.0)


def reference_of(logprobs: Sequence[dict[str, Any]], most: int) -> Reference:
    """From the ``logprobs`` of a chat answer of ``most`` tokens, with two alternatives each."""
    margins = []
    for each in logprobs:
        first, second = sorted((top["logprob"] for top in each["top_logprobs"]), reverse=True)[:2]
        margins.append(first - second)
    return Reference(tuple(each["token"] for each in logprobs), tuple(margins), most)
