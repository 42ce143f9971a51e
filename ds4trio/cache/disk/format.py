"""The file of a block, byte by byte.

::

    fixed part | tokens, 8 bytes each | model's name | first words | checksum of all before | payload

The fixed part has the payload's length and checksum, so the header's checksum, verified first, answers for every byte
of the file, and a header can be trusted without reading megabytes behind it. All is in the machine's own byte order,
as is the KV in the payload.

Only magic and version are read before the checksum is known to fit, since another version may put it elsewhere.
"""

import struct
from array import array
from dataclasses import dataclass

from xxhash import xxh3_128_digest

from ds4trio.cache.disk.block import ID_BYTES, TOKEN, Block, block_id

__all__ = [
    "FIRST_READ",
    "VERSION",
    "DamagedError",
    "Header",
    "OtherVersionError",
    "Payload",
    "decode",
    "encode",
    "header_size",
]

MAGIC = b"ds4trKV\n"
VERSION = 1
FIRST_READ = 8192
"""Bytes to read first: all of the header of a usual block."""
MOST_NAME_BYTES = 120
MOST_WORDS_BYTES = 200

CHECKSUM_BYTES = 16
_START = struct.Struct("=8sII")  # magic, version, bytes of the header with its checksum
_REST = struct.Struct(f"={ID_BYTES}s{ID_BYTES}s{ID_BYTES}sQQ?ddQ{CHECKSUM_BYTES}sHH")
_FIXED = _START.size + _REST.size
_TOKEN_BYTES = array(TOKEN).itemsize

Payload = bytes | bytearray | memoryview


class DamagedError(Exception):
    """Not a file of ours, or not any more. It can be of no use to anybody."""


class OtherVersionError(Exception):
    """A file of another version of this program: of no use here, perhaps elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says before its payload."""

    block: Block
    root: bytes
    created: float
    """Seconds since 1970."""
    model: str
    """For people: the model's name."""
    words: str
    """For people: the first words of a prompt, in blocks that begin at 0."""
    payload_bytes: int
    payload_checksum: bytes
    size: int
    """Where the payload begins."""

    def verify(self, payload: Payload) -> None:
        """Raise `DamagedError` unless this is the payload that was written."""
        if len(payload) != self.payload_bytes or xxh3_128_digest(payload) != self.payload_checksum:
            raise DamagedError("the checksum of the payload does not fit")


def encode(block: Block, payload: Payload, *, root: bytes, created: float, model: str, words: str) -> bytes:
    """The header of a block's file; the payload follows it."""
    name, first = _shortened(model, MOST_NAME_BYTES), _shortened(words, MOST_WORDS_BYTES)
    tokens = block.tokens.tobytes()
    size = _FIXED + len(tokens) + len(name) + len(first) + CHECKSUM_BYTES
    rest = _REST.pack(
        root,
        block.id,
        block.parent,
        block.start,
        len(block.tokens),
        block.whole,
        created,
        block.seconds,
        len(payload),
        xxh3_128_digest(payload),
        len(name),
        len(first),
    )
    header = _START.pack(MAGIC, VERSION, size) + rest + tokens + name + first
    return header + xxh3_128_digest(header)


def header_size(beginning: bytes | bytearray, file_bytes: int) -> int:
    """How long a file's header is, from its first `FIRST_READ` bytes. Raises `DamagedError` or `OtherVersionError`."""
    if len(beginning) < _START.size:
        raise DamagedError("shorter than a header")
    magic, version, size = _START.unpack_from(beginning)
    if magic != MAGIC:
        raise DamagedError("not a KV block")
    if version != VERSION:
        raise OtherVersionError(f"format {version}, this is {VERSION}")
    if not _FIXED + CHECKSUM_BYTES <= size <= file_bytes:
        raise DamagedError("cut short, or its length is damaged")
    return int(size)


def decode(header: bytes, file_bytes: int, *, root: bytes, id: bytes) -> Header:
    """Read a header of `header_size` bytes whose place says that it is block ``id`` of model ``root``.

    Raises `DamagedError` unless it is, and unless the file is as long as it should be.
    """
    if xxh3_128_digest(header[:-CHECKSUM_BYTES]) != header[-CHECKSUM_BYTES:]:
        raise DamagedError("the checksum of the header does not fit")
    fields = _REST.unpack_from(header, _START.size)
    (
        own_root,
        own_id,
        parent,
        start,
        count,
        whole,
        created,
        seconds,
        payload_bytes,
        checksum,
        name_bytes,
        words_bytes,
    ) = fields
    tokens_end = _FIXED + count * _TOKEN_BYTES
    words_start = tokens_end + name_bytes
    if words_start + words_bytes + CHECKSUM_BYTES != len(header) or len(header) + payload_bytes != file_bytes:
        raise DamagedError("not as long as it should be")
    tokens = array(TOKEN, header[_FIXED:tokens_end])
    if (own_root, own_id) != (root, id) or block_id(parent, tokens, whole=whole) != id:
        raise DamagedError("another block than its name says")
    if not tokens or (start == 0) != (parent == root) or (whole and start) or not seconds >= 0:
        raise DamagedError("not a block that could have been written")
    block = Block(id=id, parent=parent, start=start, tokens=tokens, whole=whole, seconds=seconds, size=file_bytes)
    return Header(
        block=block,
        root=root,
        created=created,
        model=header[tokens_end:words_start].decode(errors="replace"),
        words=header[words_start:-CHECKSUM_BYTES].decode(errors="replace"),
        payload_bytes=payload_bytes,
        payload_checksum=checksum,
        size=len(header),
    )


def _shortened(text: str, most: int) -> bytes:
    return text.encode(errors="replace")[:most].decode(errors="ignore").encode()
