"""From the table of endpoints to the document."""

from collections.abc import Mapping
from typing import Any

from msgspec.json import schema_components

from ds4trio import __version__
from ds4trio.api.responses.request import RAW_MEMBERS
from ds4trio.server.guard import OPEN_PATHS
from ds4trio.server.openapi.answers.errors import MessagesError, OpenAIError
from ds4trio.server.openapi.operations import Operation, Stream, operations

__all__ = ["openapi_document"]

Json = dict[str, Any]

DESCRIPTION = (
    "A local LLM server for coding agents. Unknown members of a body are ignored; what would change the answer and "
    "cannot be done is a 400 that names it. A 429 or a 503 says in `Retry-After` when to try again."
)
# The status may have been sent when something goes wrong.
LATE_ERROR = "A document that takes longer than `--json-grace` begins with spaces; from then on an error is a 200, too."
PRIORITY: Json = {
    "name": "Priority",
    "in": "header",
    "description": "How urgent it is (RFC 9218): `u=0` to `u=7`, lower goes first; the body's `priority` counts more.",
    "schema": {"type": "string"},
    "example": "u=3",
}
EVENT: Json = {"type": "object", "required": ["data"]}
TEXTS: Mapping[str, Json] = {
    "text/html": {"type": "string"},
    "text/plain": {"type": "string"},
    "text/event-stream": {**EVENT, "properties": {"data": {"type": "string", "contentMediaType": "application/json"}}},
}
REQUEST_ID: Json = {"description": "the request's id, as the log has it", "schema": {"type": "string"}}
WARNING: Json = {"description": "what was left out of the request", "schema": {"type": "string"}}
RETRY_AFTER: Json = {"description": "seconds after which to try again", "schema": {"type": "string"}}


def openapi_document(model: str) -> Json:
    """The document as JSON has it; the examples ask for ``model``. Takes some milliseconds."""
    table = operations(model)
    schemas = _Schemas(table)
    paths: Json = {}
    for operation in table:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schemas, model)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ds4trio", "version": __version__, "description": DESCRIPTION, "license": {"name": "MIT"}},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"key": []}, {}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in table)],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "headers": {"x-request-id": REQUEST_ID, "x-ds4trio-warning": WARNING, "Retry-After": RETRY_AFTER},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


class _Schemas:
    """The schemas of all types that the table names, and those that they refer to."""

    def __init__(self, table: tuple[Operation, ...]) -> None:
        types = [OpenAIError, MessagesError, *RAW_MEMBERS.values()]
        for operation in table:
            named = (operation.body, operation.answer, operation.unready, operation.stream and operation.stream.data)
            types += [type for type in named if type is not None]
        schemas, self.components = schema_components(types, ref_template="#/components/schemas/{name}")
        self._schemas = list(zip(types, schemas, strict=True))
        # The parser decodes these by themselves, so the type of the body does not know what is in them.
        self.components["ResponsesRequest"]["properties"] |= {name: self.of(of) for name, of in RAW_MEMBERS.items()}

    def of(self, type: Any) -> Json:
        """The schema of one of the types."""
        return next(schema for known, schema in self._schemas if known is type)


def _operation(operation: Operation, schemas: _Schemas, model: str) -> Json:
    value: Json = {"operationId": operation.id, "summary": operation.summary, "tags": [operation.tag]}
    parameters = [
        {"name": name, "in": "path", "required": True, "description": text, "schema": {"type": "string"}}
        for name, text in operation.places.items()
    ]
    if operation.path == "/v1/models/{name}":
        parameters[0]["example"] = model
    parameters += [{"name": name, "in": "query", "schema": dict(schema)} for name, schema in operation.query.items()]
    if operation.stream is not None:
        parameters.append(PRIORITY)
    if parameters:
        value["parameters"] = parameters
    if operation.body is not None:
        examples = {name: {"value": body} for name, body in operation.examples.items()}
        content = {"application/json": {"schema": schemas.of(operation.body), "examples": examples}}
        value["requestBody"] = {"required": True, "content": content}
    value["responses"] = _responses(operation, schemas)
    if operation.path in OPEN_PATHS:
        value["security"] = []
    return value


def _responses(operation: Operation, schemas: _Schemas) -> Json:
    error = schemas.of(MessagesError if operation.path.startswith("/v1/messages") else OpenAIError)
    content: Json = {text: {"schema": TEXTS[text]} for text in operation.answer_text}
    description = "The answer."
    if operation.answer is not None:
        answer = schemas.of(operation.answer)
        if operation.stream is not None:
            answer, description = {"anyOf": [answer, error]}, f"The answer. {LATE_ERROR}"
        content["application/json"] = {"schema": answer}
    if operation.stream is not None:
        content["text/event-stream"] = {"schema": _event(operation.stream, schemas)}
    responses: Json = {}
    if content:
        headers = {name: _header(name) for name in ("x-request-id", "x-ds4trio-warning")}
        responses["200"] = {"description": description, "headers": headers, "content": content}
    if operation.links:
        responses["200"]["links"] = {
            name: {"operationId": target, "parameters": dict(parameters)}
            for name, (target, parameters) in operation.links.items()
        }
    if operation.unready is not None:
        unready = {"application/json": {"schema": schemas.of(operation.unready)}}
        responses["503"] = {"description": "Not yet, or not any more.", "content": unready}
    told = {"application/json": {"schema": error}}
    later = {"Retry-After": _header("Retry-After")}
    responses["4XX"] = {"description": "Something has to be changed.", "headers": later, "content": told}
    responses["5XX"] = {"description": "Not now, or a fault of the server.", "headers": later, "content": told}
    return responses


def _event(stream: Stream, schemas: _Schemas) -> Json:
    """An event of a stream as OpenAPI 3.2 describes them; it is an object to those who read them."""
    data: Json = {"type": "string"}
    if stream.data is None:
        data["contentMediaType"] = "application/json"
    else:  # but for the last event, which is no JSON
        data["contentSchema"] = schemas.of(stream.data)
    return {**EVENT, "description": stream.description, "properties": {"event": {"type": "string"}, "data": data}}


def _header(name: str) -> Json:
    return {"$ref": f"#/components/headers/{name}"}
