"""What a block of KV is and what it is called.

A block's id is a hash of its parent's id, its kind and its own tokens, and the first parent's is a hash of the model's
fingerprint. So an id stands for all tokens from position 0 on, of this model: equal ids are equal KV, and no id has to
be looked up to know that.
"""

from array import array
from dataclasses import dataclass
from hashlib import blake2b

from ds4trio.cache.prefix_tree import TOKEN

__all__ = ["ID_BYTES", "TOKEN", "Block", "block_id", "root_id"]

ID_BYTES = 16
_ROOT = b"ds4trio kv root"
_PART = b"ds4trio kv part"
_WHOLE = b"ds4trio kv whole"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """The KV of some tokens, kept in one file. Compare ``id``, not blocks.

    Not ``whole``: the KV of its own tokens, useful only behind its ancestors, and any beginning of it may be used.
    ``whole``: a state of all tokens from 0 to its end, useful alone and only as it is; its parent is the root.
    """

    id: bytes
    parent: bytes
    """The block before it, or the root of its model."""
    start: int
    """The position of its first token."""
    tokens: "array[int]"
    whole: bool
    seconds: float
    """What computing its tokens again would take."""
    size: int = 0
    """Bytes of its file; 0 until it is written."""

    @property
    def end(self) -> int:
        """The position behind its last token."""
        return self.start + len(self.tokens)


def root_id(fingerprint: bytes) -> bytes:
    """The id that stands before the first block of a model. ``fingerprint``: all that makes KV unfit for another."""
    return blake2b(fingerprint, digest_size=ID_BYTES, person=_ROOT).digest()


def block_id(parent: bytes, tokens: "array[int]", *, whole: bool = False) -> bytes:
    """The id of the block with these tokens behind ``parent``."""
    return blake2b(parent + tokens.tobytes(), digest_size=ID_BYTES, person=_WHOLE if whole else _PART).digest()
