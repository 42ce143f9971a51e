"""Who waits for whom: a prefix that two prompts want at the same time is computed by one of them."""

from collections.abc import Iterable
from typing import TypeVar

from ds4trio.cache import Match, MemoryKind, common_prefix
from ds4trio.engine.batching.sequence import Sequence

__all__ = ["finds_leader", "follows"]

Row = TypeVar("Row")

WORTH_WAITING = 64
"""Tokens of a prefix that another request is computing anyway."""
PATIENCE = 8
"""Steps that one waits for another who gets no further: others go before that one, and might not before this one."""


def follows(sequence: Sequence[Row]) -> bool:
    """Whether the one that a sequence waits for is still on its way. Called once a step, since it counts them."""
    leader = sequence.leader
    if leader is None or leader.slot is None or leader.computed >= sequence.wanted:
        return False
    sequence.idle = sequence.idle + 1 if leader.computed == sequence.seen else 0
    sequence.seen = leader.computed
    return sequence.idle < PATIENCE


def finds_leader(sequence: Sequence[Row], match: Match, others: Iterable[Sequence[Row]], kind: MemoryKind) -> bool:
    """Whether one of the ``others`` is computing a prefix that this one had better take over from it.

    ``match`` is what it would find in the slots.
    """
    sequence.leader = None
    if sequence.idle >= PATIENCE:
        return False
    known = max(match.reusable, sequence.saved.position if sequence.saved else 0)
    for other in others:
        if other.slot is None or other.answering or other.priority > sequence.priority:
            continue
        wanted = _shareable(other, sequence, kind)
        if wanted - known >= WORTH_WAITING and other.computed < wanted:
            sequence.leader, sequence.wanted, sequence.seen, sequence.idle = other, wanted, other.computed, 0
            known = wanted
    return sequence.leader is not None


def _shareable(leader: Sequence[Row], follower: Sequence[Row], kind: MemoryKind) -> int:
    """How many tokens the follower will be able to take from what the leader is going to compute."""
    shared = min(common_prefix(leader.tokens, follower.tokens), len(follower.tokens) - 1)
    if kind.checkpoint is None:
        return shared
    return max((border for border in leader.borders if border <= shared), default=0)
