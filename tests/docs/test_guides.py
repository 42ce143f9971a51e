"""The engine of the guide is one: the whole server runs over it."""

import re
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from ds4trio.config import Settings
from ds4trio.server.app import App, build_app
from ds4trio.testing import call_asgi, chat_body
from tests.grammars.chat import check_chat_stream

GUIDE = Path(__file__).parents[2] / "docs" / "contributing" / "engine.md"
SOURCE = re.findall(r'^```python title="echo.py"\n(.*?)^```$', GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)[0]
PROMPT = "What is said here is said again."


@pytest.fixture
def app() -> App:
    names: dict[str, Any] = {"__name__": "echo"}
    exec(compile(SOURCE, "echo.py", "exec"), names)
    return build_app(Settings(engine="simulated"), engine=names["EchoEngine"]())


async def test_it_answers_in_its_protocol(app: App, autojump_clock: MockClock) -> None:
    async with app.test_app():
        await app.host.settled.wait()
        async with call_asgi(app, chat_body(PROMPT)) as call:
            await call.ended.wait()
        (choice,) = check_chat_stream(call.body)
        assert PROMPT in choice["content"]
        assert choice["finish_reason"] == "stop"
        async with call_asgi(app, chat_body(PROMPT, max_tokens=3)) as call:
            await call.ended.wait()
        assert check_chat_stream(call.body)[0]["finish_reason"] == "length"
        async with call_asgi(app, chat_body(PROMPT, stop=["here"])) as call:
            await call.ended.wait()
        assert check_chat_stream(call.body, stop_strings=True)[0]["content"].endswith("What is said ")


async def test_a_client_that_leaves_frees_it_and_the_queue_goes_on(app: App, autojump_clock: MockClock) -> None:
    async with app.test_app():
        await app.host.settled.wait()
        engine = app.host.engine()
        async with call_asgi(app, chat_body(PROMPT)) as first, call_asgi(app, chat_body(PROMPT)) as second:
            await first.wait_for(b"role")
            await second.wait_for(b"role")
            async with call_asgi(app, chat_body(PROMPT, max_tokens=1)) as third:
                await third.wait_for(b"role")
                assert (engine.running, engine.waiting) == (2, 1)
                first.leave()
                await third.ended.wait()
            assert engine.running == 1
            second.leave()
            await second.ended.wait()
        assert (engine.running, engine.waiting) == (0, 0)
