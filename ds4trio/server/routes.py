"""The endpoints that answer prompts: every protocol goes through the same door.

Everything that can be wrong with a request shows before its status is sent; after that the lifeline has it. A new
protocol is one line in `add_routes`.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from quart import Response, g, request
from quart_trio import QuartTrio

from ds4trio.api.answer import Frame
from ds4trio.api.chat_completions import ChatCompletions
from ds4trio.api.completions import Completions
from ds4trio.api.errors import ApiError, InvalidRequestError, openai_error_document
from ds4trio.api.messages import Messages
from ds4trio.api.responses import Responses, ResponseStore
from ds4trio.api.task import Task, WireProtocol
from ds4trio.config import Settings
from ds4trio.engine import Tokenizer
from ds4trio.server.bodies import json_body, json_response
from ds4trio.server.guard import Guard
from ds4trio.server.heartbeat import heartbeat_for, patience
from ds4trio.server.host import EngineHost
from ds4trio.server.lifeline import Lifeline, LifelineTimes
from ds4trio.server.monitor import Board, Record, RequestLog, Watcher
from ds4trio.server.monitor.trace import RequestTrace, TraceFile
from ds4trio.server.prompts import Prepared, count_tokens, prepare
from ds4trio.server.retries import RetryMemory, retry_key
from ds4trio.server.stored import add_stored_routes
from ds4trio.server.urgency import stated_priority

__all__ = ["add_routes", "protocol_error_document"]

MOST_SHOWN = 200
"""Letters of what clients call themselves and the model."""
# An answer is taken over only by whoever has the same ones.
CREDENTIALS = ("authorization", "x-api-key", "api-key")

_messages = Messages()


def protocol_error_document(path: str, error: ApiError, *, request_id: str) -> bytes:
    """The JSON document of an error, in the shape that the clients of ``path`` know."""
    if path.startswith("/v1/messages"):
        return _messages.error_document(error, request_id=request_id)
    return openai_error_document(error)


def add_routes(
    app: QuartTrio,
    host: EngineHost,
    settings: Settings,
    *,
    board: Board,
    guard: Guard,
    retries: RetryMemory,
    trace: TraceFile | None,
) -> None:
    """Register the endpoints."""
    # What one key has stored, another one knows nothing of.
    stores: dict[str, Responses] = defaultdict(lambda: Responses(ResponseStore()))

    def add(path: str, protocol: Callable[[], WireProtocol]) -> None:
        async def view() -> Response:
            return (await lifeline(protocol())).response

        app.add_url_rule(path, path, view, methods=["POST"])

    def responses() -> Responses:
        return stores[g.key]

    async def lifeline(protocol: WireProtocol) -> Lifeline:
        with guard.place(g.key, running=board.running_of(g.key)):
            return await prepared_lifeline(protocol)

    async def prepared_lifeline(protocol: WireProtocol) -> Lifeline:
        body = await json_body()
        engine = host.engine()
        priority = stated_priority(", ".join(request.headers.getlist("priority")))
        credentials = [request.headers.get(name, "") for name in CREDENTIALS]

        def build(tokenizer: Tokenizer) -> tuple[Task, Prepared, bytes, Sequence[str]]:
            task = protocol.parse(body)
            if task.priority is None:
                task = replace(task, priority=priority)
            if most := guard.settings.max_output_tokens:
                task = replace(task, max_tokens=min(task.max_tokens or most, most))
            host.check_model(task.model)
            prepared = prepare(task, host.chat(), engine.info, tokenizer)
            prompts = [choice.request.prompt for choice in prepared.choices[:: task.n]]
            texts = (
                []
                if trace is None
                else [b"".join(tokenizer.pieces(prompt)).decode(errors="replace") for prompt in prompts]
            )
            return task, prepared, retry_key(task, prompts, credentials), texts

        task, prepared, key, texts = await engine.prepare(build)
        g.warnings += task.warnings
        if len(prepared.choices) > (most := settings.parallel + settings.max_queue):
            raise InvalidRequestError(
                f"{len(prepared.choices)} choices can never be computed at once here, only {most}; ask for fewer "
                "prompts or a smaller n",
                code="too_many_choices",
                param="n",
            )
        frame = Frame(
            id=g.request_id.removeprefix("req_"),
            created=time.time(),
            model=task.model or host.names[0],
            prompts=prepared.prompts,
        )
        answer = task.answer(frame)
        client = g.headers.get("user-agent", "")[:MOST_SHOWN]
        watchers: list[Watcher] = [RequestLog(task.kind, g.request_id, quotes=settings.log_prompts)]
        if trace is not None:
            watchers.append(
                RequestTrace(
                    trace,
                    g.request_id,
                    about={
                        "protocol": task.kind,
                        "model": frame.model,
                        "description": engine.info.description,
                        "client": client,
                        "stream": answer.streams,
                        "choices": len(prepared.choices),
                    },
                    prompts=[choice.request for choice in prepared.choices[:: task.n]],
                    texts=texts,
                )
            )
        return Lifeline(
            attempt=retries.attempt(engine, key, kind=task.kind, id=g.request_id),
            choices=prepared.choices,
            answer=answer,
            times=LifelineTimes(
                heartbeat=heartbeat_for(g.headers, interval=settings.heartbeat_interval, form=settings.heartbeat),
                json_grace=min(settings.json_grace, patience(g.headers)),
                stall_timeout=settings.stall_timeout,
                age=guard.settings.max_request_seconds or math.inf,
            ),
            record=Record(
                id=g.request_id,
                kind=task.kind,
                model=(task.model or host.names[0])[:MOST_SHOWN],
                client=client,
                streams=answer.streams,
                key=g.key,
                arrived=g.arrived,
                metrics=board.metrics,
                watchers=watchers,
            ),
            board=board,
        )

    async def tokens_of(parse: Callable[[bytes], Task]) -> int:
        body = await json_body()

        def build(tokenizer: Tokenizer) -> int:
            task = parse(body)
            host.check_model(task.model)
            return count_tokens(task, host.chat(), tokenizer)

        return await host.engine().prepare(build)

    chat_completions, completions = ChatCompletions(), Completions()
    add("/v1/chat/completions", lambda: chat_completions)
    add("/v1/completions", lambda: completions)
    add("/v1/responses", responses)
    add("/v1/messages", lambda: _messages)

    @app.post("/v1/messages/count_tokens")
    async def count_messages() -> Response:
        return json_response(_messages.count_tokens_document(await tokens_of(_messages.parse_count_tokens)))

    @app.post("/v1/responses/input_tokens")
    async def count_responses() -> Response:
        return json_response(responses().input_tokens_document(await tokens_of(responses().parse)))

    add_stored_routes(app, board, responses)
