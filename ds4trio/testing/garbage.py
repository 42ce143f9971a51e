"""Bytes that no client should send, on a socket of their own, and rude ways to leave after them.

`KINDS` are makers of such bytes by name; each takes a source of randomness, so that a seed repeats a campaign. Some of
what they make is valid: a server has to see the difference.
"""

import json
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from random import Random
from typing import Literal

import trio

__all__ = ["HEAD", "HEALTH", "KINDS", "LEAVINGS", "WHOLE", "Leaving", "throw"]

Leaving = Literal["wait", "half_close", "close", "reset"]
"""What follows the bytes: wait for the server to hang up, FIN and wait, FIN and gone, RST."""
LEAVINGS: tuple[Leaving, ...] = ("wait", "half_close", "close", "reset")

BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
REQUEST_LINES = (
    b"GET\r\n",
    b"GET /health\r\n",
    b"GET /health HTTP/9.9\r\n",
    b"GET /health HTTP/1.1 twice\r\n",
    b"GET  /health HTTP/1.1\r\n",
    b"G\0T /health HTTP/1.1\r\n",
    b"GET /h\xe9alth HTTP/1.1\r\n",
    b"GET /%ff%00%zz HTTP/1.1\r\n",
    b"GET http://[::1/health HTTP/1.1\r\n",
    b"GET health HTTP/1.1\r\n",
    b"GET * HTTP/1.1\r\n",
    b"CONNECT localhost:80 HTTP/1.1\r\n",
    b"TRACE / HTTP/1.1\r\n",
    b"\r\n\r\n\r\n",
    b"/" * 70_000,
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n",
    b"GET /health HTTP/1.0\r\n",
)
HEADERS = (
    b"no colon\r\n",
    b"name : space\r\n",
    b": empty\r\n",
    b"n\xe4me: x\r\n",
    b"name: \xff\xfe\0\r\n",
    b"name: one\r\n two\r\n",
    b"host: other\r\n",
    b"host: localhost:99999999\r\n",
    b"host: [::1\r\n",
    b"name: bare\nline: feed\n",
    b"authorization: Bearer \xff\r\n",
    b"expect: 100-continue\r\n",
    b"connection: upgrade, \xff\r\n",
)
LENGTHS = (b"-1", b"abc", b"1e3", b"0x10", b"", b"5, 6", b"9" * 30, b"+5", b"3", b"99999", b"\xb2", b"1_0")
CHUNKED = (
    b"zz\r\nhello\r\n",
    b"-5\r\nhello\r\n",
    b"5\r\nhelloworld\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"ffffffffffffffffffff\r\n",
    b"5;" + b"x" * 70_000 + b"\r\nhello\r\n0\r\n\r\n",
    b"0\r\nbad trailer\r\n\r\n",
    b"0\r\n\r\n",
    b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
    b"5\r\nhel",
)
CODINGS = (b"gzip", b"chunked, chunked", b"identity", b"chunked;q=1", b"xchunked", b"\xff")
UPGRADES = (
    b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAA\r\n",
    b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 1\r\n",
    b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    b"upgrade: h2c\r\nconnection: upgrade\r\nhttp2-settings: !!!\r\n",
    b"upgrade: h2c\r\nconnection: upgrade\r\n",
)
CLIENT_HELLO = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03"


def _request_line(random: Random) -> bytes:
    return random.choice(REQUEST_LINES) + random.choice([b"host: localhost\r\n\r\n", b"\r\n", b""])


def _headers(random: Random) -> bytes:
    lines = b"".join(random.choices(HEADERS, k=random.randint(1, 3)))
    return b"GET /health HTTP/1.1\r\n" + random.choice([b"host: localhost\r\n", b""]) + lines + b"\r\n"


def _huge_headers(random: Random) -> bytes:
    many = b"".join(b"x-%d: y\r\n" % number for number in range(random.choice([200, 20_000])))
    lines = random.choice([b"x: " + b"y" * random.choice([70_000, 1_000_000]), many])
    return b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + lines + random.choice([b"\r\n\r\n", b""])


