"""Which heartbeat a client gets."""

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.api.answer import HeartbeatForm
from ds4trio.server.heartbeat import EXCEPTIONS, SHARE_OF_TIMEOUT, Heartbeat, heartbeat_for, patience

# What these clients sent when they were measured.
CODEX = "codex_cli_rs/0.169.0 (Debian 12.0.0; x86_64) unknown"
CODEX_EXEC = "codex_exec/0.169.0"
QWEN = "QwenCode/0.24.4 (linux; x64)"
CLAUDE = "claude-cli/2.1.330 (external, cli)"


@pytest.mark.parametrize("form", ["both", "event", "comment"])
def test_the_operator_s_choice_is_kept_for_a_client_that_says_nothing(form: HeartbeatForm) -> None:
    assert heartbeat_for({}, interval=5.0, form=form) == Heartbeat(5.0, form)


@pytest.mark.parametrize(("interval", "form"), [(5.0, "off"), (0.0, "both"), (-1.0, "event"), (0.0, "off")])
def test_no_heartbeat_is_wanted(interval: float, form: Literal["both", "event", "comment", "off"]) -> None:
    headers = {"user-agent": CODEX, "x-stainless-read-timeout": "3"}
    assert heartbeat_for(headers, interval=interval, form=form).interval == math.inf


@pytest.mark.parametrize("agent", [CODEX, CODEX_EXEC, "codex-tui/1.0", QWEN, CLAUDE])
def test_clients_that_comments_do_not_keep_alive_get_events_too(agent: str) -> None:
    assert heartbeat_for({"user-agent": agent}, interval=5.0, form="comment").form == "both"
    assert heartbeat_for({"user-agent": agent}, interval=5.0, form="event").form == "event"


@pytest.mark.parametrize("agent", ["OpenAI/Python 3.54.0", "opencode/1.18.33", "", f"not {CODEX}", "codexless/1"])
def test_other_clients_get_the_operator_s_comments(agent: str) -> None:
    assert heartbeat_for({"user-agent": agent}, interval=5.0, form="comment").form == "comment"


def test_every_exception_has_its_evidence() -> None:
    assert len({exception.client for exception in EXCEPTIONS}) == len(EXCEPTIONS)
    for exception in EXCEPTIONS:
        assert exception.evidence
        assert exception.events or exception.interval < math.inf, "an exception changes something"


@pytest.mark.parametrize("agent", ["python-httpx/0.28.1", "python-httpx2/2.16.2"])
def test_a_client_that_hides_a_short_timeout_hears_three_times_within_it(agent: str) -> None:
    headers = {"user-agent": agent}
    assert heartbeat_for(headers, interval=60.0, form="comment") == Heartbeat(5.0 * SHARE_OF_TIMEOUT, "comment")
    assert heartbeat_for(headers, interval=1.0, form="event") == Heartbeat(1.0, "event")
    assert heartbeat_for(headers, interval=0.0, form="both").interval == math.inf
    headers["x-stainless-read-timeout"] = "3"
    assert heartbeat_for(headers, interval=60.0, form="both").interval == 1.0


@pytest.mark.parametrize(
    ("headers", "interval"),
    [
        ({"x-stainless-read-timeout": "600"}, 5.0),
        ({"x-stainless-read-timeout": "3"}, 1.0),
        ({"x-stainless-timeout": "6"}, 2.0),
        ({"x-stainless-timeout": "9", "x-stainless-read-timeout": "3"}, 1.0),
        ({"x-stainless-timeout": "3", "x-stainless-read-timeout": "9"}, 1.0),
        ({"x-stainless-read-timeout": "0.1"}, 0.1),
        ({"x-stainless-read-timeout": "NOT_GIVEN", "x-stainless-timeout": "6"}, 2.0),
    ],
)
def test_a_client_that_tells_its_timeout_hears_three_times_within_it(headers: dict[str, str], interval: float) -> None:
    assert heartbeat_for(headers, interval=5.0, form="both").interval == pytest.approx(interval)


@pytest.mark.parametrize("timeout", ["", "0", "-5", "nan", "inf", "1e999", "None", "5s", "0x10"])
def test_a_timeout_that_makes_no_sense_is_none(timeout: str) -> None:
    assert patience({"x-stainless-read-timeout": timeout}) == math.inf


@given(
    timeouts=st.dictionaries(st.sampled_from(["x-stainless-read-timeout", "x-stainless-timeout"]), st.text()),
    numbers=st.dictionaries(st.sampled_from(["x-stainless-read-timeout", "x-stainless-timeout"]), st.floats().map(str)),
    agent=st.text(),
    interval=st.floats(0.1, 60),
)
def test_whatever_the_headers_say_the_interval_is_neither_longer_than_asked_nor_a_flood(
    timeouts: dict[str, str], numbers: dict[str, str], agent: str, interval: float
) -> None:
    headers = {"user-agent": agent, **timeouts, **numbers}
    assert 0.1 <= heartbeat_for(headers, interval=interval, form="comment").interval <= interval
