"""What is guessed, how sure of it the guess is, and that nothing but the past is ever guessed from."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.engine.batching.lookup import LEAST_LIKELY, MOST, PromptLookup

few_words = st.lists(st.integers(0, 3), max_size=60)


def steps_of(prompt: list[int], answer: list[int]) -> tuple[int, int]:
    """How many steps an answer takes if all guesses are computed ahead, and how many tokens were guessed in vain."""
    tokens = [*prompt]
    lookup = PromptLookup(tokens)
    steps = wasted = done = 0
    while done < len(answer):
        guessed, _ = lookup.guess()
        steps += 1
        right = 0
        while right < len(guessed) and done + right < len(answer) and guessed[right] == answer[done + right]:
            right += 1
        wasted += len(guessed) - right
        tokens += answer[done : done + right + 1]
        done += right + 1
    return steps, wasted


def file_of(words: int, *, seed: int = 0) -> list[int]:
    """A text in which few words come again and again, as in code."""
    dice = random.Random(seed)
    return [dice.choice((dice.randrange(8), dice.randrange(2000))) for _ in range(words)]


# --- what is guessed --------------------------------------------------------------------------------------------------


def test_what_followed_the_last_three_tokens_is_guessed() -> None:
    lookup = PromptLookup([10, 11, 12, 13, 14, 15, 16, 0, 11, 12, 13])
    guessed, likelihoods = lookup.guess()
    assert guessed[:2] == [14, 15][: len(guessed)]
    assert guessed
    assert likelihoods == sorted(likelihoods, reverse=True)


@pytest.mark.parametrize("prompt", [[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 9, 2, 3]])
def test_nothing_is_guessed_where_nothing_is_repeated(prompt: list[int]) -> None:
    assert PromptLookup(prompt).guess() == ([], [])


def test_of_several_places_the_latest_counts() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 0, 1, 2, 3, 5, 0, 1, 2, 3])
    assert lookup.guess()[0][0] == 5


def test_a_text_that_repeats_itself_is_guessed_to_go_on_with_that() -> None:
    tokens = [1, 2] * 40
    guessed, _ = PromptLookup(tokens).guess()
    assert len(guessed) > 10
    assert guessed == [1, 2] * (len(guessed) // 2) + [1] * (len(guessed) % 2)


def test_an_answer_is_found_in_the_answer_too() -> None:
    tokens = [1, 2, 3]
    lookup = PromptLookup(tokens)
    tokens += [20, 21, 22, 23, 24, 25, 7, 20, 21, 22]
    assert lookup.guess()[0][0] == 23


# --- copying a file ---------------------------------------------------------------------------------------------------


def test_a_copy_takes_few_steps() -> None:
    text = file_of(1500)
    steps, wasted = steps_of([*text, -1], text)
    assert steps < 1500 / 25
    assert wasted < 200


@pytest.mark.parametrize("change", ["replaced", "inserted", "left out"])
def test_a_copy_with_changes_goes_on_right_behind_them(change: str) -> None:
    text = file_of(1500)
    answer: list[int] = []
    for start in range(0, 1500, 100):
        part = text[start : start + 100]
        new = [5000 + start, 5001 + start]
        answer += {"replaced": new + part[2:], "inserted": new + part, "left out": part[4:]}[change]
    steps, _ = steps_of([*text, -1], answer)
    assert steps < 15 * 16, "per hundred tokens: the change, two tokens to see where it goes on, and a few guesses"


def test_after_a_change_the_neighbourhood_counts_and_not_the_latest_place() -> None:
    prompt = [*range(100, 140), 50, 120, 121, 60, 61, 62]
    tokens = [*prompt, *range(100, 118)]
    lookup = PromptLookup(tokens)
    lookup.guess()
    tokens += [999, 120, 121]  # 118 and 119 were replaced
    assert lookup.guess()[0][0] == 122


# --- how sure a guess is ----------------------------------------------------------------------------------------------


def test_the_longer_the_match_the_longer_the_guess() -> None:
    text = file_of(400)
    tokens = [*text, -1, *text[:4]]
    lookup = PromptLookup(tokens)
    lengths = [len(lookup.guess()[0])]
    for token in text[4:40]:
        tokens.append(token)
        lengths.append(len(lookup.guess()[0]))
    assert lengths == sorted(lengths)
    assert lengths[-1] > 5 * lengths[0] > 0


def test_guesses_that_are_always_wrong_cease_and_come_back_once_they_are_right() -> None:
    dice = random.Random(1)
    tokens = [token for number in range(300) for token in (1, 2, 3, 4, 1000 + number)]
    lookup = PromptLookup(tokens)
    guessed = []
    for number in range(40):  # what follows these four is another one each time
        tokens += [1, 2, 3, 4]
        guessed.append(len(lookup.guess()[0]))
        tokens.append(5000 + number)
    assert guessed[0] > guessed[-1] == 0
    text = [dice.randrange(10_000, 20_000) for _ in range(300)]
    tokens += text
    tokens += text[:100]
    assert len(lookup.guess()[0]) > 20


@given(prompt=few_words, answer=few_words)
def test_guesses_are_texts_that_stood_before_with_likelihoods_that_fall(prompt: list[int], answer: list[int]) -> None:
    tokens = [*prompt]
    lookup = PromptLookup(tokens)
    for token in [*answer, 0]:
        guessed, likelihoods = lookup.guess()
        assert len(guessed) == len(likelihoods) <= MOST
        assert all(LEAST_LIKELY <= likely <= 1 for likely in likelihoods)
        assert likelihoods == sorted(likelihoods, reverse=True)
        if guessed:
            text = tokens + guessed
            places = range(2, len(tokens))
            assert any(
                text[place : place + len(guessed)] == guessed and text[place - 2 : place] == tokens[-2:]
                for place in places
            )
        tokens.append(token)


@given(prompt=few_words, answer=few_words, cuts=st.sets(st.integers(0, 60)))
def test_it_makes_no_difference_how_many_tokens_come_at_a_time(
    prompt: list[int], answer: list[int], cuts: set[int]
) -> None:
    one, other = [*prompt], [*prompt]
    each, some = PromptLookup(one), PromptLookup(other)
    for index, token in enumerate(answer):
        one.append(token)
        other.append(token)
        each.guess()
        if index in cuts:
            assert some.guess() == each.guess()
    assert some.guess() == each.guess()
