"""Which answers are remembered: those that the model has ended itself and the client has seen all of."""

from collections.abc import Sequence

import pytest

from ds4trio.chat import Message, Tool, ToolCall
from ds4trio.chat.dialects import HERMES, DialectReader
from ds4trio.engine import Finished, GenerationRequest, TextDelta, Usage
from ds4trio.server.choices import Choice

REQUEST = GenerationRequest(prompt=[1], max_tokens=100)
CALL = '<tool_call>\n{"name": "look", "arguments": {"x": 1}}\n</tool_call>'


def remembered(
    text: str, *, missing: int = 0, finished: Finished | None = None, **fields: object
) -> tuple[Message, Sequence[int]] | None:
    """What is remembered of an answer of two deltas, of which ``missing`` tokens were not told."""
    kept: list[tuple[Message, Sequence[int]]] = []
    reader = DialectReader(HERMES, tools=[Tool("look")], prompt_end="")
    choice = Choice(REQUEST, lambda: reader, remember=lambda message, ids: kept.append((message, ids)), **fields)  # type: ignore[arg-type]
    half = len(text) // 2
    choice.read(TextDelta(text[:half], 2, tokens=(7, 8)))
    choice.read(TextDelta(text[half:], 3, tokens=(9,)))
    choice.finish(finished or Finished("stop", Usage(1, 0, 4 + missing)))
    return kept[0] if kept else None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Well.", Message("assistant", "Well.")),
        (f"So:\n{CALL}", Message("assistant", "So:", tool_calls=(ToolCall("", "look", '{"x": 1}'),))),
        (CALL * 2, Message("assistant", tool_calls=(ToolCall("", "look", '{"x": 1}'),) * 2)),
    ],
)
def test_a_whole_answer_is_remembered(text: str, message: Message) -> None:
    assert remembered(text) == (message, [7, 8, 9])


def test_an_answer_that_ends_with_its_only_call_is_remembered() -> None:
    kept = remembered(CALL, single_call=True, finished=Finished("stop", Usage(1, 0, 3)))
    assert kept == (Message("assistant", tool_calls=(ToolCall("", "look", '{"x": 1}'),)), [7, 8, 9])


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("\n", {}),
        ("caf\ufffd", {}),
        ("Well, so.", {"stop": (",",)}),
        (CALL * 3, {"single_call": True}),
        (CALL[:-20], {}),
        ("Well.", {"missing": 1}),
        ("Well.", {"finished": Finished("length", Usage(1, 0, 3))}),
        ("Well.", {"finished": Finished("stop", Usage(1, 0, 3), stop_sequence="</assistant>")}),
    ],
)
def test_an_answer_that_is_not_whole_is_not_remembered(text: str, fields: dict[str, object]) -> None:
    assert remembered(text, **fields) is None  # type: ignore[arg-type]


def test_without_a_memory_answers_are_read_all_the_same() -> None:
    choice = Choice(REQUEST, lambda: DialectReader(HERMES, tools=[], prompt_end=""))
    assert choice.read(TextDelta("Well.", 1, tokens=(7,))) is not None
    assert choice.finish(Finished("stop", Usage(1, 0, 2)))[1].reason == "stop"
