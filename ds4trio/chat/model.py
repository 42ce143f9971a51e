"""What a model's chat template can do, worked out once; and prompts made of conversations with it.

The template is a stranger's program. When a model is loaded, `ChatModel` renders small conversations with it to find
out what it can do (`capabilities`) and how it writes tool calls and reasoning (`dialects`). After that each
conversation becomes a `Prompt`: the text, and everything that the engine and the reader need to know about its answer.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal

from ds4trio.chat.dialects import DialectReader, derive
from ds4trio.chat.dialects.rows import HARMONY_FINAL, HARMONY_NEXT
from ds4trio.chat.grammar import UnenforceableError, grammar_for
from ds4trio.chat.guide import AnswerGuide
from ds4trio.chat.messages import Conversation, Message
from ds4trio.chat.prepare import is_begun, render
from ds4trio.chat.probe import probe
from ds4trio.chat.replay import Endings, Piece, Place, ReplayMemory, Spliced, find_endings, spliced
from ds4trio.chat.spelling import Spelling, pieces
from ds4trio.chat.template import ChatTemplate, TemplateFailedError, go_on
from ds4trio.chat.thinking import is_off
from ds4trio.chat.turns import TurnMarks, turn_marks

__all__ = ["ChatModel", "Prompt"]

# How much of the prompt's end can tell whether it opens the reasoning.
TAIL = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A rendered conversation, and how to compute and read its answer.

    ``text`` is what the template makes of it. ``pieces`` are that text, cut where a message or a tool spells a control
    token: tokenized one by one, they have only those that the template wrote; answers that were sampled here are there
    as their ids. ``remember`` is to be called with the answer and its ids, None where it could not be replayed.
    ``markers`` are the special tokens that the reader wants to see, id → text;
    ``banned`` tokens must not be sampled; text ends before one of ``stop``. ``reader`` and ``guide`` make a new one for
    each answer; a guide is None where there is nothing to guide. ``turns`` are what turns begin with in it.
    """

    text: str
    pieces: tuple[Piece, ...]
    remember: Callable[[Message, Sequence[int]], None] | None
    markers: Mapping[int, str]
    banned: tuple[int, ...]
    stop: tuple[str, ...]
    grammar: str | None
    reader: Callable[[], DialectReader]
    guide: Callable[[], AnswerGuide | None]
    turns: TurnMarks


