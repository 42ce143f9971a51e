"""What all answers have in common."""

from msgspec import Struct

__all__ = ["Answer"]


class Answer(Struct, forbid_unknown_fields=True):
    """No member but these."""
