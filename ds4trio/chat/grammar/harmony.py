"""Answers of gpt-oss: messages, each with a channel.

Reasoning is a message on the channel ``analysis``. What may come then is a call, on ``commentary``, or the answer, on
``final``; where the model is free, words on ``commentary`` before a call, too. A call ends the answer, so there is
never more than one.
"""

from collections.abc import Sequence

from ds4trio.chat.dialects.rows import HARMONY, HARMONY_FINAL, HARMONY_NEXT
from ds4trio.chat.grammar.calls import Callee, arguments
from ds4trio.chat.grammar.source import Source, choice, sequence

__all__ = ["harmony_answer"]


def harmony_answer(
    source: Source, tools: Sequence[Callee], content: str | None, *, must_call: bool, thinking: bool
) -> str:
    """A whole answer that begins with a channel, or, if it begins ``thinking``, within a reasoning message.

    ``content`` is what a final message has to be, None for any text.
    """
    literal = source.literal
    reasoned = source.rule(sequence(literal("<|channel|>analysis<|message|>"), source.until(HARMONY_NEXT)))
    options = [_call(source, tool) for tool in tools]
    before = f"({reasoned})?"
    if not must_call:
        final = literal(HARMONY_FINAL)
        # The model ends with a token that ends all answers, so what is allowed at the end need not be said.
        options.append(sequence(final, source.text() if content is None else content))
        if content is None:
            words = source.rule(sequence(literal("<|channel|>commentary<|message|>"), source.until(HARMONY_NEXT)))
            before = f"({reasoned} | {words})*"
    return sequence(source.until(HARMONY_NEXT) if thinking else "", before, choice(options))


def _call(source: Source, tool: Callee) -> str:
    head = f"<|channel|>commentary to=functions.{tool.tool.name} <|constrain|>json<|message|>"
    return source.rule(
        sequence(source.literal(head), arguments(source, HARMONY, tool), f"({source.literal('<|call|>')})?")
    )
