"""Lets llama.cpp open a model without its weights, in a process of its own: what fails there fails alone.

The process says what it has found line by line, so that one that is ended by a crash has still told the rest.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from ds4trio.config import Settings, usable_cores

__all__ = ["BuildFacts", "ChatFacts", "Failure", "ModelFacts", "Rehearsal", "rehearse"]

PATIENCE = 120.0
"""Seconds; a file of many gigabytes on a slow disk has its metadata read within a few."""


class BuildFacts(msgspec.Struct, tag=True):
    """What llama-cpp-python was built with."""

    version: str
    features: list[str]
    gpu: bool


class ModelFacts(msgspec.Struct, tag=True):
    """A model as it would be opened; sizes in bytes, contexts in tokens."""

    description: str
    trained_context: int
    context: int
    weights: int
    kv: int
    compute: int


class ChatFacts(msgspec.Struct, tag=True):
    """What the model's template is good for; ``marker`` is what a call begins with, ``codec`` how it goes on."""

    found: bool
    tools: bool = False
    calls: bool = False
    codec: str = ""
    marker: str = ""
    think: str = ""


class Failure(msgspec.Struct, tag=True):
    """Where it came to an end, and why."""

    stage: str
    problem: str


Told = BuildFacts | ModelFacts | ChatFacts | Failure


class Rehearsal(msgspec.Struct):
    """All that was told; what comes after a failure is missing."""

    build: BuildFacts | None = None
    model: ModelFacts | None = None
    chat: ChatFacts | None = None
    failure: Failure | None = None


def rehearse(settings: Settings, path: Path | None) -> Rehearsal:
    """Try to open the model in ``path``, or only llama.cpp where there is none. Blocks for a second or so."""
    told = Rehearsal()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ds4trio.doctor.rehearsal", *([str(path)] if path else [])],
            input=msgspec.json.encode(settings),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            # A crash is told by its signal; a debugger that prints where it was takes seconds.
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
    except subprocess.TimeoutExpired:
        told.failure = Failure("time", f"llama.cpp was not done after {PATIENCE:g} s")
        return told
    for line in done.stdout.splitlines():
        if not line.startswith(b'{"type":'):  # a library that prints
            continue
        match msgspec.json.decode(line, type=Told):
            case BuildFacts() as build:
                told.build = build
            case ModelFacts() as model:
                told.model = model
            case ChatFacts() as chat:
                told.chat = chat
            case failure:
                told.failure = failure
    if done.returncode and told.failure is None:
        told.failure = Failure("crash", _last_words(done))
    return told


def _last_words(done: "subprocess.CompletedProcess[bytes]") -> str:
    how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit status {done.returncode}"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return f"llama.cpp ended with {how}" + (f": {lines[-1]}" if lines else "")


def _main() -> None:
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)
    paths = sys.argv[1:]
    try:
        from ds4trio.engine.llama import rehearsal  # noqa: PLC0415 - whether that works is the question
    except (ImportError, OSError, RuntimeError) as error:
        _tell(Failure("import", str(error)))
        return
    build = rehearsal.build()
    _tell(BuildFacts(build.version, list(build.features), build.gpu))
    for path in paths:
        _open(settings, path)


def _open(settings: Settings, path: str) -> None:
    from ds4trio.chat import ChatModel, Conversation, Message, TemplateFailedError  # noqa: PLC0415 - as llama.cpp
    from ds4trio.engine import EngineError  # noqa: PLC0415
    from ds4trio.engine.llama.context import ContextOptions  # noqa: PLC0415
    from ds4trio.engine.llama.rehearsal import rehearsed  # noqa: PLC0415

    sizes = ContextOptions(
        context_length=settings.ctx,
        sequences=settings.parallel,
        ubatch=settings.batch,
        threads=settings.threads or usable_cores(),
        flash_attention=settings.flash_attn,
        kv_type_k=settings.cache_type_k,
        kv_type_v=settings.cache_type_v,
    )
    try:
        with rehearsed(path, sizes, n_gpu_layers=settings.n_gpu_layers) as (model, context, takes):
            _tell(
                ModelFacts(
                    model.description, model.trained_context_length, context, takes.weights, takes.kv, takes.compute
                )
            )
            source, vocabulary = model.chat_template, model.vocabulary
            if settings.chat_template:
                source = Path(settings.chat_template).read_text(encoding="utf-8")
            if source is None:
                _tell(ChatFacts(found=False))
                return
            chat = ChatModel(
                source,
                bos_token=vocabulary.bos_token,
                eos_token=vocabulary.eos_token,
                special_tokens=vocabulary.special,
                control_tokens=vocabulary.control,
            )
            chat.render(Conversation(messages=(Message("user", "Hello"),)))
            can, dialect = chat.capabilities, chat.dialect
            marker = (dialect.section_begin or dialect.call_begin or dialect.head).strip()
            _tell(ChatFacts(True, can.tools or can.functions, can.calls, dialect.codec, marker, dialect.think_start))
    except EngineError as error:
        _tell(Failure("model", str(error)))
    except (TemplateFailedError, OSError, UnicodeDecodeError) as error:
        _tell(Failure("template", str(error)))


def _tell(told: Told) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
