"""The ``Priority`` header of RFC 9218: how urgent a request is, by the client's word.

Its value is a dictionary of RFC 8941, and a value that is none is ignored as a whole, as both say. Only ``u`` matters
here, since an answer is always written as it comes.
"""

import re

__all__ = ["stated_priority"]

# Urgencies are 0, which goes first, to 7; this one is the default.
NORMAL_URGENCY = 3
LEAST_URGENT = 7

_KEY = re.compile(r"[a-z*][a-z0-9_\-.*]*")
_BARE_ITEM = re.compile(
    r"-?(?:\d{1,12}\.\d{1,3}|\d{1,15})(?![\d.])"  # a number
    r'|"(?:[ !#-\[\]-~]|\\["\\])*"'  # a string
    r"|[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*"  # a token
    r"|:[A-Za-z0-9+/]*=*:"  # bytes in base64
    r"|\?[01]",  # a boolean
    re.ASCII,
)
_SPACES = re.compile(" *")
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_END = re.compile(r"[ \t]*\Z")
_INTEGER = re.compile(r"-?[0-9]+")


class _MalformedError(Exception):
    pass


def stated_priority(header: str) -> int | None:
    """`Task.priority` for the header's value, several lines joined by commas; None where it says nothing valid."""
    try:
        stated = _members(header).get("u", "")
    except _MalformedError:
        return None
    if not _INTEGER.fullmatch(stated) or not 0 <= int(stated) <= LEAST_URGENT:
        return None
    return int(stated) - NORMAL_URGENCY


def _members(text: str) -> dict[str, str]:
    """The members of a dictionary, the last of each key; the text of an item, empty for a list and for none."""
    members, at, more = {}, _past(_SPACES, text, 0), True
    while more:
        start = at
        at = _past(_KEY, text, at)
        key, item = text[start:at], ""
        if text.startswith("=(", at):
            at = _past_list(text, at + 1)
        elif text.startswith("=", at):
            start = at + 1
            at = _past(_BARE_ITEM, text, start)
            item = text[start:at]
        at = _past_parameters(text, at)
        members[key] = item
        more = (comma := _COMMA.match(text, at)) is not None
        at = comma.end() if comma is not None else _past(_END, text, at)
    return members


def _past_list(text: str, at: int) -> int:
    """The place behind the inner list that begins there."""
    at = _past(_SPACES, text, at + 1)
    while not text.startswith(")", at):
        at = _past_parameters(text, _past(_BARE_ITEM, text, at))
        if not text.startswith((" ", ")"), at):
            raise _MalformedError
        at = _past(_SPACES, text, at)
    return _past_parameters(text, at + 1)


def _past_parameters(text: str, at: int) -> int:
    """The place behind the parameters, if there are any."""
    while text.startswith(";", at):
        at = _past(_KEY, text, _past(_SPACES, text, at + 1))
        if text.startswith("=", at):
            at = _past(_BARE_ITEM, text, at + 1)
    return at


def _past(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    if match is None:
        raise _MalformedError
    return match.end()
