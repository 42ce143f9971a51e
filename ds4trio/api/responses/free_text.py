"""The argument of a custom tool, decoded while it streams.

The model calls a custom tool as a function: ``{"input": "…"}``. Its client wants the string, piece by piece. A piece
ends where no escape is cut, so no character is ever half. Should the call have another shape, or the string an escape
that JSON does not have, the client gets what the model wrote.
"""

import json
import re

__all__ = ["FreeText"]

_OPENING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
# Text without half of anything. The first half of a surrogate pair counts once it is known what follows it.
_WHOLE = re.compile(
    r"""
    (?: [^"\\]+
      | \\ ["\\/bfnrt]
      | \\u (?! [dD][89abAB] ) [0-9a-fA-F]{4}
      | \\u [dD][89abAB][0-9a-fA-F]{2} (?= [^\\] | \\[^u] | \\u[0-9a-fA-F]{4} )
    )*
    """,
    re.VERBOSE,
)


class FreeText:
    """Fragments of the arguments go in, pieces of the text come out; joined they are the text."""

    def __init__(self) -> None:
        self._pending = ""
        self._opened = False

    def feed(self, fragment: str) -> str:
        """What is certain now; may be empty."""
        self._pending += fragment
        if not self._opened:
            opening = _OPENING.match(self._pending)
            if opening is None:
                return ""
            self._opened = True
            self._pending = self._pending[opening.end() :]
        whole = _WHOLE.match(self._pending)
        assert whole is not None, "the pattern matches the empty string"
        self._pending = self._pending[whole.end() :]
        return _unescaped(whole.group())

    def finish(self) -> str:
        """The rest as the model wrote it: nothing after a string that was read to its end."""
        return "" if self._opened and self._pending.startswith('"') else self._pending


def _unescaped(piece: str) -> str:
    if "\\" not in piece:
        return piece
    text: str = json.loads(f'"{piece}"', strict=False)
    # A surrogate without its partner is no character and could not be sent.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
