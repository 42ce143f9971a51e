"""For people who test their agents, and this server, against waiting and leaving.

`plugin` has the pytest fixtures: ``ds4trio_server`` starts real servers, ``ds4trio_app`` an application in memory.
`call_asgi` asks an application in memory, so that virtual time works (pytest-trio's ``autojump_clock``); `open_client`
speaks HTTP/1.1 on a real socket. Both note when each byte came, `silence_of` says how long there was none, and
`assert_no_orphans` that nothing goes on for those who have left.

Clients that give up, each in its way:

| client | |
|---|---|
| idle timeout, any byte counts | ``await watch(call, Watchdog(idle=30))`` |
| idle timeout, parsed events count | ``await watch(call, Watchdog(idle=30, counts="events"))`` |
| fixed deadline | ``await watch(call, Watchdog(lifetime=60))`` |
| a real agent with its default settings | ``await watch(call, WATCHDOGS[...])`` |
| slow reader | ``await client.read_slowly(100)`` |
| half-close, FIN, RST | ``await client.half_close()``, ``client.leave()``, ``client.reset()`` |
| gone without a word | ``client.vanish()`` |
| retry storm | ``await retry_storm(port, body, tries=10, within=5)`` |

Nothing is imported before it is asked for: pytest loads the plugin for everybody who has this package installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ds4trio.testing.app import run_app
    from ds4trio.testing.asgi import AsgiCall, call_asgi
    from ds4trio.testing.clients import StreamClient, chat_body, fresh_prompt, open_client, retry_storm
    from ds4trio.testing.orphans import assert_no_orphans
    from ds4trio.testing.plugin import StartApp, StartServer
    from ds4trio.testing.process import ServerProcess, run_server
    from ds4trio.testing.stream import Arrival, Gap, Silence, Stream, StreamEvent, gaps, silence_of
    from ds4trio.testing.watchdogs import WATCHDOGS, Cut, Watchdog, watch

_HOME = {
    "app": ("run_app",),
    "asgi": ("AsgiCall", "call_asgi"),
    "clients": ("StreamClient", "chat_body", "fresh_prompt", "open_client", "retry_storm"),
    "orphans": ("assert_no_orphans",),
    "plugin": ("StartApp", "StartServer"),
    "process": ("ServerProcess", "run_server"),
    "stream": ("Arrival", "Gap", "Silence", "Stream", "StreamEvent", "gaps", "silence_of"),
    "watchdogs": ("WATCHDOGS", "Cut", "Watchdog", "watch"),
}

__all__ = [
    "WATCHDOGS",
    "Arrival",
    "AsgiCall",
    "Cut",
    "Gap",
    "ServerProcess",
    "Silence",
    "StartApp",
    "StartServer",
    "Stream",
    "StreamClient",
    "StreamEvent",
    "Watchdog",
    "assert_no_orphans",
    "call_asgi",
    "chat_body",
    "fresh_prompt",
    "gaps",
    "open_client",
    "retry_storm",
    "run_app",
    "run_server",
    "silence_of",
    "watch",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"ds4trio.testing.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
