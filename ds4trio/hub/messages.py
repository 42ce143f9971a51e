"""What the process that downloads tells the server, a line of JSON each."""

import msgspec

__all__ = ["Failed", "Found", "Got", "Message"]


class Got(msgspec.Struct, frozen=True, tag=True):
    """Bytes of a model that are here, and of the whole model."""

    done: int
    total: int


class Found(msgspec.Struct, frozen=True, tag=True):
    """The model's file, or the first of its parts. ``note``: why it is the cached one, if the Hub was no help."""

    path: str
    note: str = ""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Why there is no model."""

    reason: str


Message = Got | Found | Failed
