"""What can be replayed with the templates of real models, and what their templates will not have."""

from dataclasses import replace
from functools import cache

import pytest

from ds4trio.chat import ChatModel, Conversation, Message, Thinking, Tool, ToolCall
from ds4trio.chat.replay import ReplayMemory
from tests.chat.templates import llama_cpp_templates
from tests.chat.test_turns import LOOKS, WORK

pytestmark = pytest.mark.slow

NEXT_USER = Message("user", "Go on.")
CALL = ToolCall("call00001", "weigh", '{"animal": "okapi"}')
RESULT = Message("tool", "200 kg", tool_call_id=CALL.id)
SAID, CALLED = Message("assistant", "It is done."), Message("assistant", tool_calls=(CALL,))
BESIDE = Message("assistant", "Let me see.", tool_calls=(CALL,))
THOUGHT = "An okapi it is."
TOOLS = (Tool("weigh", "Weigh it", {"type": "object", "properties": {"animal": {"type": "string"}}}),)

SITUATIONS: dict[str, tuple[Message, str, tuple[Message, ...]]] = {
    "text": (SAID, "", (NEXT_USER,)),
    "call": (CALLED, "", (RESULT,)),
    "call beside text": (BESIDE, "", (RESULT,)),
    "call, then the user": (CALLED, "", (RESULT, SAID, NEXT_USER)),
    "reasoning and call": (CALLED, THOUGHT, (RESULT,)),
    "reasoning and call, then the user": (CALLED, THOUGHT, (RESULT, SAID, NEXT_USER)),
    "reasoning and text": (SAID, THOUGHT, (NEXT_USER,)),
}
UNMARKED = {"llama-cpp-rwkv-world.jinja"}
"""Without control tokens nobody can tell where a turn ends."""
RESULTS_WITHIN = {"Apertus-8B-Instruct.jinja"}
"""Results are a part of the assistant's turn, with no control token between."""
RECIPIENTS = {"GigaChat3-10B-A1.8B.jinja"}
"""A call is a message of its own, behind an empty one of the assistant."""
MOVED = {"Mistral-Small-3.2-24B-Instruct-2506.jinja", "mistralai-Mistral-Nemo-Instruct-2407.jinja"}
"""The tools stand before the last turn of the user, so all that follows the first one changes."""
OPENED = {"Apriel-1.6-15b-Thinker-fixed.jinja", "CohereForAI-c4ai-command-r-plus-tool_use.jinja"}
"""The prompt opens the answer with words that the template does not write in what is past."""
OPENED_WITHOUT_REASONING = {"ByteDance-Seed-OSS.jinja", "upstage-Solar-Open-100B.jinja"}
"""The same, if reasoning is turned off."""
NEVER = UNMARKED | OPENED
MISSED = {
    "text": NEVER | OPENED_WITHOUT_REASONING | MOVED,
    "call": NEVER | OPENED_WITHOUT_REASONING | RESULTS_WITHIN | RECIPIENTS,
    "call beside text": NEVER | OPENED_WITHOUT_REASONING | RESULTS_WITHIN,
    "call, then the user": NEVER | OPENED_WITHOUT_REASONING | RESULTS_WITHIN | RECIPIENTS | MOVED,
    "reasoning and call": NEVER | RESULTS_WITHIN | RECIPIENTS,
    "reasoning and call, then the user": NEVER | RESULTS_WITHIN | RECIPIENTS | MOVED,
    "reasoning and text": NEVER | MOVED,
}


@cache
def model(name: str) -> tuple[ChatModel, tuple[int, ...]]:
    """A model, and something that it may sample: all its special tokens and one more."""
    source = llama_cpp_templates()[name]
    plain = ChatModel(source, bos_token="<s>", eos_token="</s>")
    control = {*LOOKS.findall(plain.render(WORK)), *LOOKS.findall(source)}
    special = {token: number for number, token in enumerate(sorted(control))}
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    chat = ChatModel(source, **tokens, special_tokens=special, control_tokens=control, memory=ReplayMemory())
    return chat, (*special.values(), len(special))


def is_replayed(name: str, situation: str, *, dropped: bool) -> bool | None:
    """Whether the next prompt goes on from the tokens of the answer; None if the template drops its reasoning."""
    answer, reasoning, then = SITUATIONS[situation]
    chat, sampled = model(name)
    thinking = Thinking(enabled=bool(reasoning))
    # Each asks something else, so that none is told what another one was.
    asked = Message("user", f"Do it: {situation} {dropped}.")
    prompt = chat.prompt(Conversation(messages=(asked,), tools=TOOLS, thinking=thinking))
    assert prompt.remember is not None
    answer = replace(answer, reasoning=reasoning)
    prompt.remember(answer, sampled)
    whole = Conversation(messages=(asked, answer, *then), tools=TOOLS, thinking=thinking)
    back = replace(whole, messages=(asked, replace(answer, reasoning=""), *then)) if dropped else whole
    pieces = chat.pieces(back)
    if pieces[: len(prompt.pieces) + 1] == (*prompt.pieces, sampled):
        return True
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == chat.render(back)
    return None if reasoning not in chat.render(whole) else False


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_answers_are_replayed_unless_the_template_will_not_have_them(situation: str, dropped: bool) -> None:
    found = {name: is_replayed(name, situation, dropped=dropped) for name in llama_cpp_templates()}
    missed = {name for name, replayed in found.items() if replayed is False}
    assert missed <= MISSED[situation]
    assert {name for name, replayed in found.items() if not replayed} >= MISSED[situation]
    # Most of those for which reasoning matters keep it while a work goes on, a few for good.
    replayed = sum(1 for each in found.values() if each)
    assert replayed >= len(found) * (0.8 if "reasoning" not in situation or situation == "reasoning and call" else 0.5)
