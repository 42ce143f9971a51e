"""What a model's chat template can do, worked out once; and prompts made of conversations with it.

The template is a stranger's program. When a model is loaded, `ChatModel` renders small conversations with it to find
out what it can do (`capabilities`) and how it writes tool calls and reasoning (`dialects`). After that each
conversation becomes a `Prompt`: the text, and everything that the engine and the reader need to know about its answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ds4trio.chat.dialects import DialectReader, derive
from ds4trio.chat.grammar import grammar_for
from ds4trio.chat.guide import AnswerGuide
from ds4trio.chat.messages import Conversation
from ds4trio.chat.prepare import render
from ds4trio.chat.probe import probe
from ds4trio.chat.template import ChatTemplate

__all__ = ["ChatModel", "Prompt"]

# How much of the prompt's end can tell whether it opens the reasoning.
TAIL = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A rendered conversation, and how to compute and read its answer.

    ``markers`` are the special tokens that the reader wants to see, id → text; ``banned`` tokens must not be sampled;
    text ends before one of ``stop``. ``reader`` and ``guide`` make a new one for each answer; a guide is None where
    there is nothing to guide.
    """

    text: str
    markers: Mapping[int, str]
    banned: tuple[int, ...]
    stop: tuple[str, ...]
    grammar: str | None
    reader: Callable[[], DialectReader]
    guide: Callable[[], AnswerGuide | None]


class ChatModel:
    """A model's chat template and what was found out about it.

    ``source`` is Jinja, ``special_tokens`` maps the text of the vocabulary's special tokens to their ids. Making one
    takes about 0.2 s. Raises `TemplateFailedError` for source that is no Jinja.
    """

    def __init__(
        self, source: str, *, bos_token: str = "", eos_token: str = "", special_tokens: Mapping[str, int] | None = None
    ) -> None:
        self._template = ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)
        self.capabilities = probe(self._template, source)
        self.dialect = derive(self._template, source)
        self._special_tokens = special_tokens or {}
        self._markers = self.dialect.special_markers(self._special_tokens)

    def prompt(self, conversation: Conversation) -> Prompt:
        """Render a conversation. Blocks. Raises `TemplateFailedError` or `UnenforceableError`."""
        dialect = self.dialect
        think_end = dialect.think_ends[0] if dialect.think_ends else ""
        text = render(
            self._template, self.capabilities, conversation, think_start=dialect.think_start, think_end=think_end
        )
        tail = text[-TAIL:]
        # The tools stay in the prompt, since the cached prefix depends on them, but no call is possible.
        silent = conversation.tool_choice.mode == "none"
        tools = () if silent else conversation.tools

        def reader() -> DialectReader:
            return DialectReader(dialect, tools=tools, prompt_end=tail, special_tokens=self._markers)

        def guide() -> AnswerGuide | None:
            budget = conversation.thinking.budget
            if not tools and budget is None:
                return None
            return AnswerGuide(reader(), budget=budget, think_end=think_end)

        banned, stop = self._silence() if silent and conversation.tools else ((), ())
        reasoning: Literal["closed", "open", "may_begin"] = "closed"
        if dialect.think_start and conversation.thinking.enabled is not False:
            reasoning = "may_begin"
        return Prompt(
            text=text,
            markers={self._special_tokens[marker]: marker for marker in self._markers},
            banned=banned,
            stop=dialect.stops + stop,
            grammar=grammar_for(
                conversation,
                dialect,
                special_tokens=self._special_tokens,
                reasoning="open" if reader().reasoning else reasoning,
            ),
            reader=reader,
            guide=guide,
        )

    def _silence(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """What keeps the model from calling: a token that begins calls and nothing else, or a text to stop before."""
        dialect = self.dialect
        opener = (dialect.section_begin or dialect.call_begin).strip()
        others = "".join((dialect.think_start, *dialect.think_ends, *dialect.wrappers))
        for token, id in self._special_tokens.items():
            if token and opener.startswith(token) and token not in others:
                return (id,), ()
        return (), (opener,) if len(opener) > 1 else ()
