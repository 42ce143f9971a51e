"""What is remembered, how it is found again, and what is forgotten first."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.chat.messages import Message, ToolCall
from ds4trio.chat.replay import Journal, Place, Remembered, ReplayMemory

PLACE = Place(b"here", 4, "")
SAID = Message("assistant", "Well said.")


def calling(arguments: str, name: str = "read", call_id: str = "") -> Message:
    return Message("assistant", tool_calls=(ToolCall(call_id, name, arguments),))


def tokens_of(memory: ReplayMemory, message: Message) -> list[tuple[int, ...]]:
    return [answer.tokens for answer in memory.known(message)]


# --- finding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampled", "sent"),
    [
        (SAID, replace(SAID, content=" Well said.\n")),
        (calling('{"a":1,  "b":[1.0, {"c": "\\u00e9"}]}'), calling('{"b":[1,{"c":"é"}],"a":1}', call_id="x")),
        (calling('{"a": 1e3}'), calling('{"a": 1000}')),
        (calling(""), calling("{}")),
        (replace(SAID, reasoning="Hm.\n"), SAID),
        (replace(SAID, reasoning="Hm.\n"), replace(SAID, reasoning="Hm.")),
    ],
)
def test_an_answer_is_found_however_its_client_writes_it(sampled: Message, sent: Message) -> None:
    memory = ReplayMemory()
    memory.add(PLACE, sampled, [1, 2**32 - 1])
    assert tokens_of(memory, sent) == [(1, 2**32 - 1)]


@pytest.mark.parametrize(
    ("sampled", "sent"),
    [
        (SAID, replace(SAID, content="Well  said.")),
        (SAID, replace(SAID, content="well said.")),
        (SAID, replace(SAID, role="user")),
        (SAID, replace(SAID, tool_calls=calling("{}").tool_calls)),
        (SAID, replace(SAID, reasoning="Hm.")),
        (replace(SAID, reasoning="Hm."), replace(SAID, reasoning="Hum.")),
        (calling('{"a": 1}'), calling('{"a": 2}')),
        (calling('{"a": 1}'), calling('{"a": "1"}')),
        (calling('{"a": [1, 2]}'), calling('{"a": [2, 1]}')),
        (calling('{"a": 1}'), calling('{"a": 1}', name="write")),
        (calling('{"a": 1}'), calling('{"a": 1')),
        (calling('{"a": 1'), calling('{"a": 1')),
        (calling("[1]"), calling("[1]")),
        (calling("[" * 100_000), calling("[" * 100_000)),
    ],
)
def test_an_answer_that_was_changed_is_not_found(sampled: Message, sent: Message) -> None:
    memory = ReplayMemory()
    memory.add(PLACE, sampled, [1])
    assert not memory.known(sent)


def test_the_same_words_at_other_places_are_other_answers_and_the_latest_counts_at_one() -> None:
    memory = ReplayMemory()
    there = Place(b"there", 7, "")
    for place, token in ((PLACE, 1), (there, 2), (PLACE, 3)):
        memory.add(place, SAID, [token])
    assert sorted((answer.place.digest, answer.tokens) for answer in memory.known(SAID)) == [
        (b"here", (3,)),
        (b"there", (2,)),
    ]


def test_nothing_sampled_is_nothing_to_replay() -> None:
    memory = ReplayMemory()
    memory.add(PLACE, SAID, [])
    assert len(memory) == 0


# --- forgetting -------------------------------------------------------------------------------------------------------


def known(memory: ReplayMemory, name: str) -> tuple[Remembered, ...]:
    return memory.known(Message("assistant", name))


def filled(memory: ReplayMemory, names: str) -> ReplayMemory:
    for name in names:
        memory.add(PLACE, Message("assistant", name), [1])
    return memory


@pytest.mark.parametrize("memory", [ReplayMemory(max_answers=3), ReplayMemory(max_bytes=3 * 404)])
def test_the_least_recently_used_answer_is_forgotten_first_and_of_a_conversation_the_last_one(
    memory: ReplayMemory,
) -> None:
    filled(memory, "abc")
    memory.use([*known(memory, "a"), *known(memory, "b")])
    filled(memory, "d")
    assert [name for name in "abcd" if known(memory, name)] == ["a", "b", "d"]
    filled(memory, "e")
    assert [name for name in "abde" if known(memory, name)] == ["a", "d", "e"]


def test_what_was_forgotten_meanwhile_is_used_in_vain() -> None:
    memory = filled(ReplayMemory(max_answers=1), "a")
    answers = known(memory, "a")
    filled(memory, "b")
    memory.use(answers)
    assert known(memory, "b")
    assert not known(memory, "a")


@given(sizes=st.lists(st.integers(1, 200), max_size=60), most=st.integers(1, 6000))
def test_no_more_bytes_are_kept_than_may_be(sizes: list[int], most: int) -> None:
    memory = ReplayMemory(max_bytes=most)
    for number, size in enumerate(sizes):
        memory.add(PLACE, Message("assistant", str(number % 20)), [7] * size)
        held = [answer for name in range(20) for answer in known(memory, str(name))]
        assert len(held) == len(memory)
        assert sum(answer.size for answer in held) <= most


# --- over restarts ----------------------------------------------------------------------------------------------------


def test_answers_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "answers"
    memory = ReplayMemory(journal=Journal(path))
    memory.load()
    memory.flush()
    assert not path.parent.exists()
    memory.add(Place(b"here", 4, "<think>\n"), replace(SAID, reasoning="Hm é."), [3, 1, 4])
    memory.flush()
    memory.flush()
    size = path.stat().st_size
    again = ReplayMemory(journal=Journal(path))
    again.load()
    assert again.known(SAID) == memory.known(SAID) != ()
    again.flush()
    assert path.stat().st_size == size


def test_what_was_forgotten_before_it_was_written_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    filled(ReplayMemory(max_answers=1, journal=Journal(path)), "ab").flush()
    again = ReplayMemory(journal=Journal(path))
    again.load()
    assert [name for name in "ab" if known(again, name)] == ["b"]
