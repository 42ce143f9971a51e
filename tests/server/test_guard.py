"""Who may ask, and who may not: keys, names of this machine, web pages from elsewhere, limits."""

import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from ds4trio.api.errors import ForbiddenError, UnauthorizedError
from ds4trio.config import ConfigError, Settings, load_settings
from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.server.app import App
from ds4trio.server.guard import Guard, read_keys
from ds4trio.testing import AsgiCall, call_asgi, chat_body, run_app
from tests.grammars.chat import check_chat_stream

KEYS = ("alice:secret-a", "bob:secret-b")


def running(**settings: Any) -> AbstractAsyncContextManager[App]:
    return run_app(SimulatedEngine(prefill_tps=100), **settings)


async def asked(app: App, headers: dict[str, str], *, path: str = "/v1/models", method: str = "GET") -> AsgiCall:
    async with call_asgi(app, method=method, path=path, headers=headers) as call:
        await call.ended.wait()
    return call


@pytest.mark.parametrize(
    "header",
    [
        {"authorization": "Bearer secret-b"},
        {"x-api-key": "secret-b"},
        {"authorization": "Bearer another provider's", "x-api-key": "secret-b"},
    ],
)
async def test_a_key_opens(autojump_clock: MockClock, header: dict[str, str]) -> None:
    async with running(api_key=KEYS) as app:
        assert (await asked(app, header)).status == 200
        async with call_asgi(app, chat_body("a" * 4000), headers=header) as call:
            await call.wait_for(b"role")
            (live,) = map(msgspec.json.decode, (await app.board.view())["requests"])
    assert live["key"] == "bob"


