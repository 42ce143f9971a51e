"""What a model's template, its tokens and a conversation make of a prompt."""

import json
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.chat.events import OutputEvent
from ds4trio.chat.grammar import UnenforceableError
from ds4trio.chat.messages import (
    Conversation,
    Message,
    OutputFormat,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)
from ds4trio.chat.model import ChatModel
from ds4trio.chat.replay import Piece
from tests.chat.dialects.answers import Answer, gather
from tests.chat.templates import llama_cpp_templates

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}{{ tools | tojson if tools else '' }}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = {"<|im_start|>": 1, "<|im_end|>": 2}
TOKENS = {**CONTROL, "<tool_call>": 3, "</tool_call>": 4, "<t": 5}
NOW = Tool("now")
USER = Message("user", "u")
BEGUN = Message("assistant", '{"a":')
SCHEMA = OutputFormat("schema", schema={"type": "object"})

CHAT = ChatModel(CHATML, special_tokens=TOKENS, control_tokens=CONTROL)
TRUSTING = ChatModel(CHATML, special_tokens=TOKENS)
HARMONY_TOKENS = {
    text: token
    for token, text in enumerate(["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"])
}
HARMONY = ChatModel("{{ '<|start|>assistant<|channel|>' and '<|start|>assistant' }}", special_tokens=HARMONY_TOKENS)


def talk(*messages: Message, **fields: object) -> Conversation:
    return Conversation(messages=messages, **fields)  # type: ignore[arg-type]


# --- rendering --------------------------------------------------------------------------------------------------------


def test_rendering_makes_the_text_of_the_prompt_and_no_grammar() -> None:
    wanted = talk(USER, tools=(NOW,), tool_choice=ToolChoice("required", ("nothing",)))
    text = CHAT.render(wanted)
    assert text.startswith("<|im_start|>user\nu<|im_end|>\n")
    with pytest.raises(UnenforceableError):
        CHAT.prompt(wanted)
    assert CHAT.prompt(talk(USER, tools=(NOW,))).text == text


def test_a_check_is_called_while_a_prompt_is_made_and_gives_it_up() -> None:
    unenforceable = talk(USER, tool_choice=ToolChoice("required"))
    for last in (1, 2):
        checks = iter(range(1, last))

        def check(checks: Iterator[int] = checks) -> None:
            if next(checks, None) is None:
                raise KeyError

        with pytest.raises(KeyError):
            CHAT.prompt(unenforceable, check=check)
    with pytest.raises(UnenforceableError):
        CHAT.prompt(unenforceable)


# --- texts that spell special tokens ----------------------------------------------------------------------------------


def specials(pieces: tuple[Piece, ...]) -> list[str]:
    """The control tokens that a tokenizer finds in the pieces."""
    return [token for piece in texts_of(pieces) for token in CONTROL for _ in range(piece.count(token))]


def texts_of(pieces: tuple[Piece, ...]) -> list[str]:
    """The pieces, none of which is replayed."""
    assert all(isinstance(piece, str) for piece in pieces)
    return [piece for piece in pieces if isinstance(piece, str)]


parts = st.sampled_from(
    ["<|im_end|>", "<|im_start|>", "<", "|im_end|>", "<|im", "_start|>system\n", "\n", "é", "\\", '"']
)
texts = st.lists(parts, max_size=5).map("".join)


@given(text=texts, result=texts, answer=texts, argument=texts, described=texts)
def test_what_messages_spell_is_no_special_token(
    text: str, result: str, answer: str, argument: str, described: str
) -> None:
    arguments = json.dumps({"a": argument}).replace("<", "\\u003c")
    call = ToolCall("c", "now", arguments)
    conversation = talk(
        Message("system", f"s{text}"),
        Message("user", text),
        Message("assistant", answer, reasoning=answer, tool_calls=(call,)),
        Message("tool", result, tool_call_id="c"),
        tools=(Tool("now", described, {"type": "object", "properties": {described: {"title": described}}}),),
    )
    prompt = CHAT.prompt(conversation)
    assert prompt.text == CHAT.render(conversation) == TRUSTING.render(conversation)
    assert sorted(specials(prompt.pieces)) == ["<|im_end|>"] * 4 + ["<|im_start|>"] * 5


def test_tokens_that_overlap_are_all_taken_apart() -> None:
    chat = ChatModel("{{ messages[0].content }}", control_tokens=["<ab", "b>c", "<<", "x"])
    assert chat.prompt(talk(Message("user", "<ab>c <<< x"))).pieces == ("<", "ab", ">c <", "<", "< x")


def test_a_prompt_in_which_nothing_is_spelled_is_one_piece() -> None:
    prompt = CHAT.prompt(talk(Message("user", "a <b> <tool_call> | <|im_")))
    assert prompt.pieces == (prompt.text,)


# --- answers that were begun ------------------------------------------------------------------------------------------


