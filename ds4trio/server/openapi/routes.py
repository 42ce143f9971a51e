"""The endpoint."""

import msgspec
from quart import Response
from quart_trio import QuartTrio

from ds4trio.server.bodies import json_response
from ds4trio.server.openapi.document import openapi_document

__all__ = ["add_openapi_route"]


def add_openapi_route(app: QuartTrio, model: str) -> None:
    """Register ``/openapi.json``. ``model`` is the name that its examples ask for."""
    document = msgspec.json.encode(openapi_document(model))

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return json_response(document)
