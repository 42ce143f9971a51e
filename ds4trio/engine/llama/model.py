"""A loaded GGUF: its metadata, its tokenizer, what its memory can do. No context, no computation."""

import ctypes
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import llama_cpp

from ds4trio.engine.base import EngineError, Sampling

__all__ = ["Memory", "Model", "load_model"]

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
SPECIAL_ATTRIBUTES = (
    llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
)
# No real conversation has many more, so nearly every prompt is tokenized in one call. 130,000 in one call take 31 s.
SPECIALS_PER_PIECE = 512
# Memories of which only whole sequences can be saved, copied or removed; any other call ends in ggml_abort.
WHOLE_SEQUENCE_ARCHITECTURES = frozenset({"deepseek4"})


@dataclass(frozen=True, slots=True)
class Memory:
    """What the model's memory can do, decided once, since a wrong call kills the process.

    ``whole_only``: no suffix can be removed and no range copied. ``window``: attention window in tokens, 0 for none.
    """

    whole_only: bool
    window: int


class Model:
    """An open ``llama_model``. Its methods are thread-safe: the vocabulary never changes."""

    def __init__(self, pointer: llama_cpp.llama_model_p) -> None:
        self.pointer = pointer
        self._tokenizing = 0
        self._closed = False
        self._quiet = threading.Condition()
        self._vocab = llama_cpp.llama_model_get_vocab(pointer)
        self.trained_context_length = int(llama_cpp.llama_model_n_ctx_train(pointer))
        self.vocabulary_size = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self.parameters = int(llama_cpp.llama_model_n_params(pointer))
        self.size_bytes = int(llama_cpp.llama_model_size(pointer))
        template = llama_cpp.llama_model_chat_template(pointer, None)
        self.chat_template: str | None = template.decode(errors="replace") if template else None
        self._special = self._special_pattern()
        self._adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))
        self.bos_token = self._token_text(llama_cpp.llama_vocab_bos(self._vocab))
        self.eos_token = self._token_text(llama_cpp.llama_vocab_eos(self._vocab))

    @property
    def description(self) -> str:
        """Architecture, size and quantization in llama.cpp's words."""
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self.pointer, buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    @property
    def memory(self) -> Memory:
        """What may be done to sequences of this model."""
        whole_only = (
            llama_cpp.llama_model_is_recurrent(self.pointer)
            or llama_cpp.llama_model_is_hybrid(self.pointer)
            or self.metadata("general.architecture") in WHOLE_SEQUENCE_ARCHITECTURES
        )
        return Memory(whole_only=bool(whole_only), window=int(llama_cpp.llama_model_n_swa(self.pointer)))

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

    def tokenize(self, text: str, *, check: Callable[[], None] = lambda: None) -> list[int]:
        """Token ids of ``text``. Special tokens written in it count as such, since templates write them.

        A beginning-of-sequence token is added where the model wants one and the text does not start with it. Raises
        `EngineError` after `close`.

        ``check`` is called between pieces of a text that is full of special tokens and may raise to give up. A plain
        text is one piece, at about a megabyte per second.
        """
        with self._quiet:
            if self._closed:
                raise EngineError("the engine has stopped")
            self._tokenizing += 1
        try:
            tokens: list[int] = []
            add_bos = self._adds_bos and not (self.bos_token and text.startswith(self.bos_token))
            for number, piece in enumerate(self._pieces(text)):
                check()
                tokens += self._tokenize(piece, add_bos=add_bos and number == 0)
            return tokens
        finally:
            with self._quiet:
                self._tokenizing -= 1
                self._quiet.notify_all()

    def close(self) -> None:
        """Free the model once no thread tokenizes with it; blocks until then."""
        with self._quiet:
            self._closed = True
            self._quiet.wait_for(lambda: self._tokenizing == 0)
        llama_cpp.llama_model_free(self.pointer)

    def _pieces(self, text: str) -> Iterator[str]:
        """Cut before special tokens: llama.cpp's search for them takes time with the square of their number."""
        start = 0
        for number, match in enumerate(self._special.finditer(text), 1):
            if number % SPECIALS_PER_PIECE == 0:
                yield text[start : match.start()]
                start = match.start()
        yield text[start:]

    def _special_pattern(self) -> re.Pattern[str]:
        """Matches the text of every special token, of several that begin alike the longest."""
        texts = {
            llama_cpp.llama_vocab_get_text(self._vocab, token).decode(errors="replace")
            for token in range(self.vocabulary_size)
            if llama_cpp.llama_vocab_get_attr(self._vocab, token) & SPECIAL_ATTRIBUTES
        }
        return re.compile("|".join(map(re.escape, sorted(texts - {""}, key=len, reverse=True))) or "(?!)")

    def _tokenize(self, text: str, *, add_bos: bool) -> list[int]:
        data = text.encode(errors="replace")
        room = len(data) + 2
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, add_bos, True)
        if count < 0:
            raise EngineError(f"the tokenizer failed on a text of {len(data)} bytes")
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """The bytes that ``token`` stands for; empty for control tokens."""
        return self._piece(token, special=False)

    def ends_generation(self, token: int) -> bool:
        """Whether the model says with ``token`` that it is done."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def _piece(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[:size]

    def _token_text(self, token: int) -> str:
        return self._piece(token, special=True).decode(errors="replace") if token >= 0 else ""


@contextmanager
def load_model(path: str, *, n_gpu_layers: int, on_progress: Callable[[float], bool]) -> Iterator[Model]:
    """Open a GGUF file for the length of the block.

    Blocks for as long as loading takes. ``on_progress`` gets the loaded fraction and may return False to give up.
    Raises `EngineError` for a file that llama.cpp cannot load.
    """
    llama_cpp.llama_log_set(_log_line, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()

    @llama_cpp.llama_progress_callback  # type: ignore[untyped-decorator]  # a ctypes function type
    def progress(fraction: float, _: ctypes.c_void_p) -> bool:
        return on_progress(fraction)

    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    params.progress_callback = progress
    pointer = llama_cpp.llama_model_load_from_file(path.encode(), params)
    if not pointer:
        raise EngineError(f"llama.cpp cannot load {path}: not a GGUF file, damaged, or of an unknown architecture")
    model = Model(pointer)
    try:
        yield model
    finally:
        model.close()
