"""LoRA adapters: what they change, that they end with the context, and those that do not fit."""

from dataclasses import replace
from pathlib import Path

import llama_cpp
import pytest

from ds4trio.engine import EngineError
from ds4trio.engine.llama import Adapter, LlamaOptions, open_llama_engine
from ds4trio.engine.llama.context import ContextOptions
from ds4trio.engine.llama.kv_disk import fingerprint
from tests.engine.llama.test_engine import QUESTION, ask
from tests.gguf_files import write_lora

pytestmark = pytest.mark.slow

ANSWER = "The capital of France is Paris."


@pytest.fixture(scope="session")
def lora(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lora(model, tmp_path_factory.mktemp("lora") / "noise.gguf")


async def answer(options: LlamaOptions, *adapters: Adapter) -> str:
    async with open_llama_engine(replace(options, adapters=adapters)) as engine:
        assert engine.info.adapters == tuple((str(adapter.path), adapter.scale) for adapter in adapters)
        return (await ask(engine, QUESTION))[0]


async def test_an_adapter_changes_answers_as_far_as_its_scale_says(options: LlamaOptions, lora: Path) -> None:
    assert await answer(options) == ANSWER
    assert await answer(options, Adapter(lora)) != ANSWER
    assert await answer(options, Adapter(lora, 0)) == ANSWER
    # Two that take each other back: each of them counts.
    assert await answer(options, Adapter(lora, 0.5), Adapter(lora, -0.5)) == ANSWER


async def test_adapters_are_freed_after_their_context_and_before_the_model(
    options: LlamaOptions, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in (
        "llama_adapter_lora_init",
        "llama_init_from_model",
        "llama_free",
        "llama_adapter_lora_free",
        "llama_model_free",
    ):

        def noting(*arguments: object, name: str = name, real: object = getattr(llama_cpp, name)) -> object:
            calls.append(name)
            return real(*arguments)  # type: ignore[operator]  # a ctypes function

        monkeypatch.setattr(llama_cpp, name, noting)
    await answer(options, Adapter(lora))
    assert calls == [
        "llama_adapter_lora_init",
        "llama_init_from_model",
        "llama_free",
        "llama_adapter_lora_free",
        "llama_model_free",
    ]


@pytest.mark.parametrize("what", ["no gguf", "the model itself", "for another architecture", "activated"])
async def test_a_file_that_is_no_adapter_of_the_model_is_named(
    what: str, options: LlamaOptions, model: Path, tmp_path: Path
) -> None:
    path, message = tmp_path / "wrong.gguf", "as a LoRA adapter of this model"
    match what:
        case "no gguf":
            path.write_bytes(b"GGUF" + bytes(64))
        case "the model itself":
            path = model
        case "for another architecture":
            write_lora(model, path, architecture="gemma3")
        case _:
            write_lora(model, path, invocation=(1, 2))
            message = "activated LoRA"
    with pytest.raises(ExceptionGroup) as caught:
        await answer(options, Adapter(path))
    error = caught.value.exceptions[0]
    assert isinstance(error, EngineError)
    assert str(path) in str(error)
    assert message in str(error)


def test_the_fingerprint_is_another_one_for_another_adapter_or_another_scale(tmp_path: Path) -> None:
    def identity(*adapters: Adapter) -> bytes:
        options = ContextOptions(
            context_length=4096,
            sequences=4,
            ubatch=64,
            threads=1,
            flash_attention="auto",
            kv_type_k="f16",
            kv_type_v="f16",
            adapters=adapters,
        )
        return fingerprint(tmp_path / "model.gguf", options, n_gpu_layers=0)

    for name, content in (("model", b"m"), ("a", b"a"), ("b", b"b"), ("copy of a", b"a")):
        (tmp_path / f"{name}.gguf").write_bytes(content * 1000)
    a, b, copy = (tmp_path / f"{name}.gguf" for name in ("a", "b", "copy of a"))
    different = [(), (Adapter(a),), (Adapter(b),), (Adapter(a, 0.5),), (Adapter(a), Adapter(b, 0.5))]
    assert len({identity(*adapters) for adapters in different}) == len(different)
    assert identity(Adapter(a)) == identity(Adapter(copy))
