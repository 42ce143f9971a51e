"""What the log looks like: lines for people, or one JSON object a line for machines.

What a line is made of is its record's business: one whose only argument is a mapping has fields, and ``event`` says
which kind of line it is. Nothing here quotes the message of an exception, since that may quote a prompt.
"""

import json
import logging
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Literal

from ds4trio.engine.breakdown import breakdown, first_leaf

__all__ = [
    "JsonFormatter",
    "LogFormat",
    "PlainFormatter",
    "Without",
    "configure_logging",
    "logging_to",
    "set_log_level",
]

LogFormat = Literal["auto", "plain", "json", "rich"]

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

# What is there for those who read fields: people have the lines that these sum up.
FOR_MACHINES = frozenset({"ready", "ended"})


class PlainFormatter(logging.Formatter):
    """A time and the words."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", datefmt="%H:%M:%S")

    def formatException(self, ei: ExceptionInfo) -> str:  # noqa: N802 - logging's own name
        """Where it was raised and of what kind it is."""
        return _places(ei)


class JsonFormatter(logging.Formatter):
    """An object with ``time`` (UTC), ``level``, ``logger``, ``message``, the record's fields, and an ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of ASCII."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        document: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(record.args, Mapping):
            document |= {name: _rounded(value) for name, value in record.args.items()}
        if record.exc_info:
            document["exception"] = _places(record.exc_info)
        return json.dumps(document, default=str)


class Without(logging.Filter):
    """Leaves out the lines of some events."""

    def __init__(self, events: Collection[str]) -> None:
        super().__init__()
        self._events = events

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is shown."""
        return not (isinstance(record.args, Mapping) and record.args.get("event") in self._events)


def configure_logging(level: str, format: LogFormat) -> None:
    """Write to standard error, unless somebody has configured logging already; never as live bars."""
    root = logging.getLogger()
    if root.handlers:
        return
    root.addHandler(_stream_handler(format))
    set_log_level(level)


@contextmanager
def logging_to(handler: logging.Handler | None, *, level: str, format: LogFormat) -> Iterator[None]:
    """Log through ``handler``, or to standard error, for the length of the block; Python's warnings too."""
    root = logging.getLogger()
    handler = handler or _stream_handler(format)
    root.addHandler(handler)
    logging.captureWarnings(True)
    set_log_level(level)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)


def set_log_level(level: str) -> None:
    """The level of this server's own loggers; what it is built on never says more than ``info``."""
    wanted: int = getattr(logging, level.upper())
    logging.getLogger().setLevel(max(wanted, logging.INFO))
    logging.getLogger("ds4trio").setLevel(wanted)


def _stream_handler(format: LogFormat) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    if format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(PlainFormatter())
        handler.addFilter(Without(FOR_MACHINES))
    return handler


def _places(info: ExceptionInfo) -> str:
    error = info[1]
    return "" if error is None else breakdown(first_leaf(error))


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
