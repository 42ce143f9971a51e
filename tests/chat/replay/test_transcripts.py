"""Turns of agents in all three protocols: each computes what is new in it and nothing else."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.chat import ChatModel
from ds4trio.chat.replay import ReplayMemory
from tests.chat.replay.agents import AGENTS
from tests.chat.replay.tokenizers import Words, oddly
from tests.chat.replay.transcripts import CHATML, SAID, SPECIAL, THOUGHT, TRANSCRIPTS, Server, Turn, play

KEEPING = CHATML.replace("KEPT", "")
# As Qwen 3 does: of what lies before the user's last words only the answers stay.
FORGETTING = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index %}{% endif %}{% endfor %}"
) + CHATML.replace("KEPT", "and loop.index > ns.last")


def server(source: str = KEEPING, *, replay: bool = True) -> Server:
    words = Words(SPECIAL)
    memory = ReplayMemory() if replay else None
    chat = ChatModel(source, special_tokens=words.special, control_tokens=SPECIAL, memory=memory)
    return Server(chat, words, SPECIAL)


def is_extended(one: Server) -> list[bool]:
    """Whether each prompt but the first goes on from all that was computed for the one before."""
    steps = zip(one.computed, one.prompts[1:], strict=False)
    return [prompt[: len(known)] == known for known, prompt in steps]


EXTENDING = sorted(TRANSCRIPTS.keys() - {"edited last message", "edited answer", "changed date"})


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("shape", AGENTS)
@pytest.mark.parametrize("name", EXTENDING)
def test_each_prompt_goes_on_from_the_tokens_before(name: str, shape: str, thinking: bool) -> None:
    one = server()
    play(one, shape, TRANSCRIPTS[name], thinking=thinking)
    assert all(is_extended(one))
    assert len(one.prompts) > 2
    without = server(replay=False)
    play(without, shape, TRANSCRIPTS[name], thinking=thinking)
    assert sum(one.fresh) < sum(without.fresh)


@pytest.mark.parametrize("shape", AGENTS)
def test_reasoning_of_a_work_that_goes_on_is_kept_though_the_client_drops_it(shape: str) -> None:
    one = server(FORGETTING)
    play(one, shape, TRANSCRIPTS["reasoning"], thinking=False)
    assert all(is_extended(one))
    assert one.text(one.prompts[-1]).count("<think>") == 2


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("shape", AGENTS)
def test_reasoning_that_the_template_drops_stays_dropped(shape: str, thinking: bool) -> None:
    transcript = (*TRANSCRIPTS["reasoning"], Turn("Thanks.", (THOUGHT + SAID,)), Turn("So?", ()))
    one, without = server(FORGETTING), server(FORGETTING, replay=False)
    for each in (one, without):
        play(each, shape, transcript, thinking=thinking)
    assert "<think>" not in one.text(one.prompts[-1])
    assert one.text(one.prompts[-1]) == without.text(without.prompts[-1])


@pytest.mark.parametrize("shape", AGENTS)
def test_an_edited_last_message_costs_only_itself(shape: str) -> None:
    one = server()
    play(one, shape, TRANSCRIPTS["edited last message"], thinking=False)
    second = one.prompts[-1]
    assert one.text(second).endswith("user\nNo, that.<|im_end|>\n<|im_start|>assistant\n")
    assert one.fresh[-1] <= len(one.tokenizer.tokenize("No, that.<|im_end|>\n<|im_start|>assistant\n"))


@pytest.mark.parametrize("shape", AGENTS)
def test_an_edited_answer_is_what_the_client_made_of_it(shape: str) -> None:
    one, without = server(), server(replay=False)
    for each in (one, without):
        play(each, shape, TRANSCRIPTS["edited answer"], thinking=False)
    assert "The file is empty." in one.text(one.prompts[2])
    assert SAID not in one.text(one.prompts[2])
    # What came before it is still replayed, and what came after it, too.
    assert one.prompts[2][: len(one.computed[0])] == one.computed[0]
    assert sum(one.fresh) < sum(without.fresh)
    assert is_extended(one)[-1]


@pytest.mark.parametrize("shape", AGENTS)
def test_what_follows_a_changed_date_is_rendered_anew(shape: str) -> None:
    one = server()
    play(one, shape, TRANSCRIPTS["changed date"], thinking=False)
    extended = is_extended(one)
    assert [place for place, ok in enumerate(extended) if not ok] == [1]
    changed = one.text(one.prompts[2])
    assert "Tuesday" in changed
    # Tools stand before the instructions here, and so in the prefix that stays.
    assert one.fresh[2] < len(one.prompts[2]) - len(one.tokenizer.tokenize(changed.partition("<|im_end|>")[0]))


@given(seed=st.integers(0, 2**32))
def test_the_ids_of_a_prompt_are_the_bytes_of_its_text(seed: int) -> None:
    """Whatever tokens an answer was sampled in, the next prompt reads as if its text had been pasted."""
    one = server()
    one.seed = seed
    play(one, "chat", TRANSCRIPTS["call beside text"], thinking=False)
    raw = [answer for turn in TRANSCRIPTS["call beside text"] for answer in turn.answers]
    text = one.text(one.prompts[-1])
    place = 0
    for answer in raw:
        place = text.index(f"<|im_start|>assistant\n{answer}<|im_end|>\n", place)


@given(seed=st.integers(0, 2**32))
def test_odd_tokens_are_the_same_text(seed: int) -> None:
    words = Words(SPECIAL)
    groups = oddly(f"{SAID}<|im_end|>", words.tokenize, SPECIAL, random.Random(seed))
    tokens = [token for group in groups for token in group]
    assert b"".join(words.pieces(tokens)).decode() == f"{SAID}<|im_end|>"
