"""A conversation as every protocol is parsed into it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Message", "Role"]

Role = Literal["system", "developer", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``extra`` holds what templates may know beside role and content (``name``, ``tool_calls``, …)."""

    role: Role
    content: str
    extra: Mapping[str, object] = field(default_factory=dict)
