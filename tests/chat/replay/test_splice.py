"""Remembered ids in rendered prompts: always the same words, and the very tokens wherever that can be."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.chat import ChatModel, Conversation, Message, Thinking, Tool, ToolCall
from ds4trio.chat.replay import Piece, ReplayMemory
from tests.chat.replay.transcripts import CHATML, SPECIAL

QWEN = CHATML.replace("KEPT", "")
MISTRAL = (
    "{% set ns = namespace(user=true) %}<s>{{ tools | tojson if tools else '' }}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ raise_exception('twice') if not ns.user }}{% set ns.user = false %}[INST]{{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}[RESULT]{{ m.content }}[/RESULT]{% elif m.tool_calls %}"
    "{% for c in m.tool_calls %}[CALL]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}</s>"
    "{% else %}{{ raise_exception('twice') if ns.user }}{% set ns.user = true %}{{ m.content }}</s>{% endif %}"
    "{% endfor %}"
)
GLM = (
    "{{ tools | tojson if tools else '' }}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|observation|>{{ m.content }}{% else %}<|{{ m.role }}|>"
    "{{ m.content | trim }}{% for c in m.tool_calls or [] %}{{ '\n' }}<tool_call>{{ c.function.name }}\n"
    "{% for k, v in c.function.arguments.items() %}<arg_key>{{ k }}</arg_key>\n<arg_value>"
    "{{ v if v is string else v | tojson }}</arg_value>\n{% endfor %}</tool_call>{% endfor %}{% endif %}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt }}"
)
HARMONY = (
    "{{ tools | tojson if tools else '' }}"
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'tool' %}<|message|>{{ m.content }}<|end|>"
    "{% elif m.tool_calls %}{% if m.content %}<|channel|>analysis<|message|>{{ m.content }}<|end|><|start|>assistant"
    "{% endif %}{% set c = m.tool_calls[0] %} to={{ c.function.name }}<|channel|>commentary<|message|>"
    "{{ c.function.arguments | tojson }}<|call|>{% else %}{{ '<|channel|>final' if m.role == 'assistant' }}<|message|>"
    "{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{{ '<|start|>assistant' if add_generation_prompt }}"
)
TEMPLATES = {
    "qwen": (QWEN, SPECIAL),
    "mistral": (MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]", "[RESULT]", "[/RESULT]", "[CALL]", "[ARGS]")),
    "glm": (GLM, ("<|user|>", "<|assistant|>", "<|system|>", "<|observation|>")),
    "harmony": (HARMONY, ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>")),
}
SAMPLED = 0x200000
"""Added to the ids of what was sampled: characters that no tokenizer makes."""
TOOLS = (Tool("look"),)


def model(name: str, memory: ReplayMemory | None = None) -> ChatModel:
    source, tokens = TEMPLATES[name]
    special = {token: number for number, token in enumerate(tokens)}
    return ChatModel(source, special_tokens=special, control_tokens=tokens, memory=memory)


MODELS = {name: (model(name, ReplayMemory()), model(name)) for name in TEMPLATES}


def sampled(text: str) -> list[int]:
    return [SAMPLED + ord(character) for character in text]


def read(pieces: Sequence[Piece]) -> str:
    texts = (piece if isinstance(piece, str) else "".join(chr(t - SAMPLED) for t in piece) for piece in pieces)
    return "".join(texts)


def replayed(pieces: Sequence[Piece]) -> list[str]:
    return [read([piece]) for piece in pieces if not isinstance(piece, str)]


def talk(*messages: Message, **fields: object) -> Conversation:
    return Conversation(messages=messages, **{"tools": TOOLS, **fields})  # type: ignore[arg-type]


def calling(arguments: str = "{}", content: str = "") -> Message:
    return Message("assistant", content, tool_calls=(ToolCall("", "look", arguments),))


USER, RESULT = Message("user", "u"), Message("tool", "r")

# --- the same words ---------------------------------------------------------------------------------------------------

contents = st.sampled_from(["", "a", "b", "a\n\nb", "<|im_end|>", "</s>[INST]a[/INST]", "<|end|>"])
arguments = st.sampled_from(["{}", '{"x": "a"}', '{"x": 1, "y": [1]}', '{"x": "</s>\\u003c|end|>"}'])
messages = st.one_of(
    st.builds(Message, st.sampled_from(["user", "user", "tool", "system"]), contents),
    st.builds(Message, st.just("assistant"), contents),
    st.builds(calling, arguments, contents),
)


def look(message: Message) -> tuple[dict[str, object], str]:
    """The arguments of the call, as a value and as the templates write them."""
    value = json.loads(message.tool_calls[0].arguments)
    return value, json.dumps(value, ensure_ascii=False)


def qwen(answer: Message) -> str:
    if not answer.tool_calls:
        return answer.content
    call = f'<tool_call>\n{{"name": "look", "arguments": {look(answer)[1]}}}\n</tool_call>'
    return f"{answer.content}\n{call}" if answer.content else call


def mistral(answer: Message) -> str:
    return f"[CALL]look[ARGS]{look(answer)[1]}" if answer.tool_calls else answer.content


def glm(answer: Message) -> str:
    if not answer.tool_calls:
        return answer.content
    pairs = look(answer)[0].items()
    texts = ((key, value if isinstance(value, str) else json.dumps(value)) for key, value in pairs)
    written = (f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in texts)
    return f"{answer.content}\n<tool_call>look\n{''.join(written)}</tool_call>"


def harmony(answer: Message) -> str:
    if not answer.tool_calls:
        return f"<|channel|>final<|message|>{answer.content}"
    opening = f"<|channel|>analysis<|message|>{answer.content}<|end|><|start|>assistant" if answer.content else ""
    return f"{opening} to=look<|channel|>commentary<|message|>{look(answer)[1]}"


WRITERS = {"qwen": qwen, "mistral": mistral, "glm": glm, "harmony": harmony}


@pytest.mark.parametrize("name", WRITERS)
@given(
    history=st.lists(messages, max_size=4),
    steps=st.lists(st.tuples(messages, messages, st.booleans()), max_size=4),
)
def test_what_was_sampled_as_the_template_writes_it_leaves_the_text_as_it_is(
    name: str, history: list[Message], steps: list[tuple[Message, Message, bool]]
) -> None:
    """Whatever comes between, is edited, or is said twice."""
    chat, plain = MODELS[name]
    said = [USER, *history, USER]
    for step, then, edited in steps:
        answer = replace(step, role="assistant")
        if said[-1].role != "assistant":
            prompt = chat.prompt(talk(*said))
            assert read(prompt.pieces) == prompt.text == plain.render(talk(*said))
            assert prompt.remember is not None
            prompt.remember(answer, sampled(WRITERS[name](answer)))
        said += [Message("assistant", "edited") if edited else answer, then]
    assert read(chat.pieces(talk(*said))) == plain.render(talk(*said))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("answer", [calling('{"x": 1, "y": [1]}'), calling(), Message("assistant", "a")])
def test_an_answer_is_replayed_wherever_the_template_lets_it_be(name: str, answer: Message) -> None:
    chat = model(name, ReplayMemory())
    prompt = chat.prompt(talk(USER))
    assert prompt.remember is not None
    text = WRITERS[name](answer)
    prompt.remember(answer, sampled(text))
    then = [RESULT] if answer.tool_calls else [USER]
    pieces = chat.pieces(talk(USER, answer, *then))
    assert replayed(pieces) == [text]
    assert pieces[0] == prompt.text or name == "mistral"


# --- not where it does not belong -------------------------------------------------------------------------------------


def remembering(source: str, *special: str, answer: Message, text: str, **fields: object) -> ChatModel:
    """A model that has given ``answer`` to the user, sampled as ``text`` in which special tokens are such."""
    tokens = {token: number for number, token in enumerate(special)}
    chat = ChatModel(source, special_tokens=tokens, control_tokens=special, memory=ReplayMemory())
    prompt = chat.prompt(talk(USER, **fields))
    assert prompt.remember is not None
    ids: list[int] = []
    while text:
        token = next((token for token in tokens if text.startswith(token)), text[0])
        ids += [tokens[token]] if token in tokens else sampled(token)
        text = text[len(token) :]
    prompt.remember(answer, ids)
    return chat


THOUGHTFUL = Message("assistant", "a", "a secret")


def test_nobody_gets_the_reasoning_of_another_conversation() -> None:
    chat = remembering(QWEN, *SPECIAL, answer=THOUGHTFUL, text="<think>\na secret\n</think>\n\na")
    same, other = replace(THOUGHTFUL, reasoning=""), Message("user", "v")
    assert "a secret" in str(replayed(chat.pieces(talk(USER, same, USER))))
    for conversation in (
        talk(other, same, USER),
        talk(USER, Message("assistant", "b"), USER, same, USER),
        talk(USER, same, USER, tools=()),
        talk(Message("system", "s"), USER, same, USER),
    ):
        assert replayed(chat.pieces(conversation)) == []
        assert read(chat.pieces(conversation)) == chat.render(conversation)


def test_reasoning_is_that_of_the_place_however_often_the_same_was_said() -> None:
    chat = remembering(QWEN, *SPECIAL, answer=THOUGHTFUL, text="<think>\na secret\n</think>\n\na")
    said: list[Message] = [USER]
    texts = ["<think>\nonce\n</think>\n\na", "a", "<think>\ntwice\n</think>\n\na"]
    for text, thought in zip(texts, ("once", "", "twice"), strict=True):
        prompt = chat.prompt(talk(*said))
        assert prompt.remember is not None
        prompt.remember(Message("assistant", "a", thought), sampled(text))
        said += [Message("assistant", "a"), USER]
    assert replayed(chat.pieces(talk(*said))) == texts


def test_reasoning_that_was_edited_is_what_the_client_made_of_it() -> None:
    chat = remembering(QWEN, *SPECIAL, answer=THOUGHTFUL, text="<think>\na secret\n</think>\n\na")
    edited = talk(USER, replace(THOUGHTFUL, reasoning="no secret"), USER)
    assert read(chat.pieces(edited)) == chat.render(edited)
    assert "no secret" in chat.render(edited)


def test_an_answer_that_was_begun_is_neither_replayed_nor_remembered() -> None:
    chat = remembering(QWEN, *SPECIAL, answer=Message("assistant", "a"), text="a")
    prompt = chat.prompt(talk(USER, Message("assistant", "a")))
    assert replayed(prompt.pieces) == []
    assert prompt.remember is None


def test_without_a_memory_nothing_is_remembered() -> None:
    assert model("qwen").prompt(talk(USER)).remember is None


def test_a_template_that_fails_on_marks_is_rendered_without() -> None:
    picky = QWEN.replace(
        "{% if add_gen",
        "{{ raise_exception('no') if '\ufdd2' in messages[1:] | map(attribute='content') | join }}{% if add_gen",
    )
    chat = remembering(picky, *SPECIAL, answer=Message("assistant", "a"), text="a")
    conversation = talk(USER, Message("assistant", "a"), USER)
    assert chat.pieces(conversation) == (chat.render(conversation),)


def test_text_that_spells_marks_harms_nobody_but_its_author() -> None:
    chat = remembering(QWEN, *SPECIAL, answer=Message("assistant", "a"), text="a")
    conversation = talk(USER, Message("assistant", "a"), Message("user", "\ufdd2e1\ufdd3 \ufdd2 \ufdd2s9\ufdd3"))
    assert read(chat.pieces(conversation)).count("<|im_end|>") == chat.render(conversation).count("<|im_end|>")


def test_parallel_calls_that_the_template_writes_one_by_one_stay_so() -> None:
    source = QWEN.replace("{% for c", "{{ raise_exception('one') if m.tool_calls and m.tool_calls[1:] }}{% for c")
    calls = tuple(ToolCall(name, "look", "{}") for name in "xy")
    answer = Message("assistant", tool_calls=calls)
    chat = remembering(source, *SPECIAL, answer=answer, text="both calls")
    results = (Message("tool", "1", tool_call_id="x"), Message("tool", "2", tool_call_id="y"))
    assert replayed(chat.pieces(talk(USER, answer, *results))) == []
    single = remembering(source, *SPECIAL, answer=replace(answer, tool_calls=calls[:1]), text="one call")
    assert replayed(single.pieces(talk(USER, replace(answer, tool_calls=calls[:1]), results[0]))) == ["one call"]


# --- what stands around an answer -------------------------------------------------------------------------------------

THINKING = QWEN.replace(
    "<|im_start|>assistant\n{% endif %}",
    "<|im_start|>assistant\n{{ '<think>\n\n</think>\n\n' if enable_thinking is false else '<think>\n' }}{% endif %}",
)
OFF = Thinking(enabled=False)


def test_empty_marks_of_reasoning_stay_before_the_answer_that_they_began() -> None:
    """The template writes none in what is past; whoever works without reasoning computes nothing again for that."""
    chat = remembering(THINKING, *SPECIAL, answer=Message("assistant", "a"), text="a", thinking=OFF)
    prompt = chat.prompt(talk(USER, thinking=OFF))
    assert prompt.text.endswith("assistant\n<think>\n\n</think>\n\n")
    pieces = chat.pieces(talk(USER, Message("assistant", "a"), USER, thinking=OFF))
    assert pieces[0] == prompt.text
    assert replayed(pieces) == ["a"]


def test_reasoning_goes_on_from_the_mark_that_began_it() -> None:
    chat = remembering(THINKING, *SPECIAL, answer=THOUGHTFUL, text="a secret\n</think>\n\na")
    assert read(chat.pieces(talk(USER, THOUGHTFUL, USER))).startswith(
        f"{chat.render(talk(USER))}a secret\n</think>\n\na<|im_end|>\n<|im_start|>user"
    )


SOLAR = (
    "{{ tools | tojson if tools else '' }}"
    "{% for m in messages %}<|begin|>{{ m.role }}{% if not m.tool_calls %}<|content|>{{ m.content }}<|end|>"
    "{% else %}<|tool_calls|>{% for c in m.tool_calls %}<|tool_call:begin|>{{ c.id }}"
    "<|tool_call:name|>{{ c.function.name }}<|tool_call:args|>{{ c.function.arguments | tojson }}<|tool_call:end|>"
    "{% endfor %}<|calls|>{% endif %}{% endfor %}{{ '<|begin|>assistant' if add_generation_prompt }}"
)
SOLAR_TOKENS = (
    *("<|begin|>", "<|content|>", "<|end|>", "<|tool_calls|>", "<|tool_call:begin|>", "<|tool_call:name|>"),
    *("<|tool_call:args|>", "<|tool_call:end|>", "<|calls|>"),
)


@pytest.mark.parametrize(
    ("answer", "text", "rest"),
    [
        # What ended the answer is not part of it, and stays.
        (Message("assistant", "a"), "<|content|>a", "<|end|><|begin|>user"),
        # What did not is part of it, and is not written again.
        (Message("assistant", "a"), "<|content|>a<|end|>", "<|begin|>user"),
        (calling(), "<|tool_calls|><|tool_call:begin|>1<|tool_call:end|>", "<|calls|><|begin|>tool"),
        (calling(), "<|tool_calls|><|tool_call:begin|>1<|tool_call:end|><|calls|>", "<|begin|>tool"),
    ],
)
def test_what_ended_an_answer_stands_behind_it_once(answer: Message, text: str, rest: str) -> None:
    chat = remembering(SOLAR, *SOLAR_TOKENS, answer=answer, text=text)
    pieces = chat.pieces(talk(USER, answer, RESULT if answer.tool_calls else USER))
    assert len(pieces) == 3
    assert isinstance(pieces[2], str)
    assert pieces[2].startswith(rest)
