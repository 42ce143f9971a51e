"""The ``Priority`` header of RFC 9218: how urgent a request is, by the client's word.

Its value is a dictionary of RFC 8941, and a value that is none is ignored as a whole, as both say. Only ``u`` matters
here, since an answer is always written as it comes.
"""

import re

__all__ = ["stated_priority"]

# Urgencies are 0, which goes first, to 7; this one is the default.
NORMAL_URGENCY = 3
LEAST_URGENT = 7

_KEY = r"[a-z*][a-z0-9_\-.*]*+"
_BARE_ITEM = (
    r"(?:-?(?:\d{1,12}\.\d{1,3}|\d{1,15})(?![\d.])"  # a number
    r'|"(?:[ !#-\[\]-~]|\\["\\])*+"'  # a string
    r"|[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*+"  # a token
    r"|:[A-Za-z0-9+/]*+=*+:"  # bytes in base64
    r"|\?[01])"  # a boolean
)
_PARAMETERS = rf"(?:; *+{_KEY}(?:={_BARE_ITEM})?)*+"
_INNER_LIST = rf"\( *+(?:{_BARE_ITEM}{_PARAMETERS}(?: ++|(?=\))))*+\)"
_MEMBER = re.compile(
    rf"(?P<key>{_KEY})(?:=(?:(?P<item>{_BARE_ITEM})|{_INNER_LIST}))?{_PARAMETERS}[ \t]*+(?:(?P<comma>,)[ \t]*+|\Z)",
    re.ASCII,
)
_INTEGER = re.compile(r"-?[0-9]+")


def stated_priority(header: str) -> int | None:
    """`Task.priority` for the header's value, several lines joined by commas; None where it says nothing valid."""
    stated = ""
    start, more = len(header) - len(header.lstrip(" ")), True
    while more:
        member = _MEMBER.match(header, start)
        if member is None:
            return None
        if member["key"] == "u":
            stated = member["item"] or ""  # the last one counts, whatever it is
        start, more = member.end(), member["comma"] is not None
    if not _INTEGER.fullmatch(stated) or not 0 <= int(stated) <= LEAST_URGENT:
        return None
    return int(stated) - NORMAL_URGENCY
