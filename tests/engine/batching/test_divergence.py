"""Why a prompt missed the cache, as it is told to those who read the log: on prompts of words, one token each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.cache import common_prefix
from ds4trio.engine.base import Divergence
from ds4trio.engine.batching.divergence import BEFORE, FROM, LEAST_LOST, divergence

HISTORY = "another answer, as long as an answer is, and then some " * 20


class Words:
    """A tokenizer: each word is a token."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def tokens(self, text: str) -> list[int]:
        return [self._ids.setdefault(word, len(self._ids)) for word in text.split()]

    def text(self, tokens: list[int]) -> str:
        words = list(self._ids)
        return " ".join(words[token] for token in tokens)


def explain(cached: list[str], asked: list[str]) -> Divergence | None:
    """Two conversations, each given as its system prompt and its turns; an assistant turn is one of them too."""
    words = Words()
    was, now = ([token for part in parts for token in words.tokens(part)] for parts in (cached, asked))
    turns, position = [], 0
    for part in asked[:-1]:
        position += len(part.split())
        turns.append(position)
    parts = common_prefix(was, now)
    return divergence(
        now,
        parts,
        cached=was[max(0, parts - BEFORE) : parts + FROM],
        lost=len(was) - parts,
        turns=turns,
        text=words.text,
    )


def reason(cached: list[str], asked: list[str]) -> str | None:
    found = explain(cached, asked)
    return found.reason if found is not None else None


SYSTEM = "You are an agent . Work in the directory of the project . " * 3

# --- in the system prompt ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("Today is 2025-03-01 .", "Today is 2025-03-02 ."),
        ("Current time: 10:59", "Current time: 11:00"),
        ("Today is Monday, 3 March", "Today is Tuesday, 4 March"),
        ("Today's date: 3 Mar 2025", "Today's date: 4 Mar 2025"),
        ("Knowledge: 01/02/2025", "Knowledge: 02/02/2025"),
    ],
)
def test_a_date_that_changed(was: str, now: str) -> None:
    rest = SYSTEM + HISTORY
    assert reason([f"{SYSTEM} {was} {rest}", "Hello"], [f"{SYSTEM} {now} {rest}", "Hello"]) == (
        "a date or time in the system prompt or the template"
    )


TOOL = '{{"type": "function", "function": {{"name": "{name}", "parameters": {{}} }}}} '


def test_a_tool_that_was_added() -> None:
    read, write, end = TOOL.format(name="read"), TOOL.format(name="write"), "</tools>"
    assert reason(
        [f"{SYSTEM} <tools> {read} {end} {HISTORY}"], [f"{SYSTEM} <tools> {read} {write} {end} {HISTORY}"]
    ) is (None), "without turns nothing can be said"
    assert (
        reason(
            [f"{SYSTEM} <tools> {read} {end} {HISTORY}", "Hello"],
            [f"{SYSTEM} <tools> {read} {write} {end} {HISTORY}", "Hello"],
        )
        == "other tools"
    )


def test_the_first_tool_is_another_one() -> None:
    read, write = TOOL.format(name="read"), TOOL.format(name="write")
    assert reason([SYSTEM + read * 9, "Hello"], [SYSTEM + write + read * 8, "Hello"]) == "other tools"


def test_another_system_prompt() -> None:
    assert reason([f"You are a fox . {HISTORY}", "Hello"], [f"You are an owl . {HISTORY}", "Hello"]) == (
        "another system prompt"
    )


def test_a_date_that_both_have_nearby_is_not_to_blame_for_a_word_alone() -> None:
    assert reason([f"{SYSTEM} Be kind . {HISTORY}", "Hi"], [f"{SYSTEM} Be brief . {HISTORY}", "Hi"]) == (
        "another system prompt"
    )


# --- in the history ---------------------------------------------------------------------------------------------------


def test_a_history_that_was_edited() -> None:
    cached = [SYSTEM, "first question", HISTORY, "second question", HISTORY, "third", HISTORY]
    edited = [SYSTEM, "first question", "shorter: " + HISTORY, "second question", HISTORY, "third", ""]
    assert reason(cached, edited) == "the history was edited, or an earlier answer is written differently now"


# --- what is natural --------------------------------------------------------------------------------------------------


def test_the_next_turn_is_natural() -> None:
    cached = [SYSTEM, "first question", HISTORY]
    assert reason(cached, [*cached, "second question", "assistant:"]) is None


def test_another_conversation_after_the_same_system_prompt_is_natural() -> None:
    assert reason([SYSTEM, "first question", HISTORY], [SYSTEM, "something else", "assistant:"]) is None


def test_another_last_question_is_natural() -> None:
    before = [SYSTEM, "first question", HISTORY]
    assert reason([*before, "second question", HISTORY], [*before, "another question", "assistant:"]) is None


def test_the_same_again_is_natural() -> None:
    cached = [SYSTEM, "first question", HISTORY]
    assert reason([*cached, "and an answer " * 20], cached) is None


def test_so_little_is_lost_that_it_is_not_worth_a_word() -> None:
    for lost, told in ((LEAST_LOST - 1, False), (LEAST_LOST, True)):
        was, now = f"You are a {'fox ' * lost}", f"You are a {'owl ' * lost}"
        assert (reason([was], [now, "Hello"]) is not None) == told


# --- what is told -----------------------------------------------------------------------------------------------------


def test_what_is_told_quotes_a_few_tokens_around_the_place() -> None:
    before = "the quick brown fox jumps over the lazy dog and then some more words"
    found = explain(
        [f"{before} was 1 2 3 4 5 6 7 8 9 {HISTORY}", "Hello"], [f"{before} now 1 2 3 4 5 6 7 8 9 {HISTORY}", "Hello"]
    )
    assert found is not None
    assert found.position == len(before.split())
    last = " ".join(before.split()[-BEFORE:])
    assert found.cached == f"{last} was 1 2 3 4 5 6 7"
    assert found.asked == f"{last} now 1 2 3 4 5 6 7"


@given(
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=200),
    position=st.integers(0, 200),
    lost=st.integers(0, 200),
    turns=st.lists(st.integers(1, 199), unique=True, max_size=6),
)
def test_what_is_told_is_told_of_a_place_that_is_not_the_last_question(
    prompt: list[int], position: int, lost: int, turns: list[int]
) -> None:
    position = min(position, len(prompt))
    turns = sorted(turn for turn in turns if turn < len(prompt))
    found = divergence(prompt, position, cached=[0], lost=lost, turns=turns, text=lambda tokens: "x" * len(tokens))
    if found is not None:
        assert (found.position, found.lost) == (position, lost)
        assert lost >= LEAST_LOST
        assert position < turns[0] or position < turns[-2]
