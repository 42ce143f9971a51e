"""The answer as it grows: characters across tokens, what a guide sees, which delta carries which logprob."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.engine import EngineError, GenerationRequest, TextDelta, TokenLogprob
from ds4trio.engine.answer_text import AnswerText

LETTERS = "abé€😀"
MARKER = "<call>"

# A token: its bytes, or None for the marker. Bytes may begin, continue or break a character.
Token = bytes | None
tokens = st.lists(
    st.one_of(
        st.none(),
        st.text(LETTERS, max_size=3).map(str.encode),
        st.binary(max_size=3),
    ),
    max_size=15,
)
stops = st.lists(st.text(LETTERS, min_size=1, max_size=3), max_size=2).map(tuple)


class Witness:
    """A guide that only remembers."""

    greedy = False
    forced = ""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def observe(self, text: str, *, special: bool) -> None:
        self.seen.append((text, special))


def answer(*, stop: tuple[str, ...] = (), guide: Witness | None = None) -> AnswerText:
    return AnswerText(GenerationRequest(prompt=[1], max_tokens=100, stop=stop, guide=guide))


def take(answer: AnswerText, token: Token, logprob: TokenLogprob | None = None, *, id: int = 0) -> list[TextDelta]:
    return answer.take(id, token or b"", marker=MARKER if token is None else None, logprob=logprob)


def run(tokens: Sequence[Token], *, stop: tuple[str, ...] = (), logprobs: bool = False) -> list[TextDelta]:
    """All deltas; each token's id and logprob are its index."""
    growing = answer(stop=stop)
    deltas = []
    for index, token in enumerate(tokens):
        deltas += take(growing, token, TokenLogprob(index, token or b"", -float(index)) if logprobs else None, id=index)
    return deltas + growing.finish()


def decoded(tokens: Sequence[Token]) -> str:
    """What the tokens spell, markers included: a marker ends a character that was begun."""
    text, data = "", b""
    for token in (*tokens, None):
        if token is None:
            text, data = text + data.decode(errors="replace") + MARKER, b""
        else:
            data += token
    return text[: -len(MARKER)]


@given(tokens=tokens)
def test_the_pieces_give_what_the_whole_decodes_to_and_markers_are_apart(tokens: list[Token]) -> None:
    deltas = run(tokens)
    assert "".join(delta.text for delta in deltas) == decoded(tokens)
    assert [delta.text for delta in deltas if delta.special] == [MARKER] * tokens.count(None)


@given(tokens=tokens, stop=stops)
def test_no_delta_is_empty_and_they_count_the_tokens(tokens: list[Token], stop: tuple[str, ...]) -> None:
    deltas = run(tokens, stop=stop)
    assert all(delta.text for delta in deltas[:-1]), "the last may carry ids without a text"
    counts = [delta.output_tokens for delta in deltas]
    assert counts == sorted(counts)
    assert not counts or counts[-1] <= len(tokens)


@given(tokens=tokens)
def test_each_id_is_carried_once_whatever_has_a_text(tokens: list[Token]) -> None:
    assert [id for delta in run(tokens) for id in delta.tokens] == list(range(len(tokens)))


@given(tokens=tokens, stop=stops)
def test_a_guide_sees_each_token_at_once_whatever_is_held_back(tokens: list[Token], stop: tuple[str, ...]) -> None:
    guide = Witness()
    growing = answer(stop=stop, guide=guide)
    for count, token in enumerate(tokens, 1):
        take(growing, token)
        if token is None:
            assert guide.seen[-1] == (MARKER, True)
        assert len(guide.seen) >= count
        seen = "".join(text for text, _ in guide.seen)
        assert decoded(tokens[:count]).removesuffix("\ufffd").startswith(seen.removesuffix("\ufffd"))