def _content_length(random: Random) -> bytes:
    lines = b"".join(b"content-length: %s\r\n" % random.choice(LENGTHS) for _ in range(random.choice([1, 1, 2])))
    return HEAD + lines + b"\r\n" + BODY


def _chunked(random: Random) -> bytes:
    both = random.choice([b"", b"", b"content-length: 5\r\n"])
    return HEAD + both + b"transfer-encoding: chunked\r\n\r\n" + random.choice(CHUNKED)


def _coding(random: Random) -> bytes:
    return HEAD + b"transfer-encoding: %s\r\n\r\n" % random.choice(CODINGS) + random.choice(CHUNKED)


def _half(random: Random) -> bytes:
    return WHOLE[: random.randrange(1, len(WHOLE))]


def _pipelined(random: Random) -> bytes:
    return b"".join(random.choice([WHOLE, HEALTH, _noise(random), _half(random)]) for _ in range(random.randint(2, 8)))


def _bad_utf8(random: Random) -> bytes:
    body = BODY.replace(b"hi", random.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\0"]))
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


def _upgrade(random: Random) -> bytes:
    path = random.choice([b"/", b"/health", b"/v1/chat/completions"])
    method = random.choice([b"GET", b"GET", b"POST"])
    head = method + b" " + path + b" HTTP/1.1\r\nhost: localhost\r\n" + random.choice(UPGRADES) + b"\r\n"
    return head + random.choice([b"", _noise(random), PREFACE + SETTINGS])


def _http2(random: Random) -> bytes:
    frames = b"".join(_frame(random) for _ in range(random.randint(0, 6)))
    start = random.choice([PREFACE, PREFACE, PREFACE, PREFACE[: random.randrange(4, len(PREFACE))]])
    return start + random.choice([SETTINGS, b""]) + frames


def _frame(random: Random) -> bytes:
    """One frame: a header whose parts are all but random, and often not the length that it says."""
    # A method, a scheme and a path of HPACK's static table; what a request needs, or half of it.
    requests = [b"\x82\x86\x84\x41\x09localhost", b"\x82\x86", b"\x83\x86\x84", b"\x82\x84\xff\xff\xff", b""]
    payload = random.choice([*requests, _noise(random), b"\0" * random.choice([1, 4, 5, 8])])
    length = random.choice([len(payload), len(payload), len(payload), 2**24 - 1, 0])
    kind, flags, stream = (
        random.randrange(12),
        random.choice([0, 1, 4, 5, 0x25, 0xFF]),
        random.choice([0, 1, 2, 3, 2**31 - 1]),
    )
    return struct.pack(">I", length)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _tls(random: Random) -> bytes:
    return CLIENT_HELLO + random.randbytes(random.choice([0, 32, 190]))


def _noise(random: Random) -> bytes:
    return random.randbytes(random.choice([1, 10, 100, 1000]))


KINDS: Mapping[str, Callable[[Random], bytes]] = {
    "request line": _request_line,
    "headers": _headers,
    "huge headers": _huge_headers,
    "content-length": _content_length,
    "chunked": _chunked,
    "transfer-encoding": _coding,
    "half a request": _half,
    "pipelined": _pipelined,
    "bad UTF-8": _bad_utf8,
    "upgrade": _upgrade,
    "HTTP/2": _http2,
    "TLS": _tls,
    "noise": _noise,
}


async def throw(port: int, data: bytes, leaving: Leaving, *, patience: float = 0.2) -> bytes:
    """Connect, send ``data``, leave; what the server said meanwhile. A checkpoint; losing the connection is no error.

    ``patience`` is how many seconds a connection that the server leaves open is listened to.
    """
    heard = b""
    with suppress(OSError, trio.BrokenResourceError):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            with suppress(OSError, trio.BrokenResourceError), trio.move_on_after(patience):
                await stream.send_all(data)
            if leaving == "half_close":
                await stream.send_eof()
            if leaving in ("wait", "half_close"):
                with trio.move_on_after(patience):
                    while piece := await stream.receive_some(65536):
                        heard += piece
            elif leaving == "reset":
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return heard
