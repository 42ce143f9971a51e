"""Which tokens go into the next batch. Pure: numbers in, numbers out.

A batch carries one token of every sequence that decodes, then chunks of prompts, at most one ubatch in all, so an
abort loses at most that ubatch. While somebody decodes, the prompts get a small share of each step, which bounds how
long a running stream waits for its next token; alone, a prefill takes whole ubatches. Several prompts share a step
evenly, so a short one is not behind a long one.
"""

from collections.abc import Sequence

__all__ = ["compose"]

# Prompt tokens in a step that also decodes. Alone, a prompt gets the whole ubatch.
MIXED_CHUNK = 64


def compose(left: Sequence[int], *, ubatch: int, mixed: bool = True, chunk_turn: bool = True) -> list[int]:
    """How many tokens of each sequence the next batch takes.

    ``left[i]`` is the number of tokens of sequence ``i`` that are not computed yet: 1 while it decodes, more while it
    prefills. The answer has the same length. ``ubatch`` is at least twice the number of sequences, so each gets at
    least one token. With ``mixed`` false (memories that cannot roll back) a prompt chunk
    travels alone, and ``chunk_turn`` says whether it is a chunk's turn or that of the decoding sequences.
    """
    take = [0] * len(left)
    decoding = [index for index, tokens in enumerate(left) if tokens == 1]
    prefilling = [index for index, tokens in enumerate(left) if tokens > 1]

    if not mixed and prefilling and (chunk_turn or not decoding):
        take[prefilling[0]] = min(left[prefilling[0]], ubatch)
        return take
    for index in decoding:
        take[index] = 1
    if not mixed:
        return take

    budget = ubatch - sum(take)
    if decoding:
        budget = min(budget, MIXED_CHUNK)
    # Shortest first: what a short prompt leaves of its share goes to the longer ones.
    for position, index in enumerate(sorted(prefilling, key=lambda index: left[index])):
        share = max(1, budget // (len(prefilling) - position))
        take[index] = min(left[index], share)
        budget -= take[index]
    return take
