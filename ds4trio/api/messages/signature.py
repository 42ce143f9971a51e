"""Signatures of thinking blocks: what a client sends back along with the thinking.

Anthropic's are opaque proofs; here nobody has to be convinced of anything, but a signature must not be empty (clients
turn unsigned thinking into ordinary text), must be the same for the same text, and has one use: a client that asked
not to see the thinking sends back only the signature, so that one carries the text itself. Base64 without compression:
what a client sends can then never unfold into something bigger.
"""

import base64
import binascii
import hashlib

__all__ = ["carried", "carrying", "signature"]

_DIGEST = "ds4trio1d."
_TEXT = "ds4trio1t."


def signature(thinking: str) -> str:
    """The signature of thinking that the client has seen."""
    digest = hashlib.blake2b(thinking.encode(), digest_size=24).digest()
    return _DIGEST + base64.urlsafe_b64encode(digest).decode()


def carrying(thinking: str) -> str:
    """The signature of thinking that the client has not seen: `carried` gets the text back."""
    return _TEXT + base64.urlsafe_b64encode(thinking.encode()).decode()


def carried(signature: str) -> str:
    """The text within a signature; empty for every signature that was not made by `carrying`."""
    if not signature.startswith(_TEXT):
        return ""
    try:
        return base64.b64decode(signature.removeprefix(_TEXT), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):  # not ASCII, not base64, or not UTF-8 inside
        return ""
