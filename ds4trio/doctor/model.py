"""What a model needs of the machine, and agents of the model."""

from collections.abc import Iterator
from pathlib import Path

from ds4trio.config import ConfigError, Settings
from ds4trio.doctor.findings import Finding, ok, problem, size, warning
from ds4trio.doctor.rehearsal import ChatFacts, Failure, ModelFacts, Rehearsal
from ds4trio.engine.split import model_parts
from ds4trio.hub import HubModel
from ds4trio.source import model_source

__all__ = ["checks", "find"]

AGENTS_CONTEXT = 32_768
"""Tokens. The first prompts of agents have 8,000 to 20,000, and then they read files."""
CLOSE = 0.9
"""The part of the free memory from which on it is close."""


def find(settings: Settings) -> tuple[Path | None, Finding]:
    """The file that would be served, None where there is none."""
    try:
        source = model_source(settings)
    except ConfigError as error:
        return None, problem("model", str(error), "see `ds4trio serve --help`")
    if source is None:
        return None, ok("model", "the simulated engine, which needs none")
    if isinstance(source, HubModel):
        return None, ok(
            "model", f"{source} of the Hub; give its file with --model, once it is there, to have it looked at"
        )
    try:
        with source.open("rb") as file:
            if file.read(4) != b"GGUF":
                return None, problem("model", f"{source} is no GGUF file", "give the path of one with --model")
        length = sum(part.stat().st_size for part in model_parts(source))
    except OSError as error:
        return None, problem("model", f"{source} cannot be read: {error.strerror}", "give a readable file with --model")
    demo = "" if settings.model else " (the demo model: it talks, but is too small for an agent's work)"
    return source, ok("model", f"{source.name}, {size(length)}{demo}")


def checks(settings: Settings, told: Rehearsal, available: int) -> Iterator[Finding]:
    """What the rehearsal means. ``available`` is free memory in bytes."""
    if told.model is None:
        yield _unloadable(told.failure)
        return
    yield _memory(settings, told.model, available, gpu=bool(told.build and told.build.gpu and settings.n_gpu_layers))
    yield _context(settings, told.model)
    if told.chat is None:
        why = told.failure.problem if told.failure else "it says nothing"
        yield problem("template", f"it does not work: {why}", "give another one with --chat-template FILE")
    else:
        yield from _chat(told.chat)


def _unloadable(failure: Failure | None) -> Finding:
    why = failure.problem if failure else "llama.cpp says nothing"
    return problem("load", why, "check the download; if the model is new, take a newer llama-cpp-python")


def _memory(settings: Settings, model: ModelFacts, available: int, *, gpu: bool) -> Finding:
    needed, beside = model.weights + model.kv + model.compute, 2 * settings.cache_ram_mb * 2**20
    said = (
        f"{size(needed)} needed: weights {size(model.weights)}, KV of {model.context:,} tokens {size(model.kv)}, "
        f"computing {size(model.compute)}; {size(available)} free"
    )
    if gpu:
        return ok("memory", f"{said}. What is offloaded is the GPU's, whose memory was not looked at")
    if needed > available:
        per_token = model.kv / model.context
        fits = int((available * CLOSE - model.weights - model.compute) / per_token) // 256 * 256 if per_token else 0
        smaller = f"--ctx {fits}, --cache-type-k q8_0 --cache-type-v q8_0, " if fits >= 2048 else ""
        return problem("memory", said, f"{smaller}a smaller model, or fewer bits for its weights")
    if needed > CLOSE * available:
        return warning("memory", said, "it is close: a smaller --ctx leaves room for others")
    if needed + beside > available:
        most = int((available - needed) / 2) // 2**20
        fix = f"--cache-ram-mb {most}: idle conversations may take twice that beside it"
        return warning("memory", f"{said}, and up to {size(beside)} for what rests", fix)
    return ok("memory", said)


def _context(settings: Settings, model: ModelFacts) -> Finding:
    said = f"{model.context:,} tokens, trained for {model.trained_context:,}"
    if model.context > model.trained_context:
        return warning("context", said, f"beyond them answers get worse: --ctx {model.trained_context}")
    if model.context < min(AGENTS_CONTEXT, model.trained_context):
        return warning(
            "context", said, f"agents begin with up to 20,000: --ctx {min(AGENTS_CONTEXT, model.trained_context)}"
        )
    if model.context < AGENTS_CONTEXT:
        return warning("context", said, "agents begin with up to 20,000: for them take a model with a longer one")
    return ok("context", said)


def _chat(chat: ChatFacts) -> Iterator[Finding]:
    if not chat.found:
        yield warning(
            "template", "the model has none, so only /v1/completions works", "give one with --chat-template FILE"
        )
        return
    yield ok("template", "renders" + (f", reasoning in {chat.think}" if chat.think else ""))
    form = f"calls as {chat.codec}, beginning with {chat.marker}" if chat.marker else f"calls as {chat.codec}"
    if chat.tools and chat.calls:
        yield ok("tools", form)
        return
    lacks = "lists no tools" if not chat.tools else "writes no calls"
    yield warning(
        "tools",
        f"the template {lacks}; a text of this server does that ({form})",
        "for agents take a model that was made for tools",
    )
