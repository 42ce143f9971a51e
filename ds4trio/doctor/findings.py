"""What a check comes to."""

from typing import Literal

import msgspec

__all__ = ["Finding", "Status", "ok", "problem", "size", "warning"]

Status = Literal["ok", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """One check: what it looked at, how that is, and what to do where it is not well."""

    check: str
    status: Status
    says: str
    fix: str = ""


def ok(check: str, says: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", says)


def warning(check: str, says: str, fix: str) -> Finding:
    """A server works, less well than it could."""
    return Finding(check, "warning", says, fix)


def problem(check: str, says: str, fix: str) -> Finding:
    """A server does not work like this."""
    return Finding(check, "problem", says, fix)


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
