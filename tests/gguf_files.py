"""GGUF files that are made of the demo model: the same model in parts, and small LoRA adapters for it."""

from pathlib import Path

import gguf
import numpy as np

__all__ = ["split_model", "write_lora"]

# What the attention of the last layer gives: a change there is in every answer, and nothing after it hides it.
TENSOR = "blk.{}.attn_output.weight"


def split_model(model: Path, directory: Path, *, parts: int, name: str = "split") -> list[Path]:
    """``model`` as ``parts`` files in ``directory``; the first one has the metadata and the other files the rest."""
    source = gguf.GGUFReader(model)
    most = -(-len(source.tensors) // parts)
    writer = gguf.GGUFWriter(directory / f"{name}.gguf", _text(source, "general.architecture"), split_max_tensors=most)
    for field in source.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kinds = field.types
            writer.add_key_value(field.name, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_shape=tensor.data.shape, raw_dtype=tensor.tensor_type)
    _write(writer)
    return sorted(directory.glob(f"{name}-*.gguf"))


def write_lora(model: Path, path: Path, *, architecture: str = "", invocation: tuple[int, ...] = ()) -> Path:
    """A LoRA of rank 1 for ``model``, of noise that changes what it says; ``invocation`` makes it an activated one."""
    source = gguf.GGUFReader(model)
    layers = sum(tensor.name.endswith("attn_output.weight") for tensor in source.tensors)
    changed = next(tensor for tensor in source.tensors if tensor.name == TENSOR.format(layers - 1))
    taken, given = (int(size) for size in changed.shape)
    noise = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, architecture or _text(source, "general.architecture"))
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)
    if invocation:
        writer.add_key_value(
            "adapter.alora.invocation_tokens", list(invocation), gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32
        )
    writer.add_tensor(f"{changed.name}.lora_a", noise.standard_normal((1, taken), np.float32))
    writer.add_tensor(f"{changed.name}.lora_b", noise.standard_normal((given, 1), np.float32))
    _write(writer)
    return path


def _text(source: gguf.GGUFReader, key: str) -> str:
    field = source.get_field(key)
    assert field is not None
    return str(field.contents())


def _write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
