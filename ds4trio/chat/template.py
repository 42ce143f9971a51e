"""Rendering a model's chat template, which is code that came with a download and is treated as such.

Jinja's `SandboxedEnvironment`, not the immutable one: Kimi-K2's template appends to a list, so templates get values
that were made for this one rendering instead. Names and filters are those that Hugging Face's and llama.cpp's engines
give to templates. CVE-2024-34359 was this very template rendered outside a sandbox.
"""

import copy
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

from ds4trio.chat.messages import Message

__all__ = ["ChatTemplate", "TemplateFailedError"]


class TemplateFailedError(Exception):
    """The template refused the conversation or is broken; the message is the template's own."""


class _GenerationTag(Extension):
    """``{% generation %}`` marks the assistant's text for training; here it is passed through."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a mutable set

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=list,
    )


def _raise_exception(message: object) -> NoReturn:
    raise TemplateFailedError(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


class ChatTemplate:
    """A compiled template. Rendering takes about 0.4 ms, but the source is a stranger's: render in a thread.

    ``source`` is Jinja; ``bos_token`` and ``eos_token`` are the texts that it may refer to. Raises
    `TemplateFailedError` for source that is no Jinja.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        environment = SandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag]
        )
        environment.filters["tojson"] = _tojson
        environment.filters["safe"] = str
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # a stranger's source: the compiler fails on it in many ways
            raise TemplateFailedError(f"the chat template is not valid Jinja: {error}") from None

    def render(self, messages: Sequence[Message], **variables: object) -> str:
        """The prompt for the next assistant turn.

        ``variables`` are further names for the template. Raises `TemplateFailedError` with the template's own
        message, never anything else.
        """
        try:
            conversation: list[dict[str, Any]] = [
                {"role": message.role, "content": message.content, **copy.deepcopy(dict(message.extra))}
                for message in messages
            ]
            return self._template.render(
                messages=conversation, add_generation_prompt=True, **self._tokens, **copy.deepcopy(variables)
            )
        except TemplateFailedError:
            raise
        except Exception as error:  # a template is a program: it can fail in every way that one can
            raise TemplateFailedError(f"{type(error).__name__}: {error}") from None
