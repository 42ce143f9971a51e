r"""llguidance's dialect of Lark, as far as it is written here.

A `Source` is a grammar in the making. What it hands out are expressions: pieces of Lark that may stand in a rule,
side by side or with ``|`` between them. Two facts shape it:

- A special token is one symbol, ``<[id]>``, and no text can spell it. So free text that ends at one is a plain
  ``/(?s:.*)/`` before it.
- A marker that is text has to be found in the text: then both are one *lazy* lexeme, which ends at the first place
  where it can. The lexer prefers it to free text that would go on, so a begun marker cannot be taken back.

Nothing in here knows dialects or JSON schemas.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping

__all__ = ["ANY_TEXT", "Source", "choice", "quoted", "sequence"]

ANY_TEXT = "/(?s:.*)/"
"""A lexeme of any text, none at all included. Special tokens are no text."""

_SPACED = r" /[ \t\r\n]*/ "


def sequence(*expressions: str) -> str:
    """The expressions one after the other; empty ones stand for nothing."""
    return " ".join(filter(None, expressions)) or '""'


def choice(expressions: Iterable[str]) -> str:
    """One of the expressions, at least one of which there has to be."""
    options = list(dict.fromkeys(expressions))
    return options[0] if len(options) == 1 else f"({' | '.join(options)})"


class Source:
    """Rules and terminals by the names that they get here.

    ``special_tokens`` are those that count as such wherever their text stands in a literal, text → id.
    """

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        self._tokens = special_tokens
        longest_first = sorted(special_tokens, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._names: dict[str, str] = {}
        self._lines: list[str] = []
        self._grammars: list[dict[str, str]] = []

    def rule(self, body: str) -> str:
        """A rule; equal ones are one."""
        return self._name("rule", "", body)

    def terminal(self, body: str) -> str:
        """A lexeme made of regexes and literals; ``&``, ``|`` and ``~`` may connect them."""
        return self._name("TEXT", "", body)

    def lazy(self, body: str) -> str:
        """A lexeme that ends at the first place where it can."""
        return self._name("lazy", "[lazy]", self.terminal(body))

    def define(self, name: str, body: str) -> str:
        """A rule with a name of its own, which ``body`` may refer to."""
        if name not in self._names:
            self._names[name] = name
            self._lines.append(f"{name}: {body}")
        return name

    def embed(self, lark: str) -> str:
        """A whole grammar of somebody else's."""
        name = f"grammar_{len(self._grammars)}"
        self._grammars.append({"name": name, "lark_grammar": lark})
        return f"@{name}"

    def literal(self, text: str) -> str:
        """Exactly this text, special tokens in it as such."""
        pieces = filter(None, self._special.split(text))
        return " ".join(f"<[{self._tokens[piece]}]>" if piece in self._tokens else quoted(piece) for piece in pieces)

    def is_text(self, text: str) -> bool:
        """Whether there is no special token in it."""
        return not self._special.search(text)

    def text(self, without: Collection[str] = ()) -> str:
        """Free text in which none of ``without`` occurs, where white space stands for any or none."""
        return self.terminal(" & ".join([ANY_TEXT, *self._lacking(without)]))

    def until(self, end: str, *, text: str = ANY_TEXT, without: Collection[str] = ()) -> str:
        """Free text and then ``end``, at the first place where it stands.

        ``text`` is what the text has to match besides, a terminal's body; ``end`` itself is not part of it.
        ``without`` as for `text`.
        """
        plain = self._special.split(end, maxsplit=1)[0]
        parts = [text, *self._lacking(part for part in without if part not in end)]
        if plain != end:
            # Where a special token follows, that token is the end, and not the text that leads up to it.
            lead = [f"({' & '.join(parts)}) {quoted(plain)}"] if plain else parts
            return sequence(self.terminal(" & ".join(lead)), self.literal(end[len(plain) :]))
        if text != ANY_TEXT:
            # Text that does not match yet would otherwise run over the end.
            parts += self._lacking([end.strip()])
        return self.lazy(f"({' & '.join(parts)}) {quoted(end)}")

    def lark(self, start: str) -> str:
        """The whole as llguidance wants it, beginning with the expression ``start``."""
        lines = [f"start: {start}", *self._lines]
        return json.dumps({"grammars": [{"lark_grammar": "\n".join(lines)}, *self._grammars]})

    def _lacking(self, texts: Iterable[str]) -> list[str]:
        """What a text has to match besides, so that none of ``texts`` occurs in it."""
        found = sorted({_SPACED.join(map(quoted, text.split())) for text in texts if text and self.is_text(text)})
        return [f"~({ANY_TEXT} {choice(found)} {ANY_TEXT})"] if found else []

    def _name(self, kind: str, options: str, body: str) -> str:
        name = self._names.get(kind + body)
        if name is None:
            name = self._names[kind + body] = f"{kind}_{len(self._names)}"
            self._lines.append(f"{name}{options}: {body}")
        return name


def quoted(text: str) -> str:
    """A literal for a terminal's body. Special tokens are not known here."""
    # The delete character is the only one that JSON leaves as it is and Lark refuses.
    return json.dumps(text).replace("\x7f", "\\u007f")