@given(begun=st.lists(st.sampled_from(["im", "<|im", "_end|>", "<|im_end|>\n", "a"]), min_size=1).map("".join))
def test_a_begun_answer_is_the_end_of_the_prompt(begun: str) -> None:
    pieces = CHAT.prompt(talk(USER, Message("assistant", begun))).pieces
    assert "".join(texts_of(pieces)) == f"<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n{begun.rstrip()}"
    assert len(specials(pieces)) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"output": SCHEMA},
        {"output": OutputFormat("json")},
        {"tools": (NOW,), "tool_choice": ToolChoice("required")},
    ],
)
def test_a_begun_answer_cannot_be_constrained(fields: Mapping[str, object]) -> None:
    assert CHAT.prompt(talk(USER, **fields)).grammar is not None
    assert CHAT.prompt(talk(USER, BEGUN)).grammar is None
    with pytest.raises(UnenforceableError, match="begun") as caught:
        CHAT.prompt(talk(USER, BEGUN, **fields))
    assert caught.value.param == "messages"


def test_a_call_that_the_prompt_has_begun_is_not_begun_again() -> None:
    chat = ChatModel("{{ messages[0].content }}{{ '>>>all' and '>>>' if add_generation_prompt }}")
    wanted = talk(USER, tools=(NOW,), tool_choice=ToolChoice("required"), parallel_tool_calls=False)
    grammar = chat.prompt(wanted).grammar
    assert grammar is not None
    assert ">>>" not in grammar


# --- reasoning --------------------------------------------------------------------------------------------------------


def test_where_reasoning_is_off_the_grammar_has_none() -> None:
    thought = "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    chat = ChatModel(CHATML.replace("{{ m.content }}", thought))
    wanted = talk(USER, output=SCHEMA)
    thinking = chat.prompt(wanted).grammar
    assert thinking is not None
    for off in (Thinking(enabled=False), Thinking(effort="none")):
        grammar = chat.prompt(talk(USER, output=SCHEMA, thinking=off)).grammar
        assert grammar is not None
        assert ("<think>" in thinking, "<think>" in grammar) == (True, False)


def forced(chat: ChatModel, conversation: Conversation, answer: str) -> tuple[str, Answer]:
    """What is forced while ``answer`` is written, and what the reader makes of all of it."""
    prompt = chat.prompt(conversation)
    guide, reader = prompt.guide(), prompt.reader()
    assert guide is not None
    events: list[OutputEvent] = []
    written = ""

    def write(text: str) -> None:
        while text:
            token = next((token for token in prompt.markers.values() if text.startswith(token)), "")
            piece = token or text[0]
            guide.observe(piece, special=bool(token))
            events.extend(reader.feed(piece, special=bool(token)))
            text = text[len(piece) :]

    while answer and not written:
        token = next((token for token in prompt.markers.values() if answer.startswith(token)), answer[0])
        write(token)
        answer = answer[len(token) :]
        written = guide.forced
    write(written)
    assert not guide.forced
    assert not guide._reader.reasoning
    write(answer)
    return written, gather([*events, *reader.finish()])


def test_a_budget_ends_the_reasoning_of_gpt_oss() -> None:
    conversation = talk(USER, thinking=Thinking(budget=3))
    written, answer = forced(HARMONY, conversation, "<|channel|>analysis<|message|>hmmAnd so.")
    assert written == "<|end|><|start|>assistant<|channel|>final<|message|>"
    assert answer == Answer("And so.", "hmm")


def test_a_budget_lets_gpt_oss_call_where_it_has_to() -> None:
    conversation = talk(USER, tools=(NOW,), tool_choice=ToolChoice("required"), thinking=Thinking(budget=3))
    call = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>"
    written, answer = forced(HARMONY, conversation, f"<|channel|>analysis<|message|>hmm{call}")
    assert written == "<|end|><|start|>assistant"
    assert answer == Answer("", "hmm", (("now", "{}"),))


@pytest.mark.slow
def test_a_budget_ends_the_reasoning_of_the_real_gpt_oss() -> None:
    chat = ChatModel(llama_cpp_templates()["openai-gpt-oss-120b.jinja"], special_tokens=HARMONY_TOKENS)
    conversation = talk(USER, thinking=Thinking(budget=3))
    assert chat.render(conversation).endswith("<|start|>assistant")
    _, answer = forced(chat, conversation, "<|channel|>analysis<|message|>hmmAnd so.")
    assert answer == Answer("And so.", "hmm")


# --- no calls ---------------------------------------------------------------------------------------------------------


def test_what_begins_calls_is_banned_where_none_may_be() -> None:
    conversation = talk(USER, tools=(NOW,), tool_choice=ToolChoice("none"))
    assert CHAT.prompt(conversation).banned == (3,)
    # An ordinary word of the vocabulary that a marker begins with is needed for other things, too.
    plain = ChatModel(CHATML, special_tokens={"<": 5, "\n": 6}).prompt(conversation)
    assert (plain.banned, plain.stop) == ((), ("<tool_call>",))
