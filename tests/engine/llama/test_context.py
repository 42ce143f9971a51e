"""A batch is done when it is computed, also where a device computes after llama.cpp has returned."""

from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest

from ds4trio.config import demo_model
from ds4trio.engine.batching import Outcome, Span
from ds4trio.engine.llama.abort import AbortFlag
from ds4trio.engine.llama.context import Context, ContextOptions, open_context
from ds4trio.engine.llama.model import load_model

pytestmark = pytest.mark.slow


@pytest.fixture
def context() -> Iterator[Context]:
    path = demo_model()
    assert isinstance(path, Path)
    options = ContextOptions(
        context_length=256, sequences=1, ubatch=64, threads=1, flash_attention="auto", kv_type_k="f16", kv_type_v="f16"
    )
    with (
        load_model(str(path), n_gpu_layers=0, on_progress=lambda _: True) as model,
        open_context(model, options, AbortFlag()) as opened,
    ):
        yield opened


@pytest.mark.parametrize(("code", "outcome"), [(0, Outcome.DONE), (2, Outcome.ABORTED), (1, Outcome.NO_CELLS)])
def test_every_batch_is_waited_for_before_its_outcome_is_told(
    context: Context, monkeypatch: pytest.MonkeyPatch, code: int, outcome: Outcome
) -> None:
    calls = []

    def decode(*_: object) -> int:
        calls.append("decode")
        return code

    monkeypatch.setattr(llama_cpp, "llama_decode", decode)
    monkeypatch.setattr(llama_cpp, "llama_synchronize", lambda _: calls.append("synchronize"))
    result, ((row,),) = context.decode([Span(0, 0, [1, 2], rows=1)], (), may_abort=True)
    assert result is outcome
    assert row.row == 1
    assert calls == ["decode", "synchronize"]
