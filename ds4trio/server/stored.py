"""What OpenAI's Responses keeps of answers: they can be fetched, listed, deleted and cancelled by their ids."""

import re
from collections.abc import Callable

from quart import Response, g, request
from quart_trio import QuartTrio

from ds4trio.api.errors import CancelledError, InvalidRequestError
from ds4trio.api.responses import Responses
from ds4trio.server.bodies import json_response
from ds4trio.server.monitor import Board

__all__ = ["add_stored_routes"]

MOST_ITEMS = 100


def add_stored_routes(app: QuartTrio, board: Board, responses: Callable[[], Responses]) -> None:
    """Register the endpoints; ``responses`` gives what the key of the present request may see."""

    @app.get("/v1/responses/<response_id>")
    async def get_response(response_id: str) -> Response:
        return json_response(responses().response_document(response_id))

    @app.delete("/v1/responses/<response_id>")
    async def delete_response(response_id: str) -> Response:
        return json_response(responses().delete(response_id))

    @app.get("/v1/responses/<response_id>/input_items")
    async def list_input_items(response_id: str) -> Response:
        limit, order = request.args.get("limit", "20"), request.args.get("order", "desc")
        if not re.fullmatch(r"[1-9]\d{0,2}", limit, re.ASCII) or int(limit) > MOST_ITEMS:
            raise InvalidRequestError(f"limit must be 1 to {MOST_ITEMS}", code="invalid_value", param="limit")
        if order not in ("asc", "desc"):
            raise InvalidRequestError("order must be 'asc' or 'desc'", code="invalid_value", param="order")
        return json_response(
            responses().input_items_document(
                response_id,
                limit=int(limit),
                order="asc" if order == "asc" else "desc",
                after=request.args.get("after"),
            )
        )

    @app.post("/v1/responses/<response_id>/cancel")
    async def cancel_response(response_id: str) -> Response:
        running = board.live.get(f"req_{response_id.removeprefix('resp_')}")
        if running is not None and running.kind == "responses" and running.key == g.key:
            running.stop(CancelledError(), "the client cancelled it")
        return json_response(responses().response_document(response_id))