class ChatModel:
    """A model's chat template and what was found out about it.

    ``source`` is Jinja, ``special_tokens`` maps the text of the vocabulary's special tokens to their ids, and
    ``control_tokens`` are the texts of those that no message may hold as such. Making one takes about 0.2 s. Raises
    `TemplateFailedError` for source that is no Jinja.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        special_tokens: Mapping[str, int] | None = None,
        control_tokens: Collection[str] = (),
        memory: ReplayMemory | None = None,
    ) -> None:
        self._template = ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)
        self.capabilities = probe(self._template, source)
        self.dialect = derive(self._template, source)
        self._special_tokens = special_tokens or {}
        self._markers = self.dialect.special_markers(self._special_tokens)
        # Templates look for the marks around reasoning in what an assistant has said.
        dialect = self.dialect
        think_marks = {dialect.think_start.strip(), *map(str.strip, dialect.think_ends)}
        unspellable = {token for token in control_tokens if len(token) > 1} - think_marks
        self._spelling = Spelling(unspellable)
        self._turns = turn_marks(self._template, self.capabilities, unspellable)
        self._memory = memory
        self._endings = Endings()
        if memory is not None:
            tokens = [token for token in control_tokens if len(token) > 1]
            self._endings = find_endings(self._rendered, self.capabilities, dialect, tokens)

    def render(self, conversation: Conversation, *, check: Callable[[], None] = go_on) -> str:
        """The text of the prompt alone. Blocks. Raises `TemplateFailedError`, or what ``check`` raises."""
        return "".join(pieces(self._rendered(self._spelled(conversation), check)))

    def pieces(self, conversation: Conversation, *, check: Callable[[], None] = go_on) -> tuple[Piece, ...]:
        """The pieces of the prompt alone. Blocks. Raises `TemplateFailedError`, or what ``check`` raises."""
        return _in_pieces(self._spliced(conversation, check))

    def _spliced(self, conversation: Conversation, check: Callable[[], None]) -> Spliced:
        """The prompt, texts that spell control tokens still marked as such."""

        def rendered(changed: Conversation) -> str:
            return self._rendered(changed, check)

        spelled = self._spelled(conversation)
        if self._memory is None:
            text = rendered(spelled)
            return Spliced((text,), text, None)
        return spliced(
            spelled,
            rendered,
            said=conversation.messages,
            memory=self._memory,
            endings=self._endings,
            special_tokens=self._special_tokens,
        )

    def _rendered(self, conversation: Conversation, check: Callable[[], None] = go_on) -> str:
        """The text, with the marks in it that the messages have."""
        return render(
            self._template,
            self.capabilities,
            conversation,
            think_start=self.dialect.think_start,
            think_end=next(iter(self.dialect.think_ends), ""),
            check=check,
        )

    def _spelled(self, conversation: Conversation) -> Conversation:
        try:
            return self._spelling.marked(conversation)
        except RecursionError:
            raise TemplateFailedError("schemas are nested too deeply") from None

    def _memo(self, conversation: Conversation, place: Place | None) -> Callable[[Message, Sequence[int]], None] | None:
        """What remembers an answer; one that goes on with what was begun comes back as a part of something else."""
        if self._memory is None or place is None or is_begun(conversation):
            return None
        return partial(self._memory.add, place)

    def prompt(self, conversation: Conversation, *, check: Callable[[], None] = go_on) -> Prompt:
        """Render a conversation. Blocks.

        ``check`` is called now and then and may raise to give up. Raises `TemplateFailedError`, `UnenforceableError`,
        or what ``check`` raises.
        """
        dialect = self.dialect
        rendered = self._spliced(conversation, check)
        check()
        text = "".join(pieces(rendered.text))
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
            return AnswerGuide(reader(), budget=budget, think_end=self._forced_end(conversation))

        banned, stop = self._silence() if silent and conversation.tools else ((), ())
        reasoning: Literal["closed", "open", "may_begin"] = "closed"
        if dialect.think_start and not is_off(conversation.thinking):
            reasoning = "may_begin"
        grammar = grammar_for(
            conversation,
            dialect,
            special_tokens=self._special_tokens,
            reasoning="open" if reader().reasoning else reasoning,
            prompt_end=tail,
        )
        if grammar is not None and is_begun(conversation):
            raise UnenforceableError(
                "an answer that was begun cannot be constrained: end the messages with a turn of the user, or ask for"
                " no format, no tool that has to be called and no strict one",
                param="messages",
            )
        return Prompt(
            text=text,
            pieces=_in_pieces(rendered),
            remember=self._memo(conversation, rendered.place),
            markers={self._special_tokens[marker]: marker for marker in self._markers},
            banned=banned,
            stop=dialect.stops + stop,
            grammar=grammar,
            reader=reader,
            guide=guide,
            turns=self._turns,
        )

    def _forced_end(self, conversation: Conversation) -> str:
        """What ends the reasoning by force, empty where there is none."""
        if self.dialect.codec != "harmony":
            return next(iter(self.dialect.think_ends), "")
        # Left alone, the model would go on with more reasoning; where it has to call, the grammar sees to that.
        return HARMONY_NEXT if conversation.tool_choice.mode == "required" else HARMONY_NEXT + HARMONY_FINAL

    def _silence(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """What keeps the model from calling: a token that begins calls and nothing else, or a text to stop before."""
        dialect = self.dialect
        opener = (dialect.section_begin or dialect.call_begin).strip()
        others = "".join((dialect.think_start, *dialect.think_ends, *dialect.wrappers))
        for token in sorted(self._markers, key=len, reverse=True):
            if opener.startswith(token) and token not in others:
                return (self._special_tokens[token],), ()
        return (), (opener,) if len(opener) > 1 else ()


def _in_pieces(prompt: Spliced) -> tuple[Piece, ...]:
    return tuple(chain.from_iterable(pieces(piece) if isinstance(piece, str) else (piece,) for piece in prompt.pieces))
