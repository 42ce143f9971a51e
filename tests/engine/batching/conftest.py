"""What several tests of the batcher start from."""

import pytest

from tests.engine.batching import bench


@pytest.fixture
def long_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer ends by itself, and nothing is forced into it: each is as long as it may be."""
    monkeypatch.setattr(bench, "END", 10**9)
    monkeypatch.setattr(bench, "FRAME", 10**9)
