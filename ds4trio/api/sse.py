"""Server-sent events as bytes (WHATWG HTML, section 9.2)."""

import msgspec

__all__ = ["comment", "data", "event"]

_encode = msgspec.json.Encoder().encode


def comment(text: str) -> bytes:
    """A comment: seen by byte timers and by people, ignored by every parser."""
    return b": %s\n\n" % text.encode()


def data(value: object) -> bytes:
    """One event with ``value`` as JSON. JSON never holds a raw line break, so one ``data`` line suffices."""
    return b"data: %s\n\n" % _encode(value)


def event(name: str, value: object) -> bytes:
    """The same with an event name."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), _encode(value))
