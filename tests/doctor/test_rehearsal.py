"""What llama.cpp says that a model would take is what it takes, for every kind of memory."""

import logging
import re
from pathlib import Path

import pytest

from ds4trio.config import Settings, demo_model
from ds4trio.doctor.rehearsal import rehearse
from ds4trio.engine import EngineError
from ds4trio.engine.llama.abort import AbortFlag
from ds4trio.engine.llama.context import ContextOptions, open_context
from ds4trio.engine.llama.model import load_model
from ds4trio.engine.llama.rehearsal import BUFFER, KV, rehearsed
from ds4trio.engine.llama.worker import fitted
from tests.tiny_models import Kind, tiny_model

MIB = 2**20
SIZES = ContextOptions(
    context_length=4096,
    sequences=2,
    ubatch=256,
    threads=1,
    flash_attention="auto",
    kv_type_k="f16",
    kv_type_v="f16",
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("kind", ["full", "sliding", "hybrid", "deepseek4"])
def test_it_is_what_the_real_model_takes(kind: Kind, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tiny_model(kind, directory))
    with rehearsed(path, SIZES, n_gpu_layers=0) as (_, context_length, told):
        assert context_length == 4096
    caplog.clear()
    with (
        caplog.at_level(logging.DEBUG, "ds4trio.llama"),
        load_model(path, n_gpu_layers=0, on_progress=lambda _: True) as model,
        open_context(model, fitted(SIZES, model), AbortFlag()),
    ):
        lines = [record.getMessage() for record in caplog.records]
    allocated = [float(match[1]) for line in lines if (match := re.search(r"(?:KV|RS) buffer size = +([\d.]+)", line))]
    buffers = {match.group(1, 2): float(match[3]) for line in lines if (match := BUFFER.search(line))}
    assert allocated
    # The log rounds to hundredths of a MiB.
    assert told.kv / MIB == pytest.approx(sum(allocated), abs=0.02 * len(allocated))
    assert told.compute / MIB == pytest.approx(sum(buffers.values()), abs=0.05)
    assert told.weights == model.size_bytes
    assert any(KV.search(line) for line in lines)


def test_full_attention_takes_what_its_metadata_says() -> None:
    told = rehearse(Settings(ctx=4096), demo_model())
    assert told.failure is None
    assert told.model is not None
    # SmolLM2-135M: 30 layers, three heads of 64 for K and V each, in two bytes.
    assert told.model.kv == 4096 * 30 * (3 * 64) * 2 * 2
    assert (told.model.context, told.model.trained_context) == (4096, 8192)
    halved = rehearse(Settings(ctx=4096, cache_type_k="q8_0", cache_type_v="q8_0"), demo_model())
    assert halved.model is not None
    assert halved.model.kv / told.model.kv == pytest.approx(8.5 / 16, abs=0.01)


def test_a_file_that_is_no_model_is_a_failure_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    told = rehearse(Settings(), path)
    assert told.build is not None
    assert told.model is None
    assert told.failure is not None
    assert (told.failure.stage, "cannot load" in told.failure.problem) == ("model", True)
    with pytest.raises(EngineError), rehearsed(str(path), SIZES, n_gpu_layers=0):
        pass


@pytest.mark.parametrize(
    ("source", "problem"),
    [("{{ raise_exception('not today') }}", "not today"), ("{% if %}", ""), (b"\xff", "")],
)
def test_a_template_that_does_not_work_is_its_own_failure(source: str | bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    told = rehearse(Settings(chat_template=str(path)), demo_model())
    assert told.model is not None
    assert told.chat is None
    assert told.failure is not None
    assert told.failure.stage == "template"
    assert problem in told.failure.problem


def test_without_llama_cpp_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise ImportError('no such library')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    told = rehearse(Settings(), None)
    assert told.build is None
    assert told.failure is not None
    assert (told.failure.stage, told.failure.problem) == ("import", "no such library")


def test_a_crash_is_told_by_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama_cpp.py").write_text("import os\nos.abort()")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    told = rehearse(Settings(), demo_model())
    assert told.failure is not None
    assert "SIGABRT" in told.failure.problem