@pytest.mark.parametrize(
    "header",
    [{}, {"authorization": "Bearer secret-c"}, {"authorization": "secret-a"}, {"x-api-key": ""}, {"x-api-key": "é"}],
)
@pytest.mark.parametrize("path", ["/v1/models", "/requests", "/metrics", "/requests/events", "/slots", "/nowhere"])
async def test_no_key_opens_nothing_and_a_wrong_one_takes_its_time(
    autojump_clock: MockClock, header: dict[str, str], path: str
) -> None:
    async with running(api_key=KEYS) as app:
        call = await asked(app, header, path=path)
    assert call.status == 401
    assert call.started_at == 1.0
    error = json.loads(call.body)["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


async def test_anthropics_clients_get_their_own_shape(autojump_clock: MockClock) -> None:
    async with running(api_key=KEYS) as app:
        call = await asked(app, {}, path="/v1/messages", method="POST")
    assert json.loads(call.body)["error"]["type"] == "authentication_error"


async def test_without_a_key_one_may_ask_whether_it_lives(autojump_clock: MockClock) -> None:
    async with running(api_key=KEYS) as app:
        assert (await asked(app, {}, path="/health")).status == 200
        assert (await asked(app, {"accept": "text/html"}, path="/")).status == 200


async def test_and_hears_no_more_than_that(autojump_clock: MockClock) -> None:
    async with running(api_key=KEYS) as app:
        app.host.state, app.host.failure = "failed", "/models/secret.gguf is broken"
        told = await asked(app, {}, path="/health")
        assert (told.status, json.loads(told.body)["status"], b"secret" in told.body) == (503, "failed", False)
        assert "models" not in json.loads((await asked(app, {}, path="/")).body)
        key = {"x-api-key": KEYS[0].rpartition(":")[2]}
        assert b"secret" in (await asked(app, key, path="/health")).body
        assert json.loads((await asked(app, key, path="/")).body)["models"]
        app.host.state = "loading"
        assert int((await asked(app, {}, path="/health")).headers["retry-after"]) > 0


def test_a_key_that_is_empty_opens_nothing() -> None:
    with pytest.raises(ConfigError, match="empty"):
        Guard(Settings(api_key=("",)))


async def test_a_key_hears_nothing_of_the_requests_of_others(autojump_clock: MockClock) -> None:
    alice, bob = ({"x-api-key": key.rpartition(":")[2]} for key in KEYS)
    engine = SimulatedEngine(prefill_tps=10, parallel=1)
    async with (
        run_app(engine, api_key=KEYS, parallel=1) as app,
        call_asgi(app, chat_body("a" * 2000), headers=alice) as first,
    ):
        await first.wait_for(b"role")
        async with call_asgi(app, chat_body("b" * 2000), headers=bob) as second:
            await second.wait_for(b"role")
            (running_id,) = [id for id, lifeline in app.board.live.items() if lifeline.key == "alice"]
            for path in ("/slots", "/requests"):
                assert running_id.encode() not in (await asked(app, bob, path=path)).body, path
                assert running_id.encode() in (await asked(app, alice, path=path)).body
            slots = json.loads((await asked(app, bob, path="/slots")).body)
    assert slots == [], "the only place is taken, by somebody"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "app.localhost", "LOCALHOST.", "127.1.2.3"]
)
async def test_local_names_need_no_key(autojump_clock: MockClock, host: str) -> None:
    async with running() as app:
        assert (await asked(app, {"host": host, "origin": f"http://{host}"})).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "[", "a b"]
)
async def test_another_name_is_refused(host: str) -> None:
    guard = Guard(Settings())
    with pytest.raises(ForbiddenError, match="allowed-host"):
        await guard.admit({"host": host}, path="/v1/models", address="127.0.0.1")
    await Guard(Settings(allowed_host=("evil.example", "localhost.evil.example"))).admit(
        {"host": "evil.example:1"}, path="/v1/models", address="127.0.0.1"
    )


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "x"])
async def test_a_web_page_from_elsewhere_is_refused(autojump_clock: MockClock, origin: str) -> None:
    async with running() as app:
        call = await asked(app, {"origin": origin})
    assert call.status == 403
    assert json.loads(call.body)["error"]["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in call.headers


async def test_pages_that_were_allowed_may_read_answers(autojump_clock: MockClock) -> None:
    page = "https://app.example"
    async with running(cors=(page,)) as app:
        call = await asked(app, {"origin": page})
        before = await asked(app, {"origin": page}, method="OPTIONS", path="/v1/chat/completions")
        other = await asked(app, {"origin": "https://other.example"}, method="OPTIONS")
    assert (call.status, call.headers["access-control-allow-origin"]) == (200, page)
    assert before.status == 204
    assert "POST" in before.headers["access-control-allow-methods"]
    assert other.status == 403


async def test_an_address_that_others_reach_needs_a_key_or_a_word(autojump_clock: MockClock) -> None:
    headers = {"host": "server.example"}
    with pytest.raises(ForbiddenError, match="--no-auth"):
        await Guard(Settings()).admit(headers, path="/v1/models", address="192.168.1.7")
    await Guard(Settings(no_auth=True)).admit(headers, path="/v1/models", address="192.168.1.7")
    guard = Guard(Settings(api_key=KEYS))
    assert await guard.admit({"x-api-key": "secret-a"}, path="/v1/models", address="192.168.1.7") == "alice"
    with pytest.raises(UnauthorizedError):
        await guard.admit(headers, path="/v1/models", address="192.168.1.7")


def test_keys_come_from_flags_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\ncarol:secret-c\n\nsecret-d\n")
    assert list(read_keys(Settings(api_key=KEYS, api_key_file=str(file)))) == ["alice", "bob", "carol", "key4"]
    assert list(read_keys(load_settings(environment={"DS4TRIO_API_KEY": "x:1,2"}))) == ["x", "key2"]


@pytest.mark.parametrize("keys", [("a:1", "a:2"), ("a:",), (":",), ("a:1", "b:1")])
def test_keys_that_cannot_be_meant_are_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        read_keys(Settings(api_key=keys))


def test_a_file_without_a_key_locks_nobody_out(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# none\n")
    with pytest.raises(ConfigError, match="no key"):
        read_keys(Settings(api_key_file=str(file)))


async def test_a_key_has_so_many_requests_at_a_time_and_a_minute(autojump_clock: MockClock) -> None:
    header = {"x-api-key": "secret-a"}
    async with running(api_key=KEYS, key_parallel=1, key_rate=4) as app:
        async with call_asgi(app, chat_body("a" * 400), headers=header) as first:
            await first.wait_for(b"role")
            async with call_asgi(app, chat_body("b"), headers=header) as second:
                await second.ended.wait()
            async with call_asgi(app, chat_body("b"), headers={"x-api-key": "secret-b"}) as other:
                await other.ended.wait()
        statuses = []
        for _ in range(3):
            async with call_asgi(app, chat_body("c"), headers=header) as call:
                await call.ended.wait()
            statuses.append((call.status, call.headers.get("retry-after")))
        await trio.sleep(60)
        async with call_asgi(app, chat_body("d"), headers=header) as last:
            await last.ended.wait()
    assert (second.status, json.loads(second.body)["error"]["code"]) == (429, "key_busy")
    assert other.status == 200
    assert [status for status, _ in statuses] == [200, 200, 429]
    assert 0 < int(statuses[2][1] or 0) <= 60
    assert last.status == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_no_request_gets_older_than_it_may(autojump_clock: MockClock, stream: bool) -> None:
    body = {**chat_body("a" * 40_000), "stream": stream}  # a hundred seconds
    async with running(max_request_seconds=7) as app:
        async with call_asgi(app, body) as call:
            before = trio.current_time()
            await call.ended.wait()
            assert trio.current_time() - before == pytest.approx(7)
        (ended,) = map(msgspec.json.decode, (await app.board.view())["ended"])
    assert ended["outcome"] == "cancelled"
    if stream:
        assert "error" in check_chat_stream(call.body)[0]
    else:
        assert (call.status, json.loads(call.body)["error"]["code"]) == (504, "request_too_old")


async def test_no_answer_has_more_tokens_than_it_may(autojump_clock: MockClock) -> None:
    async with running(max_output_tokens=5) as app:
        async with call_asgi(app, {**chat_body("a"), "max_tokens": 50}) as call:
            await call.ended.wait()
        (ended,) = map(msgspec.json.decode, (await app.board.view())["ended"])
    assert (ended["outcome"], ended["output_tokens"]) == ("length", 5)
