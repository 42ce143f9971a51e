"""Reasoning that travels with a client: ``encrypted_content``.

A client that stores nothing here returns its reasoning items with the next request. OpenAI hides the reasoning in
them; here it is the user's own, so the text is only packed: versioned, reversible, not secret. What others packed
cannot be read and is passed over.
"""

from base64 import b64decode, b64encode

__all__ = ["pack", "unpack"]

PREFIX = "ds4trio-r1."


def pack(text: str) -> str:
    """The text as an opaque ASCII string."""
    return PREFIX + b64encode(text.encode()).decode()


def unpack(packed: str | None) -> str | None:
    """The text of `pack`, or None for anything else."""
    if packed is None or not packed.startswith(PREFIX):
        return None
    try:
        return b64decode(packed.removeprefix(PREFIX), validate=True).decode()
    except ValueError:  # not base64, or not UTF-8
        return None
