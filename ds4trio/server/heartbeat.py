"""Which heartbeat a client gets: the operator's choice, what the client says of itself, what was measured of it.

The forms themselves are the protocols' (see `ds4trio.api.answer.StreamAnswer`). `EXCEPTIONS` is the one place that
knows clients by name; ``ds4trio heartbeats`` prints it for the docs.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ds4trio.api.answer import HeartbeatForm

__all__ = ["EXCEPTIONS", "Heartbeat", "HeartbeatException", "heartbeat_for", "patience"]

# Headers in which SDKs tell their own timeout in seconds: openai-python and anthropic-python the time between two
# reads, anthropic's for Node and Pi the time until the headers.
TIMEOUT_HEADERS = ("x-stainless-read-timeout", "x-stainless-timeout")
# A third: one beat may be late and one may be lost, and the client still hears in time.
SHARE_OF_TIMEOUT = 1 / 3
SHORTEST_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """``interval`` in seconds, infinite for none."""

    interval: float
    form: HeartbeatForm


@dataclass(frozen=True, slots=True)
class HeartbeatException:
    """A client that needs more than the operator's choice.

    ``user_agent`` is a pattern for the header's beginning. ``events``: comments alone do not keep it alive, so where
    the operator chose them it gets both forms. ``interval`` is the longest that it stands, in seconds.
    """

    client: str
    user_agent: str
    evidence: str
    events: bool = False
    interval: float = math.inf


EXCEPTIONS = (
    HeartbeatException(
        "Codex",
        r"codex[_-]",
        "0.169.0 was cut at stream_idle_timeout_ms while comments came; response.in_progress kept it alive",
        events=True,
    ),
    HeartbeatException(
        "Qwen Code",
        r"QwenCode/",
        "0.24.4 was cut at QWEN_STREAM_IDLE_TIMEOUT_MS while comments came; its guard counts parsed chunks",
        events=True,
    ),
    HeartbeatException(
        "Claude Code",
        r"claude-cli/",
        "2.1.330 was cut after 600.07 s of comments alone; message_delta kept it alive past its 300 s watchdog",
        events=True,
    ),
    HeartbeatException(
        "httpx",
        r"python-httpx2?/",
        "its default read timeout is 5 s and it does not say so, unlike the SDKs that are built on it",
        interval=5.0 * SHARE_OF_TIMEOUT,
    ),
)


def heartbeat_for(
    headers: Mapping[str, str], *, interval: float, form: Literal["both", "event", "comment", "off"]
) -> Heartbeat:
    """The heartbeat for a request with these headers, their names in lower case.

    ``interval`` (seconds, 0 for none) and ``form`` are the operator's. A client that tells its own timeout gets at
    most a third of it.
    """
    if form == "off" or interval <= 0:
        return Heartbeat(math.inf, "both")
    if form == "comment" and any(exception.events for exception in _exceptions(headers)):
        form = "both"
    return Heartbeat(min(interval, patience(headers)), form)


def patience(headers: Mapping[str, str]) -> float:
    """The longest silence in seconds that a client stands, by its own word or its name; infinite if unknown."""
    stated = [timeout for name in TIMEOUT_HEADERS if (timeout := _seconds(headers.get(name, ""))) is not None]
    known = [exception.interval for exception in _exceptions(headers)]
    return max(SHORTEST_INTERVAL, min([*(timeout * SHARE_OF_TIMEOUT for timeout in stated), *known, math.inf]))


def _exceptions(headers: Mapping[str, str]) -> list[HeartbeatException]:
    agent = headers.get("user-agent", "")
    return [exception for exception in EXCEPTIONS if re.match(exception.user_agent, agent)]


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None
