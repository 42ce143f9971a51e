"""What is wrong with a URL, a key or a model's name is said in words that help."""

import json
import re
import socket
from functools import partial
from typing import Any

import pytest
import trio

from ds4trio.probe import ProbeError, open_target
from ds4trio.testing import StartServer
from ds4trio.testing.stream import Protocol
from tests.probe.fake import Answer, answering

MODELS = {"object": "list", "data": [{"id": "small", "max_model_len": 2048}, {"id": "large", "meta": {"n_ctx": 512}}]}
STREAM = b'data: {"choices":[{"delta":{"content":"hi"}}]}\r\n\r\ndata: [DONE]\r\n\r\n'
SSE = "text/event-stream; charset=utf-8"


def told(status: int, document: object) -> Answer:
    return status, "application/json", json.dumps(document).encode()


async def refused(
    answer: Answer, *, models: Answer | None = None, api: Protocol = "chat", model: str | None = None, key: str = ""
) -> str:
    def server(method: str, path: str) -> Answer:
        if path == "/v1/models":
            return models or told(200, MODELS)
        return told(404, {}) if method == "GET" else answer

    async with answering(server) as port:
        with pytest.raises(ProbeError) as caught:
            await open_target(f"http://127.0.0.1:{port}", api=api, model=model, key=key)
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://localhost:1", "HTTPS is not supported"),
        ("http://localhost:99999", "there is no such port; give http://HOST:PORT"),
        ("http://[::1", "Invalid IPv6 URL; give http://HOST:PORT"),
        ("http://a..b", "cannot connect to a..b port 80"),
        ("http://localhost:1/schlüssel", "printable ASCII without spaces; write other characters as %XX"),
        ("http://localhost:1/a b", "printable ASCII without spaces"),
        ("http://", "give the server as http://HOST:PORT"),
        ("http://no-such-host.invalid:8000", "cannot connect to no-such-host.invalid port 8000"),
    ],
)
async def test_a_url_that_is_none(url: str, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        await open_target(url)


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines", " secret"])
async def test_a_key_that_no_header_can_hold(key: str) -> None:
    with pytest.raises(ProbeError, match="a key is printable ASCII without spaces") as caught:
        await open_target("http://127.0.0.1:9", key=key)
    assert key not in str(caught.value)


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(
            ProbeError, match=f"cannot connect to 127.0.0.1 port {port}: Connection refused; is the server"
        ):
            await open_target(f"127.0.0.1:{port}")


async def test_what_listens_is_no_http_server() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-OpenSSH_9\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        with pytest.raises(ProbeError, match=r"does not speak HTTP/1\.1"):
            await open_target(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "options", "message"),
    [
        (told(401, {}), {}, r"the server wants a key \(401\): give one with --api-key KEY"),
        (told(401, {}), {"key": "wrong"}, r"the server does not take this key \(401\)"),
        (told(401, {}), {"models": told(401, {})}, r"the server wants a key \(401\)"),
        (
            told(404, {"error": {"message": "model 'x' not found"}}),
            {"model": "x"},
            r"does not know the model 'x'; it has small, large; give one with --model NAME \(model 'x' not found\)",
        ),
        (
            told(404, {"detail": "Not Found"}),
            {"api": "responses"},
            r"the server has no /v1/responses \(404\); try --api chat, --api messages",
        ),
        (
            told(200, {}),
            {"models": told(404, {})},
            r"does not list its models \(GET /v1/models: 404\); give one with --model",
        ),
        (told(200, {}), {"models": told(503, {})}, r"is not ready \(503\): try again when its model is loaded"),
        (told(200, {}), {"models": (200, "text/html", b"<html>")}, "does not list its models"),
        (told(500, {"error": "out of memory"}), {}, "was answered with 500: out of memory"),
        ((502, "text/html", b"<h1>Bad gateway</h1>"), {}, "was answered with 502: <h1>Bad gateway</h1>"),
        (told(200, {"choices": []}), {}, "is not answered with a stream of events but with application/json"),
        ((200, SSE, b"data: {broken\n\n"), {}, "the stream has an event that is no JSON"),
        ((200, SSE, b'data: {"id":"\xff"}\n\n'), {}, "the stream has an event that is no JSON"),
        ((500, "application/json", b'"\xff"'), {}, "was answered with 500: "),
        ((200, SSE, b"data: [DONE]\n\n"), {}, "the answer to a short prompt has no text"),
    ],
)
async def test_what_a_server_refuses(answer: Answer, options: dict[str, Any], message: str) -> None:

    assert re.search(message, said := await refused(answer, **options)), said


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/api/v1", "/api/v1/chat/completions"),
    ],
)
async def test_the_first_model_is_asked_wherever_the_server_has_its_paths(url: str, path: str) -> None:
    def server(method: str, asked: str) -> Answer:
        if asked.endswith("/v1/models"):
            return told(200, MODELS)
        return (200, SSE, STREAM) if asked == path else told(404, {})

    async with answering(server) as port:
        target = await open_target(f"http://127.0.0.1:{port}{url}")
        assert (target.model, target.context) == ("small", 2048)
        assert (await open_target(f"http://127.0.0.1:{port}{url}", model="large")).context == 512


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_ours_is_understood_in_every_protocol(ds4trio_server: StartServer, api: Protocol) -> None:
    server = await ds4trio_server("--ctx", "5000", "--api-key", "secret")
    target = await open_target(f"http://127.0.0.1:{server.port}/v1", api=api, key="secret")
    assert (target.model, target.api) == ("simulated", api)
