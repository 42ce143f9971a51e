"""A loaded GGUF: its metadata, its vocabulary, what its memory can do. No context, no computation."""

import ctypes
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import llama_cpp

from ds4trio.cache import MemoryKind
from ds4trio.engine.base import EngineError, EngineStoppedError, Sampling, UnusableModelError
from ds4trio.engine.llama.vocabulary import Vocabulary

__all__ = ["Model", "ModelTokenizer", "ended", "load_model"]

log = logging.getLogger("ds4trio.llama")

# llama.cpp's own levels; its warnings at load are notes to the makers of models, not to those who run them.
LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.DEBUG, 4: logging.ERROR}
# What llama.cpp logs as an error when its abort callback fires: a cancelled request is none.
ABORTED = re.compile(r"failed with error 1|compute status: 1|failed to decode, ret = 2")


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # a ctypes function type
def _log_line(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    line = text.decode(errors="replace").strip()
    if line.strip("."):
        log.log(logging.DEBUG if ABORTED.search(line) else LEVELS.get(level, logging.DEBUG), "%s", line)


# GGUF metadata that carries a model's own sampling defaults, and the settings they become.
SAMPLING_KEYS = {
    "general.sampling.temp": ("temperature", float),
    "general.sampling.top_k": ("top_k", int),
    "general.sampling.top_p": ("top_p", float),
    "general.sampling.min_p": ("min_p", float),
    "general.sampling.penalty_last_n": ("repeat_last_n", int),
    "general.sampling.penalty_repeat": ("repeat_penalty", float),
}
# Memories of which only whole sequences can be saved or removed; other calls end in ggml_abort. A copy of such a
# sequence decodes on rightly but cannot be taken back to an earlier state (measured: logits off by 0.7).
WHOLE_STATE_ARCHITECTURES = frozenset({"deepseek4"})


class Model:
    """An open ``llama_model``. Thread-safe: nothing in it ever changes."""

    def __init__(self, pointer: llama_cpp.llama_model_p, *, on_cpu: bool = True) -> None:
        self.pointer = pointer
        self.on_cpu = on_cpu
        """Whether nothing of it was given to another device."""
        self._users = 0
        self._closed = False
        self._failed = False
        self._quiet = threading.Condition()
        self.vocabulary = Vocabulary(llama_cpp.llama_model_get_vocab(pointer))
        self.trained_context_length = int(llama_cpp.llama_model_n_ctx_train(pointer))
        self.parameters = int(llama_cpp.llama_model_n_params(pointer))
        self.size_bytes = int(llama_cpp.llama_model_size(pointer))
        template = llama_cpp.llama_model_chat_template(pointer, None)
        self.chat_template: str | None = template.decode(errors="replace") if template else None

    @property
    def description(self) -> str:
        """Architecture, size and quantization in llama.cpp's words."""
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self.pointer, buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    @property
    def memory(self) -> MemoryKind:
        """What may be done to sequences of this model."""
        window = int(llama_cpp.llama_model_n_swa(self.pointer))
        if self.metadata("general.architecture") in WHOLE_STATE_ARCHITECTURES:
            return MemoryKind(whole_only=True, window=window, checkpoint="whole")
        if llama_cpp.llama_model_is_recurrent(self.pointer) or llama_cpp.llama_model_is_hybrid(self.pointer):
            return MemoryKind(whole_only=True, window=window, checkpoint="part")
        return MemoryKind(window=window, checkpoint="part" if window else None)

    @property
    def sampling(self) -> Sampling:
        """The model's own sampling defaults where the file has them, else this server's."""
        values: dict[str, float | int] = {}
        for key, (name, kind) in SAMPLING_KEYS.items():
            try:
                values[name] = kind(float(self.metadata(key) or ""))
            except ValueError:  # no such key, or no number in it
                continue
        return Sampling(**values)  # type: ignore[arg-type]  # the table's kinds match the fields

    def metadata(self, key: str) -> str | None:
        """A short metadata value as text, or None."""
        buffer = ctypes.create_string_buffer(1024)
        size = llama_cpp.llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace") if size >= 0 else None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the model open for the length of the block. Raises what `ended` makes after `close`."""
        with self._quiet:
            if self._closed:
                raise ended(failed=self._failed)
            self._users += 1
        try:
            yield
        finally:
            with self._quiet:
                self._users -= 1
                self._quiet.notify_all()

    def close(self, *, failed: bool = False) -> None:
        """Free the model once no other thread uses it; blocks until then."""
        with self._quiet:
            self._closed, self._failed = True, failed
            self._quiet.wait_for(lambda: self._users == 0)
        llama_cpp.llama_model_free(self.pointer)


class ModelTokenizer:
    """Implements `Tokenizer`. ``check`` is called between pieces of a long text and may raise to give up.

    Every method raises `EngineError` once the model is closed: `EngineStoppedError` where the server stopped.
    """

    def __init__(self, model: Model, check: Callable[[], None]) -> None:
        self._model = model
        self._check = check

    def check(self) -> None:
        """See `Tokenizer.check`."""
        self._check()

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """See `Vocabulary.tokenize`."""
        with self._model.in_use():
            return self._model.vocabulary.tokenize(
                text, add_special=add_special, parse_special=parse_special, check=self._check
            )

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """See `Vocabulary.pieces`."""
        with self._model.in_use():
            return self._model.vocabulary.pieces(tokens, check=self._check)


@contextmanager
def load_model(
    path: str, *, n_gpu_layers: int, on_progress: Callable[[float], bool], weights: bool = True
) -> Iterator[Model]:
    """Open a GGUF file for the length of the block.

    Blocks for as long as loading takes. ``on_progress`` gets the loaded fraction and may return False to give up.
    Without ``weights`` nothing is read but the metadata, and nothing can be computed. Raises `UnusableModelError` for a
    file that llama.cpp cannot load.
    """
    llama_cpp.llama_log_set(_log_line, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()

    @llama_cpp.llama_progress_callback  # type: ignore[untyped-decorator]  # a ctypes function type
    def progress(fraction: float, _: ctypes.c_void_p) -> bool:
        return on_progress(fraction)

    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    params.progress_callback = progress
    if not weights:
        params.no_alloc, params.load_mode = True, llama_cpp.LLAMA_LOAD_MODE_NONE
    pointer = llama_cpp.llama_model_load_from_file(path.encode(), params)
    if not pointer:
        raise UnusableModelError(
            f"llama.cpp cannot load {path}: not a GGUF file, damaged or incomplete, or of an unknown architecture"
        )
    model = Model(pointer, on_cpu=n_gpu_layers == 0 or not llama_cpp.llama_supports_gpu_offload())
    try:
        yield model
    except BaseException:
        model.close(failed=True)
        raise
    model.close()


def ended(*, failed: bool) -> EngineError:
    """What those hear who come after the engine's end: it broke down (``failed``), or the server stops."""
    return EngineError("the engine has stopped") if failed else EngineStoppedError()
