"""The description says what is: paths, members, examples."""

import ast
import json
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from openapi_spec_validator import OpenAPIV31SpecValidator

from ds4trio.api.body import SamplingMembers
from ds4trio.config import Settings
from ds4trio.engine import Sampling
from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.server.app import App, build_app
from ds4trio.server.openapi import openapi_document
from ds4trio.server.openapi.answers.errors import MessagesError, OpenAIError
from ds4trio.server.openapi.operations import Operation, operations
from ds4trio.testing import call_asgi, chat_body, open_client
from tests.server.openapi.examples import asked, check_examples, checked
from tests.serving import serving

ROOT = Path(__file__).parents[3]
MODEL = "simulated"
WITH_BODY = [operation for operation in operations(MODEL) if operation.body is not None]
# What no member may be. For each there is one that it must not.
WRONG: tuple[Any, ...] = ({"no": 1}, "no", [[]], -7.5, True)


def fast(**options: Any) -> SimulatedEngine:
    return SimulatedEngine(**{"prefill_tps": 1e6, "decode_tps": 1e4, **options})


@asynccontextmanager
async def ready() -> AsyncGenerator[App, None]:
    app = build_app(Settings(engine="simulated", decode_tps=1e6, prefill_tps=1e9))
    async with app.test_app():
        await app.host.settled.wait()
        yield app


def test_it_is_openapi() -> None:
    OpenAPIV31SpecValidator(openapi_document(MODEL)).validate()


def test_it_has_the_paths_and_methods_that_the_server_has() -> None:
    app = build_app(Settings(engine="simulated"))
    served = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    paths = openapi_document(MODEL)["paths"]
    assert {(method, path) for path, methods in paths.items() for method in methods} == served


def test_every_operation_has_an_id_of_its_own() -> None:
    ids = [operation.id for operation in operations(MODEL)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda operation: operation.id)
async def test_every_member_that_it_names_is_read_and_no_other(
    operation: Operation, autojump_clock: trio.testing.MockClock
) -> None:
    """Whatever is wrong in a member that is read is refused; a member that is not read may be anything."""
    schema = openapi_document(MODEL)["components"]["schemas"][operation.body.__name__]
    good = next(iter(operation.examples.values()))
    async with ready() as app:

        async def status(**members: Any) -> int:
            async with call_asgi(app, {**good, **members}, path=operation.path) as call:
                await call.ended.wait()
            assert call.status is not None
            return call.status

        assert await status(unknown={"no": 1}) == 200
        ignored = [name for name in schema["properties"] if {await status(**{name: wrong}) for wrong in WRONG} == {200}]
    assert ignored == []


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda operation: operation.id)
def test_what_is_made_of_a_body_depends_on_every_member(operation: Operation) -> None:
    """A member that is checked and then forgotten would be a lie, too."""
    files = [ROOT / f"{operation.body.__module__.replace('.', '/')}.py", ROOT / "ds4trio/server/tokenizer.py"]
    used = {
        node.attr
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    sampling = set(SamplingMembers.__struct_fields__) & set(Sampling.__dataclass_fields__)
    assert set(operation.body.__struct_fields__) - sampling - used == set()


def refused_bodies() -> Iterator[tuple[str, bytes]]:
    for operation in WITH_BODY:
        for body in (b"", b"{", b'{"model": 5}', b'{"content": 5}', b"\xff", b"[" * 100_000):
            yield operation.path, body


async def test_errors_have_the_shape_that_it_says(autojump_clock: trio.testing.MockClock) -> None:
    async with ready() as app:
        for path, body in refused_bodies():
            async with call_asgi(app, body, path=path) as call:
                await call.ended.wait()
            assert call.status == 400
            if "/messages" in path:
                assert msgspec.json.decode(call.body, type=MessagesError).error.message
            else:
                assert msgspec.json.decode(call.body, type=OpenAIError).error.message


async def test_examples_work() -> None:
    async with serving(fast()) as server:
        assert await check_examples(server.port) > 30


async def test_a_request_that_runs_is_shown_and_cancelled_as_it_says() -> None:
    by_id = {operation.id: operation for operation in operations(MODEL)}
    async with (
        serving(fast(decode_tps=1, answer_tokens=1000)) as server,
        open_client(server.port, chat_body("hi", ignore_eos=True)) as client,
    ):
        await client.read()
        for name in ("get_requests", "get_slots", "get_health"):
            checked(by_id[name], await asked(server.port, "get", by_id[name].path))
        path = f"/requests/{client.headers['x-request-id']}"
        checked(by_id["delete_requests_id"], await asked(server.port, "delete", path))
        assert b'"code":"cancelled"' in await client.read_all()


async def test_a_model_that_is_loading_has_the_health_that_it_says() -> None:
    app = build_app(Settings(engine="simulated"))
    async with call_asgi(app, method="GET", path="/health") as call:
        await call.ended.wait()
    assert call.status == 503
    health = next(operation for operation in operations(MODEL) if operation.path == "/health")
    assert msgspec.json.decode(call.body, type=health.unready).status == "loading"


async def test_open_paths_need_no_key_and_the_description_says_so() -> None:
    document = openapi_document(MODEL)
    open_paths = {path for path, methods in document["paths"].items() if methods.get("get", {}).get("security") == []}
    async with serving(fast(), api_key=("k",)) as server:
        for path in document["paths"]:
            if path in open_paths:
                assert (await asked(server.port, "get", path)).status == 200
        async with open_client(server.port, method="GET", path="/openapi.json") as client:
            await client.read_all()
            assert client.status == 401
        async with open_client(server.port, method="GET", path="/openapi.json", headers={"x-api-key": "k"}) as client:
            assert json.loads(await client.read_all())["openapi"] == "3.1.0"
