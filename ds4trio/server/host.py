"""Who owns the engine: opens it when the server starts, closes it when the server ends, says how it is meanwhile."""

import gc
import logging
import time
from functools import partial
from pathlib import Path
from typing import Literal

import trio

from ds4trio.api.errors import InternalError, OverloadedError, UnknownModelError
from ds4trio.cache.disk import default_directory
from ds4trio.chat import ChatModel, TemplateFailedError
from ds4trio.chat.replay import Journal, ReplayMemory
from ds4trio.config import Settings, lora_adapters, usable_cores
from ds4trio.engine import Engine, EngineError, KvUse, ModelInfo, UnusableModelError
from ds4trio.engine.breakdown import first_leaf
from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.hub import HubError, HubModel
from ds4trio.source import model_source, source_name

__all__ = ["EngineHost"]

log = logging.getLogger("ds4trio")

LOADING_RETRY_AFTER = 2
WEDGED_RETRY_AFTER = 30
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

    Raises `ConfigError` where no model was given and no demo model is installed, or where a part of it is missing.
    """

    def __init__(self, settings: Settings, engine: Engine | None = None) -> None:
        self._settings = settings
        self._engine = engine
        self._chat: ChatModel | None = None
        self.chat_template: str | None = None
        """The source of the template that is used, once the model is loaded."""
        self._source = None if engine is not None else model_source(settings)
        self.path: Path | None = None
        """The model's file, or the first of its parts, once that is known; None with the simulated engine."""
        self.state: Literal["loading", "ready", "wedged", "failed"] = "loading"
        self.load_fraction = 0.0
        self.failure = ""
        self.settled = trio.Event()
        """Set once the state is no longer loading."""
        self.hopeless = False
        """Whether it has failed for a reason that stays."""
        self.failed = trio.Event()
        self.ended = trio.Event()
        """Set once the engine is closed."""
        self.draining = trio.Event()
        """Set once nothing new is started."""
        self.doing: Literal["downloaded", "loaded"] = "loaded"
        """What happens to the model while the state is loading."""
        self.names = settings.served_model_name or (source_name(self._source),)

    async def run(self) -> None:
        """Open the engine and keep it open until cancelled. Never raises: a failure becomes the state."""
        try:
            if self._engine is not None or self._source is None:
                engine = self._engine or _simulated(self._settings)
                await self._keep(engine, self._chat_model(engine.info, memory=None))
            else:
                self.path = await self._find(self._source)
                await self._run_llama(self.path)
        except* (EngineError, HubError, TemplateFailedError) as group:
            error = first_leaf(group)
            self.hopeless = isinstance(error, UnusableModelError | TemplateFailedError)
            self._fail(str(error))
        except* Exception as group:
            log.error("the engine broke down", exc_info=group)
            self._fail("the engine broke down; the server's log says more")
        finally:
            self.ended.set()

    def engine(self) -> Engine:
        """The engine. Not a checkpoint. Raises `ApiError` while it is loading or when it has failed."""
        if self.state == "failed":
            raise InternalError(self.failure, code="engine_failed")
        if self.state == "wedged":
            raise OverloadedError(
                "the model has not answered for a long time; the server may have to be started again",
                code="engine_wedged",
                retry_after=WEDGED_RETRY_AFTER,
            )
        if self.state == "loading" or self._engine is None:
            raise OverloadedError(
                f"the model is being {self.doing} ({self.load_fraction:.0%}), try again in a moment",
                code="model_loading",
                retry_after=LOADING_RETRY_AFTER,
            )
        return self._engine

    @property
    def kv(self) -> KvUse | None:
        """What the KV holds, None where there is no engine (yet). Not a checkpoint."""
        return self._engine.kv if self._engine is not None else None

    @property
    def step_seconds(self) -> float | None:
        """For how long the engine has been at its step, None where there is nothing that could get stuck."""
        return self._engine.step_seconds if self._engine is not None else None

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

    async def _find(self, source: Path | HubModel) -> Path:
        """The model's file, downloaded if need be."""
        if isinstance(source, HubModel):
            self.doing = "downloaded"
            path = await source.download(self._loaded)  # noqa: ASYNC240 - not of a path
            self.doing, self.load_fraction = "loaded", 0.0
            return path
        return source

    async def _run_llama(self, path: Path) -> None:
        # llama.cpp is not even imported for the simulated engine.
        from ds4trio.engine.llama import Adapter, DiskOptions, LlamaOptions, open_llama_engine  # noqa: PLC0415

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
            threads=settings.threads or usable_cores(),
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
            adapters=tuple(Adapter(path, scale) for path, scale in lora_adapters(settings)),
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
        try:
            while on_disk is not None:
                await trio.sleep(FLUSH_INTERVAL)
                await trio.to_thread.run_sync(on_disk.flush)
            await trio.sleep_forever()
        finally:
            self.draining.set()
            if on_disk is not None:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(partial(on_disk.flush, last=True))

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


def _simulated(settings: Settings) -> SimulatedEngine:
    return SimulatedEngine(
        context_length=settings.ctx or SIMULATED_CONTEXT,
        parallel=settings.parallel,
        max_queue=settings.max_queue,
        prefill_tps=settings.prefill_tps,
        decode_tps=settings.decode_tps,
        chunk=settings.batch,
    )
