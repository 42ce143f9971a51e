"""How agent clients decide that a server is dead, scripted: for tests under virtual time.

A `Watchdog` is one client's rules: how long it waits for headers, which bytes of a stream it counts as a sign of life,
how long it stands silence, what it chokes on, how long it lives at all. `watch` applies them to a running call, in
memory or on a socket, as the client would, and hangs up when they say so. `WATCHDOGS` are the rules that were measured
of real clients, at their default settings; ``Watchdog(idle=30)``, ``Watchdog(idle=30, counts="events")`` and
``Watchdog(lifetime=60)`` are the plain kinds: an idle timeout by bytes or by parsed events, and a fixed deadline.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import trio

from ds4trio.testing.stream import PATHS, Protocol, Stream

__all__ = ["WATCHDOGS", "Cut", "Watchdog", "watch"]


@dataclass(frozen=True, slots=True)
class Cut:
    """The client has hung up, ``at`` seconds after it asked."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog:
    """One client's rules, in seconds.

    ``counts`` says what re-arms the idle timer: any ``bytes``, any parsed ``events``, or ``news``, which is every event
    but a ping. ``known`` are the event types of the protocol if another one ends the client, ``created_first`` if it
    ends when an event comes before ``response.created``.
    """

    client: str = "any"
    protocol: Protocol = "chat"
    idle: float = math.inf
    headers: float = math.inf
    lifetime: float = math.inf
    counts: Literal["bytes", "events", "news"] = "bytes"
    known: frozenset[str] | None = None
    created_first: bool = False
    sends: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The endpoint that this client asks."""
        return PATHS[self.protocol]


MESSAGES_EVENTS = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
        "error",
    }
)
OPENAI_PYTHON = {"user-agent": "OpenAI/Python 3.54.0", "x-stainless-read-timeout": "600"}
ANTHROPIC_PYTHON = {"user-agent": "Anthropic/Python 2.12.0", "x-stainless-read-timeout": "600"}
OPENAI_NODE = {"user-agent": "OpenAI/JS 6.49.0"}
ANTHROPIC_NODE = {"user-agent": "Anthropic/JS 1.12.0", "x-stainless-timeout": "600"}
CODEX = {"user-agent": "codex_exec/0.169.0 (Debian 12.0.0; x86_64)"}
CLAUDE_CODE = {"user-agent": "claude-cli/2.1.330 (external, sdk-cli)", "x-stainless-timeout": "600"}
PI = {"user-agent": "pi (linux; x64)", "x-stainless-timeout": "300"}
OPENCODE = {"user-agent": "opencode/1.18.33 ai-sdk/provider-utils/4.0.0 runtime/bun/1.3"}
QWEN_CODE = {"user-agent": "QwenCode/0.24.4 (linux; x64)"}

WATCHDOGS = (
    Watchdog(client="openai-python", protocol="chat", idle=600, headers=600, sends=OPENAI_PYTHON),
    Watchdog(client="openai-python", protocol="responses", idle=600, headers=600, sends=OPENAI_PYTHON),
    Watchdog(
        client="openai-python responses.stream()",
        protocol="responses",
        idle=600,
        headers=600,
        created_first=True,
        sends=OPENAI_PYTHON,
    ),
    Watchdog(client="anthropic-python", protocol="messages", idle=600, headers=600, sends=ANTHROPIC_PYTHON),
    Watchdog(client="httpx", protocol="chat", idle=5, headers=5, sends={"user-agent": "python-httpx/0.28.1"}),
    Watchdog(client="openai-node", protocol="chat", idle=300, headers=300, sends=OPENAI_NODE),
    Watchdog(
        client="openai-node responses.stream()",
        protocol="responses",
        idle=300,
        headers=300,
        created_first=True,
        sends=OPENAI_NODE,
    ),
    Watchdog(client="@anthropic-ai/sdk", protocol="messages", idle=300, headers=300, sends=ANTHROPIC_NODE),
    Watchdog(client="undici fetch", protocol="chat", idle=300, headers=300, sends={"user-agent": "node"}),
    # Codex's own default cannot be read from its binary; 300 s is what its documentation of the setting says.
    Watchdog(client="Codex", protocol="responses", idle=300, counts="events", created_first=True, sends=CODEX),
    Watchdog(
        client="Claude Code 2.1.330", protocol="messages", idle=300, headers=600, counts="news", sends=CLAUDE_CODE
    ),
    Watchdog(
        client="Claude Code 2.1.197",
        protocol="messages",
        idle=300,
        headers=600,
        counts="news",
        sends={**CLAUDE_CODE, "user-agent": "claude-cli/2.1.197 (external, cli)"},
    ),
    Watchdog(client="Pi", protocol="chat", idle=300, headers=300, sends=PI),
    Watchdog(client="Pi", protocol="responses", idle=300, headers=300, sends=PI),
    Watchdog(client="Pi", protocol="messages", idle=300, headers=300, sends=PI),
    Watchdog(client="opencode", protocol="chat", idle=300, headers=300, sends=OPENCODE),
    Watchdog(client="opencode", protocol="responses", idle=300, headers=300, sends=OPENCODE),
    Watchdog(client="opencode", protocol="messages", idle=300, headers=300, known=MESSAGES_EVENTS, sends=OPENCODE),
    Watchdog(
        client="Qwen Code", protocol="chat", idle=240, headers=120, lifetime=900, counts="events", sends=QWEN_CODE
    ),
)


async def watch(call: Stream, watchdog: Watchdog) -> Cut | None:
    """Be that client until the answer ends (None) or it hangs up; a checkpoint."""
    began = trio.current_time()
    with trio.move_on_after(watchdog.lifetime) as life:
        with trio.move_on_after(watchdog.headers):
            await call.wait_for_headers()
        if call.status is None:
            return _hang_up(call, began, f"no headers after {watchdog.headers:g} s")
        seen, heard, created = 0, 0, False
        with trio.CancelScope(deadline=trio.current_time() + watchdog.idle) as idle:
            while not call.ended.is_set():
                await call.wait_for_arrivals(more_than=seen)
                alive = watchdog.counts == "bytes" and len(call.arrivals) > seen
                fresh, seen = call.events[heard:], len(call.arrivals)
                heard += len(fresh)
                for event in fresh:
                    kind = event.data.get("type", "")
                    created = created or kind == "response.created"
                    if watchdog.known is not None and kind not in watchdog.known:
                        return _hang_up(call, began, f"an event of type {kind!r}")
                    if watchdog.created_first and not created:
                        return _hang_up(call, began, f"{kind!r} before response.created")
                    alive = alive or watchdog.counts == "events" or (watchdog.counts == "news" and kind != "ping")
                if alive:
                    idle.deadline = trio.current_time() + watchdog.idle
        if idle.cancelled_caught:
            return _hang_up(call, began, f"no {watchdog.counts} for {watchdog.idle:g} s")
    return _hang_up(call, began, f"older than {watchdog.lifetime:g} s") if life.cancelled_caught else None


def _hang_up(call: Stream, began: float, reason: str) -> Cut:
    call.leave()
    return Cut(trio.current_time() - began, reason)
