"""Asks a server for everything that its description says, and holds the answers against the types it is made of."""

import json
from typing import Any

import msgspec

from ds4trio.server.openapi.operations import Operation, operations
from ds4trio.testing import StreamClient, open_client
from tests.grammars.chat import sse_data


async def asked(port: int, method: str, path: str, body: Any = None) -> StreamClient:
    """The whole answer to a request; of events without end the first."""
    async with open_client(port, body, method=method.upper(), path=path) as client:
        await (client.read_until(b"\n\n") if path == "/requests/events" else client.read_all())
    return client


def checked(operation: Operation, client: StreamClient) -> None:
    """The answer is a 200 of a type that the description names, and in the shape that it says."""
    assert client.status == 200, (operation.id, client.body)
    kind = client.headers["content-type"].partition(";")[0]
    if kind == "application/json":
        msgspec.json.decode(client.body, type=operation.answer)
    elif operation.stream is not None:
        assert kind == "text/event-stream"
        if operation.stream.data is not None:
            *events, done = sse_data(client.body)
            assert done == "[DONE]"
            for event in events:
                msgspec.json.decode(event, type=operation.stream.data)
    else:
        assert kind in operation.answer_text


async def check_examples(port: int) -> int:
    """Ask for every example of every endpoint; how many answers there were."""
    document = json.loads((await asked(port, "get", "/openapi.json")).body)
    model = json.loads((await asked(port, "get", "/v1/models")).body)["data"][0]["id"]
    count = 0
    for operation in operations(model):
        content = document["paths"][operation.path][operation.method].get("requestBody", {}).get("content", {})
        for example in content.get("application/json", {}).get("examples", {}).values():
            checked(operation, await asked(port, operation.method, operation.path, example["value"]))
            count += 1
        if operation.body is None and "{" not in operation.path and operation.path != "/v1/embeddings":
            checked(operation, await asked(port, operation.method, operation.path))
            count += 1
    return count + await _check_stored(port, {operation.id: operation for operation in operations(model)}, model)


async def _check_stored(port: int, by_id: dict[str, Operation], model: str) -> int:
    """The endpoints whose paths name something: the links of a response lead to most of them."""
    made = by_id["post_v1_responses"]
    response = json.loads((await asked(port, "post", made.path, made.examples["tools"])).body)
    targets = [by_id[target] for target, _ in made.links.values()]
    targets.sort(key=lambda operation: operation.method == "delete")
    for operation in targets:
        path = operation.path.replace("{response_id}", response["id"])
        checked(operation, await asked(port, operation.method, path))
    checked(by_id["get_v1_models_name"], await asked(port, "get", f"/v1/models/{model}"))
    return len(targets) + 1
