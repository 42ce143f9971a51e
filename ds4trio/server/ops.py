"""What a server says of itself: its models, its health, and llama-server's ``/props`` and ``/slots``."""

import time
from typing import Any, NoReturn

from quart import g
from quart_trio import QuartTrio

from ds4trio import __version__
from ds4trio.api.errors import ApiError, InvalidRequestError, UnknownModelError
from ds4trio.config import Settings
from ds4trio.server.guard import Guard
from ds4trio.server.host import EngineHost
from ds4trio.server.monitor import Board

__all__ = ["add_ops_routes"]


def add_ops_routes(app: QuartTrio, host: EngineHost, settings: Settings, board: Board, guard: Guard) -> None:
    """Register the endpoints."""
    started = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_object(name) for name in host.names]}

    @app.get("/v1/models/<path:name>")
    async def model(name: str) -> dict[str, Any]:
        if name not in host.names:
            raise UnknownModelError(name, host.names)
        return model_object(name)

    def model_object(name: str) -> dict[str, Any]:
        info = host.engine().info
        return {
            "id": name,
            "object": "model",
            "created": started,
            "owned_by": "ds4trio",
            # Clients look for the context length under either name.
            "context_length": info.context_length,
            "max_model_len": info.context_length,
            "meta": {
                "description": info.description,
                "n_ctx_train": info.trained_context_length,
                "n_params": info.parameters,
                "size": info.size_bytes,
                "n_vocab": info.vocabulary_size,
            },
        }

    @app.get("/health")
    async def health() -> tuple[dict[str, Any], int, dict[str, str]]:
        try:
            engine = host.engine()
        except ApiError as error:
            status = {"status": host.state, "loaded": round(host.load_fraction, 3)}
            # What went wrong may name files.
            message = {"message": error.message} if guard.trusts(g.key) else {}
            later = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
            return status | message, 503, later
        return {"status": "ok", "running": engine.running, "waiting": engine.waiting}, 200, {}

    @app.get("/props")
    async def props() -> dict[str, Any]:
        info = host.engine().info
        sampling = info.sampling
        return {
            "default_generation_settings": {
                "n_ctx": info.context_length,
                "params": {
                    "temperature": sampling.temperature,
                    "top_k": sampling.top_k,
                    "top_p": sampling.top_p,
                    "min_p": sampling.min_p,
                    "repeat_penalty": sampling.repeat_penalty,
                },
            },
            "total_slots": settings.parallel,
            "model_alias": host.names[0],
            "model_path": str(host.path or ""),
            "lora_adapters": [
                {"id": number, "path": path, "scale": scale} for number, (path, scale) in enumerate(info.adapters)
            ],
            "chat_template": host.chat_template or "",
            "bos_token": info.bos_token,
            "eos_token": info.eos_token,
            "modalities": {"vision": False, "audio": False},
            "build_info": f"ds4trio {__version__}",
        }

    @app.get("/slots")
    async def slots() -> list[dict[str, Any]]:
        info = host.engine().info
        running = board.computing(guard.sees(g.key))
        # Those of other keys are shown as what they leave free.
        idle = max(0, settings.parallel - len(board.computing()))
        busy = [
            {
                "id": number,
                "n_ctx": info.context_length,
                "is_processing": True,
                "id_task": id,
                "n_prompt_tokens": progress.prompt_tokens,
                "n_prompt_tokens_processed": progress.prefilled_tokens,
                "n_prompt_tokens_cache": progress.cached_tokens,
                "n_decoded": progress.output_tokens,
            }
            for number, (id, progress) in enumerate(running)
        ]
        return busy + [
            {"id": number, "n_ctx": info.context_length, "is_processing": False}
            for number in range(len(busy), len(busy) + idle)
        ]

    @app.post("/v1/embeddings")
    async def embeddings() -> NoReturn:
        host.engine()
        raise InvalidRequestError(
            f"{host.names[0]} writes text and makes no embeddings; start a server with an embedding model for them",
            code="unsupported",
            param="model",
        )
