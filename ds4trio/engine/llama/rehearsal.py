"""What a model is going to take, told by llama.cpp itself without reading the weights.

llama.cpp can go through all that it does at load and allocate nothing; the sizes stand in its log, and nowhere else.
They hold for every architecture that it knows, which no formula over a file's metadata does. An abort in there ends the
process, so this belongs into one of its own (`ds4trio.doctor.rehearsal`).
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import llama_cpp

from ds4trio.engine.base import EngineError
from ds4trio.engine.llama.abort import AbortFlag
from ds4trio.engine.llama.context import ContextOptions, open_context
from ds4trio.engine.llama.model import Model, load_model
from ds4trio.engine.llama.worker import fitted

__all__ = ["Build", "Footprint", "build", "rehearsed"]

MIB = 2**20
KV = re.compile(r"(?:kv_cache|memory_recurrent).*: size =\s*([\d.]+) MiB \(")
BUFFER = re.compile(r"(\S+)\s+(compute|output) buffer size =\s*([\d.]+) MiB")


@dataclass(frozen=True, slots=True)
class Build:
    """Which llama-cpp-python this is; ``features`` are what it uses of the CPU, ``gpu`` whether it can use a GPU."""

    version: str
    features: tuple[str, ...]
    gpu: bool


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes: the file's tensors, the memory of all sequences, and what a batch needs to be computed."""

    weights: int
    kv: int
    compute: int


def build() -> Build:
    """What was built. Not a checkpoint."""
    told = llama_cpp.llama_print_system_info().decode(errors="replace")
    features = tuple(name.split(":")[-1].strip() for name, _, on in map(_split, told.split("|")) if on.strip() == "1")
    return Build(llama_cpp.__version__, features, bool(llama_cpp.llama_supports_gpu_offload()))


def _split(feature: str) -> tuple[str, str, str]:
    return feature.partition("=")


@contextmanager
def rehearsed(path: str, sizes: ContextOptions, *, n_gpu_layers: int) -> Iterator[tuple[Model, int, Footprint]]:
    """The model without its weights, the context that it would get in tokens, and what both would take.

    Blocks. Raises `EngineError` where a server could not open it either.
    """
    lines = _Lines()
    logger = logging.getLogger("ds4trio.llama")
    logger.addHandler(lines)
    logger.setLevel(logging.DEBUG)
    try:
        with (
            load_model(path, n_gpu_layers=n_gpu_layers, on_progress=lambda _: True, weights=False) as model,
            open_context(model, fitted(sizes, model), AbortFlag()) as context,
        ):
            kv = [float(match[1]) for line in lines.texts if (match := KV.search(line))]
            # Reserved more than once; the last one stays.
            buffers = {match.group(1, 2): float(match[3]) for line in lines.texts if (match := BUFFER.search(line))}
            if not buffers:
                raise EngineError("llama.cpp does not say what it would take")
            yield (
                model,
                context.cells,
                Footprint(model.size_bytes, int(MIB * sum(kv)), int(MIB * sum(buffers.values()))),
            )
    finally:
        logger.removeHandler(lines)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