def test_a_character_comes_with_its_last_byte() -> None:
    growing = answer()
    texts = ["".join(delta.text for delta in growing.take(0, bytes([byte]))) for byte in "é€😀".encode()]
    assert texts == ["", "é", "", "", "€", "", "", "", "😀"]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"\xff"], "�"),
        ([b"a\x80b"], "a�b"),
        ([b"\xf0\x9f", b"x"], "�x"),
        ([b"\xed\xa0\x80"], "���"),
        ([b"ok\xe2\x82"], "ok�"),
        ([b"ok\xe2\x82", None, b"\xac"], f"ok�{MARKER}�"),
    ],
)
def test_bytes_that_are_no_utf_8_become_replacement_characters(pieces: list[Token], expected: str) -> None:
    assert "".join(delta.text for delta in run(pieces)) == expected


def test_a_stop_string_of_several_bytes_is_found_where_a_token_cuts_a_character() -> None:
    head, tail = "weiß €".encode()[:-1], "€".encode()[-1:]
    growing = answer(stop=("€!",))
    deltas = [*growing.take(0, head), *growing.take(1, tail), *growing.take(2, b"!"), *growing.finish()]
    assert "".join(delta.text for delta in deltas) == "weiß "
    assert growing.stopped == "€!"


# --- logprobs ---------------------------------------------------------------------------------------------------------


@given(tokens=tokens)
def test_every_token_has_its_logprob_once_and_in_order(tokens: list[Token]) -> None:
    deltas = run(tokens, logprobs=True)
    told = [logprob.token for delta in deltas for logprob in delta.logprobs]
    assert told == list(range(len(tokens)))


@given(tokens=tokens, stop=stops)
def test_with_a_stop_string_the_logprobs_are_those_of_the_text_that_is_left(
    tokens: list[Token], stop: tuple[str, ...]
) -> None:
    deltas = run(tokens, stop=stop, logprobs=True)
    told = [logprob.token for delta in deltas for logprob in delta.logprobs]
    assert told == list(range(len(told)))
    text = "".join(delta.text for delta in deltas)
    whole = decoded(tokens)
    begins = [len(decoded(tokens[:index]).removesuffix("\ufffd")) for index in range(len(tokens))]
    if text == whole:
        assert len(told) == len(tokens)
    else:
        assert all(begins[index] <= len(text) for index in told)


def test_a_delta_carries_the_logprobs_of_the_tokens_that_it_is_made_of() -> None:
    deltas = run([b"a", b"\xc3", b"\xa9", b"S", b"T", b"b", None, b"S"], stop=("STOP",), logprobs=True)
    assert [(delta.text, [logprob.token for logprob in delta.logprobs]) for delta in deltas] == [
        ("a", [0]),
        ("é", [1, 2]),
        ("STb", [3, 4, 5]),
        (MARKER, [6]),
        ("S", [7]),
    ]


def test_tokens_that_a_stop_string_cut_off_have_no_logprobs() -> None:
    deltas = run([b"a", b"b ST", b"OP", b"!"], stop=("STOP",), logprobs=True)
    assert [(delta.text, [logprob.token for logprob in delta.logprobs]) for delta in deltas] == [
        ("a", [0]),
        ("b ", [1]),
    ]


def test_logprobs_of_tokens_without_text_come_with_the_last_delta() -> None:
    assert [(delta.text, len(delta.logprobs)) for delta in run([b"", b""], logprobs=True)] == [("", 2)]
    assert [(delta.text, len(delta.logprobs)) for delta in run([b"a", b"\xc3"], logprobs=True)] == [("a", 1), ("�", 1)]


# --- guides -----------------------------------------------------------------------------------------------------------


def test_a_guide_that_fails_is_an_engine_error_that_quotes_nothing() -> None:
    class Broken(Witness):
        def observe(self, text: str, *, special: bool) -> None:
            raise IndexError(text)

    with pytest.raises(EngineError, match="IndexError") as failure:
        answer(guide=Broken()).take(0, b"secret")
    assert "secret" not in str(failure.value)
