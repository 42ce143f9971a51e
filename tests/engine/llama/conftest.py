"""The demo model, opened in this process."""

from pathlib import Path

import pytest

from ds4trio.config import demo_model
from ds4trio.engine.llama import LlamaOptions


@pytest.fixture(scope="session")
def model() -> Path:
    path = demo_model()
    assert path is not None, "the test extra brings the demo model"
    return path


@pytest.fixture
def options(model: Path) -> LlamaOptions:
    return LlamaOptions(path=model, threads=1, context_length=2048)
