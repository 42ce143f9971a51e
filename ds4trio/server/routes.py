"""The endpoints. Each validates all that can be validated, so that errors get a real status, and hands over."""

import time
from typing import Any

from quart import Response, g, request
from quart_trio import QuartTrio

from ds4trio.api import chat_completions
from ds4trio.api.answer import Answer
from ds4trio.api.errors import ApiError, ContextLengthError, InvalidRequestError, UnknownModelError
from ds4trio.config import Settings
from ds4trio.engine import GenerationRequest
from ds4trio.server.errors import UnsupportedMediaTypeError
from ds4trio.server.host import EngineHost
from ds4trio.server.lifeline import Lifeline, LifelineTimes
from ds4trio.server.request_log import RequestLog

__all__ = ["add_routes"]


def add_routes(app: QuartTrio, host: EngineHost, settings: Settings) -> None:
    """Register every endpoint."""
    times = LifelineTimes(
        heartbeat_interval=settings.heartbeat_interval,
        json_grace=settings.json_grace,
        stall_timeout=settings.stall_timeout,
    )
    started = int(time.time())

    @app.post("/v1/chat/completions")
    async def chat() -> Response:
        if request.mimetype != "application/json":
            raise UnsupportedMediaTypeError(request.mimetype)
        task = chat_completions.parse(await request.get_data(cache=False, as_text=False, parse_form_data=False))
        host.check_model(task.model)
        engine, template = host.engine(), host.template()
        prompt = await engine.tokenize(lambda: template.render(task.messages))
        if not prompt:
            raise InvalidRequestError("the chat template makes an empty prompt of these messages", param="messages")
        room = engine.info.context_length - len(prompt)
        if room < 1:
            raise ContextLengthError(len(prompt), engine.info.context_length)
        name = task.model or host.names[0]
        frame: dict[str, Any] = {"id": g.request_id.replace("req_", "chatcmpl-"), "created": time.time(), "model": name}
        answer: Answer = (
            chat_completions.ChatStream(**frame, include_usage=task.include_usage)
            if task.stream
            else chat_completions.ChatDocument(**frame)
        )
        lifeline = Lifeline(
            engine=engine,
            request=GenerationRequest(
                prompt=prompt,
                max_tokens=min(room, task.max_tokens or room),
                sampling=task.sampling(engine.info.sampling),
                stop=task.stop,
            ),
            answer=answer,
            times=times,
            record=RequestLog("chat", g.request_id),
        )
        return lifeline.response

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
            },
        }

    @app.get("/health")
    async def health() -> tuple[dict[str, Any], int]:
        try:
            engine = host.engine()
        except ApiError as error:
            return {
                "status": host.state,
                "loaded": round(host.load_fraction, 3),
                "message": error.message,
            }, 503
        return {"status": "ok", "running": engine.running, "waiting": engine.waiting}, 200
