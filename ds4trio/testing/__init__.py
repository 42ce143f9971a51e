"""For people who test their agents, and this server, against waiting and leaving.

`asgi` calls an application in memory, so that virtual time works; `clients` speaks HTTP/1.1 on a real socket, notes
when each byte came, and can leave in every rude way; `watchdogs` are the idle timers of real agent clients; `process`
runs a real server. Together with
`ds4trio.engine.simulated` no model is needed.
"""

from ds4trio.testing.asgi import AsgiCall, call_asgi
from ds4trio.testing.clients import Arrival, StreamClient, StreamEvent, chat_body, fresh_prompt, open_client
from ds4trio.testing.process import ServerProcess, run_server
from ds4trio.testing.watchdogs import WATCHDOGS, Cut, Watchdog, watch

__all__ = [
    "WATCHDOGS",
    "Arrival",
    "AsgiCall",
    "Cut",
    "ServerProcess",
    "StreamClient",
    "StreamEvent",
    "Watchdog",
    "call_asgi",
    "chat_body",
    "fresh_prompt",
    "open_client",
    "run_server",
    "watch",
]
