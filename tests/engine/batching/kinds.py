"""Tests that hold for several kinds of memory."""

from collections.abc import Callable

import pytest

from ds4trio.cache import MemoryKind
from tests.engine.batching.fake_memory import KINDS

__all__ = ["every_kind", "that_roll_back", "whole_only", "with_checkpoints"]


def _those(suits: Callable[[MemoryKind], object]) -> pytest.MarkDecorator:
    kinds = {name: kind for name, kind in KINDS.items() if suits(kind)}
    return pytest.mark.parametrize("kind", kinds.values(), ids=kinds)


every_kind = _those(lambda _: True)
that_roll_back = _those(lambda kind: not kind.whole_only)
whole_only = _those(lambda kind: kind.whole_only)
with_checkpoints = _those(lambda kind: kind.checkpoint)
