"""LoRA adapters: small GGUF files that change what a model computes, here for as long as a context is open."""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

from ds4trio.engine.base import EngineError, UnusableModelError
from ds4trio.engine.llama.model import Model

__all__ = ["Adapter", "LoadedAdapters", "load_adapters"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA in a GGUF file. ``scale`` says how much of it is added: 0 nothing, 1 what it was trained for."""

    path: Path
    scale: float = 1.0


class LoadedAdapters:
    """Adapters of an open model. Made by `load_adapters`."""

    def __init__(self, pointers: Sequence[llama_cpp.llama_adapter_lora_p], scales: Sequence[float]) -> None:
        # What llama_cpp declares as a number is the pointer that its loading function has given.
        self._pointers = (llama_cpp.llama_adapter_lora_p_ctypes * len(pointers))(*pointers)  # type: ignore[misc]
        self._scales = (ctypes.c_float * len(scales))(*scales)

    def use_in(self, context: llama_cpp.llama_context_p) -> None:
        """Let all that ``context`` computes from now on go through them. Raises `EngineError`."""
        if llama_cpp.llama_set_adapters_lora(context, self._pointers, len(self._pointers), self._scales):
            raise EngineError("llama.cpp cannot use these LoRA adapters together; try fewer of them")


@contextmanager
def load_adapters(model: Model, adapters: Sequence[Adapter]) -> Iterator[LoadedAdapters]:
    """Read ``adapters`` for the length of the block, in which contexts that use them have to begin and to end.

    A context counts the adapters of its model when it is made, to have room for what they compute. Blocks. Raises
    `UnusableModelError` for one that does not go with the model.
    """
    with ExitStack() as stack:
        pointers = []
        for adapter in adapters:
            pointer = llama_cpp.llama_adapter_lora_init(model.pointer, os.fsencode(adapter.path))
            if not pointer:
                raise UnusableModelError(
                    f"llama.cpp cannot use {adapter.path} as a LoRA adapter of this model: not such a GGUF file, "
                    "damaged, or made for another model; the log line before this one says more"
                )
            stack.callback(llama_cpp.llama_adapter_lora_free, pointer)
            if llama_cpp.llama_adapter_get_alora_n_invocation_tokens(pointer):
                raise UnusableModelError(
                    f"{adapter.path} is an activated LoRA, made to begin in the middle of a prompt, which this server "
                    "cannot do; give one that holds for all tokens"
                )
            pointers.append(pointer)
        yield LoadedAdapters(pointers, [adapter.scale for adapter in adapters])
