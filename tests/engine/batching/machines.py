"""Machines made of arithmetic: the seconds that a step of so many tokens and so much work takes on them."""

from bisect import bisect_right
from collections.abc import Callable
from math import log

__all__ = ["MACHINES", "SMOOTH", "Machine", "measured_cpu"]

Machine = Callable[[int, float], float]

# Milliseconds per token at position 0, and what 1000 positions add: SmolLM2-135M, 2 cores, flash attention. From 64
# tokens on there is another kernel.
MEASURED = {
    1: (5.5, 3.9),
    16: (4.9, 2.9),
    32: (4.3, 3.6),
    48: (4.6, 2.8),
    64: (3.8, 1.9),
    128: (3.5, 1.6),
    512: (3.3, 1.4),
}


def measured_cpu(tokens: int, work: float) -> float:
    """Between two measured sizes the cost goes from one to the other, but for the step at 64 tokens."""
    sizes = list(MEASURED)
    index = bisect_right(sizes, tokens) - 1
    per_token, per_position = MEASURED[sizes[index]]
    if sizes[index] not in (48, 512):
        way = log(tokens / sizes[index]) / log(sizes[index + 1] / sizes[index])
        next_token, next_position = MEASURED[sizes[index + 1]]
        per_token += way * (next_token - per_token)
        per_position += way * (next_position - per_position)
    return (per_token * tokens + per_position * work / 1000) / 1000


def compute_bound(tokens: int, work: float) -> float:
    """Each token costs the same."""
    return 0.0005 + 0.004 * tokens + 2e-7 * work


def memory_bound(tokens: int, work: float) -> float:
    """Each step reads a large model, so a token more costs little."""
    return 0.08 + 0.0015 * tokens + 1e-6 * work


def gpu(tokens: int, work: float) -> float:
    """A small batch costs what a large one does."""
    return 0.005 + 2e-5 * tokens + 1e-9 * work


def slow_cpu(tokens: int, work: float) -> float:
    """A model that is too large for the machine: no step with a prompt stays within any bound."""
    return 0.1 + 0.15 * tokens + 1e-5 * work


SMOOTH: dict[str, Machine] = {
    "compute-bound": compute_bound,
    "memory-bound": memory_bound,
    "gpu": gpu,
    "slow": slow_cpu,
}
MACHINES: dict[str, Machine] = {"measured": measured_cpu, **SMOOTH}
