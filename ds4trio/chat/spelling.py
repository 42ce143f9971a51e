"""Texts that spell a control token and mean its characters: a file about chat templates, or somebody who tries it on.

The tokenizer finds control tokens wherever their text stands in a prompt, since that is how templates write them. So
whatever a conversation brings is marked behind the first character of each such text. The mark goes through the
template like any other character, and where it comes out the prompt is cut into pieces, none of which holds the whole
text. Pieces that are tokenized one by one have the control tokens that the template itself has written, and no others.
"""

import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ds4trio.chat.messages import Conversation, Message, Tool, ToolCall

__all__ = ["Spelling", "pieces"]

# A noncharacter of Unicode, made for such internal use; no text has it.
_MARK = "\ufdd0"


def pieces(prompt: str) -> tuple[str, ...]:
    """A prompt cut at the marks, without them."""
    return tuple(filter(None, prompt.split(_MARK)))


class Spelling:
    """Marks what spells one of ``tokens``; those of one character are left alone. 5 MB of HTML take half a second."""

    def __init__(self, tokens: Collection[str]) -> None:
        self._tokens = frozenset(token for token in tokens if len(token) > 1)
        self._lengths = sorted({len(token) for token in self._tokens})
        firsts, seconds = ("".join({re.escape(token[at]) for token in self._tokens}) for at in (0, 1))
        self._first = re.compile(f"[{firsts}](?=[{seconds}])" if self._tokens else "(?!)")

    def marked(self, conversation: Conversation) -> Conversation:
        """The conversation with its marks. The variables for the template are left as they are."""
        if not self._tokens:
            return conversation
        return replace(
            conversation,
            messages=tuple(map(self._message, conversation.messages)),
            tools=tuple(map(self._tool, conversation.tools)),
        )

    def _message(self, message: Message) -> Message:
        return replace(
            message,
            content=self._text(message.content),
            reasoning=self._text(message.reasoning),
            tool_calls=tuple(map(self._call, message.tool_calls)),
            tool_call_id=None if message.tool_call_id is None else self._text(message.tool_call_id),
            name=None if message.name is None else self._text(message.name),
        )

    def _call(self, call: ToolCall) -> ToolCall:
        arguments = call.arguments
        if "\\" in arguments:
            with suppress(ValueError, RecursionError):
                plain = json.dumps(json.loads(arguments), ensure_ascii=False)
                if self._text(plain) != plain:  # else the text stays as the model has written it
                    arguments = plain
        return ToolCall(self._text(call.id), self._text(call.name), self._text(arguments))

    def _tool(self, tool: Tool) -> Tool:
        parameters = self._value(tool.parameters)
        return replace(
            tool, name=self._text(tool.name), description=self._text(tool.description), parameters=parameters
        )

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self._value(key): self._value(held) for key, held in value.items()}
        return [self._value(item) for item in value] if isinstance(value, list) else value

    def _text(self, text: str) -> str:
        marked = []
        start = 0
        for match in self._first.finditer(text):
            at = match.start()
            if any(text[at : at + length] in self._tokens for length in self._lengths):
                marked.append(text[start : at + 1])
                start = at + 1
        return _MARK.join((*marked, text[start:]))
