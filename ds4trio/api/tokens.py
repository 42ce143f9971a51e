"""llama-server's tokenizer endpoints: ``/tokenize``, ``/detokenize``, ``/apply-template``."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ds4trio.api.body import decode

__all__ = [
    "DetokenizeRequest",
    "TokenizeRequest",
    "detokenize_document",
    "parse_detokenize",
    "parse_tokenize",
    "template_document",
    "tokenize_document",
]


class TokenizeRequest(Struct):
    """A text, and how to read it. llama-server's defaults."""

    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(Struct):
    """Token ids."""

    tokens: list[Annotated[int, Meta(ge=0, le=2**31 - 1)]]


_tokenize = msgspec.json.Decoder(TokenizeRequest)
_detokenize = msgspec.json.Decoder(DetokenizeRequest)


def parse_tokenize(body: bytes) -> TokenizeRequest:
    """Check a body of ``/tokenize``. Raises `InvalidRequestError`."""
    return decode(_tokenize, body)


def parse_detokenize(body: bytes) -> DetokenizeRequest:
    """Check a body of ``/detokenize``. Raises `InvalidRequestError`."""
    return decode(_detokenize, body)


def tokenize_document(tokens: Sequence[int], pieces: Sequence[bytes] | None) -> bytes:
    """The token ids, with ``pieces`` each beside its text (a list of bytes where it is no UTF-8)."""
    if pieces is None:
        return msgspec.json.encode({"tokens": tokens})
    return msgspec.json.encode(
        {"tokens": [{"id": token, "piece": _piece(piece)} for token, piece in zip(tokens, pieces, strict=True)]}
    )


def detokenize_document(pieces: Sequence[bytes]) -> bytes:
    """The text of the tokens."""
    return msgspec.json.encode({"content": b"".join(pieces).decode(errors="replace")})


def template_document(prompt: str) -> bytes:
    """The text that the model's chat template makes of a chat request."""
    return msgspec.json.encode({"prompt": prompt})


def _piece(piece: bytes) -> Any:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
