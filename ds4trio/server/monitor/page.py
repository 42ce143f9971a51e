"""The page at ``/``: one document, its style and scripts in it, under a policy that lets nothing else run or load."""

import re
import secrets
from pathlib import Path

from quart import Response

__all__ = ["Page"]

FOLDER = Path(__file__).with_name("web")
PART = re.compile(r'<link rel="stylesheet" href="(?P<style>\w+\.css)">|<script src="(?P<script>\w+\.js)"></script>')
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)


class Page:
    """Reads the parts once: blocks."""

    def __init__(self) -> None:
        self._text = PART.sub(_inlined, (FOLDER / "page.html").read_text(encoding="utf-8"))

    def response(self, *, needs_key: bool) -> Response:
        """The page, which asks for a key at once if it needs one. Not a checkpoint."""
        nonce = secrets.token_urlsafe(16)
        text = self._text.replace("{nonce}", nonce).replace("{needs_key}", "yes" if needs_key else "no")
        response = Response(text, content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = POLICY.format(nonce=nonce)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _inlined(part: re.Match[str]) -> str:
    tag = "style" if part["style"] else "script"
    text = (FOLDER / (part["style"] or part["script"])).read_text(encoding="utf-8")
    return f'<{tag} nonce="{{nonce}}">\n{text}</{tag}>'
