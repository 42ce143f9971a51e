"""``Priority: u=N``, and what it does to a request."""

import json

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.server.app import App
from ds4trio.server.urgency import stated_priority
from ds4trio.testing import call_asgi, run_app


@pytest.mark.parametrize(
    ("header", "priority"),
    [
        ("u=0", -3),
        ("u=3", 0),
        ("u=7", 4),
        (" u=1 \t", -2),
        ("u=1, i", -2),
        ("i,\tu=2 ,x", -1),
        ("u=1;a;b=2; c=x/y", -2),
        ("u=6, u=5", 2),
        ('x="a\\", u=1", u=2', -1),
        ('x=(a;n=1 "b" 2.5 :aGk=: ?0), u=2', -1),
        ("x=(), u=2", -1),
        ("*k-1.b_=-1, u=4", 1),
        ("u=01", -2),
    ],
)
def test_the_urgency_is_read(header: str, priority: int) -> None:
    assert stated_priority(header) == priority


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="empty"),
        pytest.param("i", id="nothing about urgency"),
        pytest.param("u=8", id="too large"),
        pytest.param("u=-1", id="too small"),
        pytest.param("u=1.0", id="decimal"),
        pytest.param('u="1"', id="string"),
        pytest.param("u", id="boolean"),
        pytest.param("u=(1)", id="list"),
        pytest.param("u=1, u=?1", id="the last one counts"),
        pytest.param("u=1,", id="trailing comma"),
        pytest.param("u=1,,i", id="nothing between commas"),
        pytest.param("u=1 i", id="no comma"),
        pytest.param("u= 1", id="space behind ="),
        pytest.param("u=", id="no value"),
        pytest.param("U=1", id="capital"),
        pytest.param("u=1;", id="no parameter"),
        pytest.param("u=1, x=(a", id="open list"),
        pytest.param("u=1, x=(a)(b)", id="two lists"),
        pytest.param('u=1, x="a', id="open string"),
        pytest.param('u=1, x="\\a"', id="bad escape"),
        pytest.param("u=1, x=?2", id="bad boolean"),
        pytest.param("u=1, x=1234567890123456", id="long integer"),
        pytest.param("u=1, x=1.2345", id="long fraction"),
        pytest.param("u=1, x=é", id="not ASCII"),
        pytest.param("u=\u0661", id="digit of another script"),
        pytest.param("u=1\n", id="line feed"),
    ],
)
def test_what_is_malformed_or_says_nothing_is_ignored(header: str) -> None:
    assert stated_priority(header) is None


@given(st.text('ui=,;" \t()?:\\1a.-*', max_size=30))
def test_any_header_is_read_or_ignored(header: str) -> None:
    priority = stated_priority(header)
    assert priority in (None, *range(-3, 5))
    if priority is not None:
        assert stated_priority(f"{header}, u=0") == -3
        assert stated_priority(f"{header}, ") is None


PROMPTS: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 64},
}


@pytest.mark.parametrize("path", PROMPTS)
@pytest.mark.parametrize(
    ("headers", "members", "first"),
    [
        pytest.param({}, {}, "normal", id="order of arrival"),
        pytest.param({"priority": "u=2"}, {}, "urgent", id="header"),
        pytest.param({"priority": "i", "Priority": "u=2"}, {}, "urgent", id="two lines"),
        pytest.param({}, {"priority": -1}, "urgent", id="member"),
        pytest.param({"priority": "u=7"}, {"priority": -1}, "urgent", id="the member wins"),
        pytest.param({"priority": "u=0"}, {"priority": 0}, "normal", id="the member wins when it is normal, too"),
        pytest.param({"priority": "u=0,"}, {}, "normal", id="malformed header"),
    ],
)
async def test_the_more_urgent_goes_first(
    autojump_clock: MockClock, path: str, headers: dict[str, str], members: dict[str, int], first: str
) -> None:
    ended: list[str] = []

    async def ask(
        app: App, name: str, members: dict[str, int], headers: dict[str, str], task_status: trio.TaskStatus[None]
    ) -> None:
        body = json.dumps({"model": "simulated", "stream": True, **PROMPTS[path], **members}).encode()
        async with call_asgi(app, body, path=path, headers=headers) as call:
            await call.wait_for_headers()
            assert call.status == 200, call.body
            task_status.started()
            await call.ended.wait()
        ended.append(name)

    async with run_app(SimulatedEngine(parallel=1)) as app, trio.open_nursery() as nursery:
        await nursery.start(ask, app, "running", {}, {})
        await nursery.start(ask, app, "normal", {}, {})
        await nursery.start(ask, app, "urgent", members, headers)
    assert ended[:2] == ["running", first]
