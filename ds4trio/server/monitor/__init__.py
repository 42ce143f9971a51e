"""What is known of requests: a record each, told to the log, to ``/requests``, to ``/metrics`` and to the page.

A lifeline says what happens to its `Record`, and to nobody else. A new place that shows requests reads records; one
that has to hear everything is a `Watcher`, as the log and the trace are; a new figure is one line in `Metrics`.
"""

from ds4trio.server.monitor.board import Board
from ds4trio.server.monitor.metrics import Metrics
from ds4trio.server.monitor.record import Record
from ds4trio.server.monitor.request_log import RequestLog
from ds4trio.server.monitor.watcher import Watcher

__all__ = ["Board", "Metrics", "Record", "RequestLog", "Watcher"]
