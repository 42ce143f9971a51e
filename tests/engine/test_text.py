"""The stop filter: however the bytes are cut into tokens, the text is the same, and it comes as early as it can."""

import codecs
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ds4trio.engine.text import StopFilter

LETTERS = "abé€😀"

stop_strings = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3)
texts = st.text(LETTERS, max_size=30)
# Whole characters, and bytes that begin, continue or break one.
dirty_bytes = st.lists(
    st.one_of(st.text(LETTERS, min_size=1, max_size=3).map(str.encode), st.binary(min_size=1, max_size=3)), max_size=12
).map(b"".join)


def without_nesting(stops: Sequence[str]) -> list[str]:
    """The stop strings that contain none of the others: of these, the first to begin is the first to end."""
    return [
        string
        for index, string in enumerate(stops)
        if string not in stops[:index] and not any(other != string and other in string for other in stops)
    ]


flat_stops = stop_strings.map(without_nesting)


@st.composite
def cut(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> list[bytes]:
    """Bytes in pieces, as tokens bring them; some pieces are empty."""
    whole = draw(data)
    borders = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    return [whole[start:end] for start, end in zip([0, *borders], [*borders, len(whole)], strict=True)]


def run(pieces: Iterable[bytes], stops: Sequence[str]) -> tuple[str, str | None]:
    text = StopFilter(stops)
    out = "".join([text.feed(piece) for piece in pieces])
    return out + text.finish(), text.stopped


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    return min(((text.find(string), string) for string in stops if string in text), default=None)


# --- the text does not depend on the cuts -----------------------------------------------------------------------------


@given(pieces=cut(dirty_bytes))
def test_without_stop_strings_the_pieces_give_what_the_whole_decodes_to(pieces: list[bytes]) -> None:
    assert run(pieces, ()) == (b"".join(pieces).decode(errors="replace"), None)


@given(pieces=cut(dirty_bytes), stops=flat_stops)
def test_the_text_ends_before_the_first_stop_string_wherever_the_cuts_are(
    pieces: list[bytes], stops: list[str]
) -> None:
    whole = b"".join(pieces).decode(errors="replace")
    hit = first_stop(whole, stops)
    expected = (whole, None) if hit is None else (whole[: hit[0]], hit[1])
    assert run(pieces, stops) == expected


@given(pieces=cut(texts.map(str.encode)), stops=stop_strings)
@example(pieces=[b"abc", b"d"], stops=["bcd", "c"])
def test_cuts_do_not_change_the_text_where_stop_strings_contain_each_other(
    pieces: list[bytes], stops: list[str]
) -> None:
    whole = b"".join(pieces)
    assert run(pieces, stops) == run([whole], stops)


@given(pieces=cut(dirty_bytes), stops=stop_strings)
def test_the_text_never_contains_a_stop_string(pieces: list[bytes], stops: list[str]) -> None:
    text, _ = run(pieces, stops)
    assert not any(string in text for string in stops)


# --- nothing comes too early or too late ------------------------------------------------------------------------------


@given(pieces=cut(dirty_bytes), stops=flat_stops)
def test_only_what_may_become_a_stop_string_is_held_back(pieces: list[bytes], stops: list[str]) -> None:
    text = StopFilter(stops)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    out = seen = ""
    for piece in pieces:
        out += text.feed(piece)
        seen += decoder.decode(piece)
        if text.stopped is not None:
            return
        beginnings = [string[:size] for string in stops for size in range(len(string))]
        held = max((len(start) for start in beginnings if seen.endswith(start)), default=0)
        assert out == seen[: len(seen) - held]


def test_text_that_cannot_become_a_stop_string_is_given_at_once() -> None:
    text = StopFilter(["</s>"])
    assert text.feed(b"Hello") == "Hello"
    assert text.feed(b" <") == " "
    assert text.feed(b"/") == ""
    assert text.feed(b"b>") == "</b>"
    assert text.stopped is None


def test_a_beginning_that_did_not_become_a_stop_string_is_given_in_the_end() -> None:
    text = StopFilter(["STOP"])
    assert text.feed(b"do not ST") == "do not "
    assert text.finish() == "ST"
    assert text.stopped is None


def test_a_stop_string_may_begin_inside_a_failed_beginning() -> None:
    assert run([b"aa", b"a", b"b", b"c"], ["aab"]) == ("a", "aab")


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_a_stop_string_is_found_across_four_tokens() -> None:
    text = StopFilter(["\n\nUser:"])
    assert [text.feed(piece) for piece in (b"Hi.\n", b"\nUs", b"er", b": more")] == ["Hi.", "", "", ""]
    assert text.stopped == "\n\nUser:"
    assert text.finish() == ""


def test_the_stop_string_that_begins_first_wins_in_whatever_order_they_are_given() -> None:
    assert run([b"one two three"], ["three", "two"]) == ("one ", "two")
    assert run([b"one two three"], ["two", "three"]) == ("one ", "two")


@given(pieces=cut(dirty_bytes))
def test_after_a_stop_string_everything_is_ignored(pieces: list[bytes]) -> None:
    text = StopFilter(["."])
    assert text.feed(b"yes.no") == "yes"
    assert [text.feed(piece) for piece in pieces] == [""] * len(pieces)
    assert (text.finish(), text.stopped) == ("", ".")


def test_an_empty_stop_string_stops_nothing() -> None:
    assert run([b"text"], ["", "x"]) == ("te", "x")
    assert run([b"text"], [""]) == ("text", None)


def test_a_text_may_be_nothing_but_a_stop_string() -> None:
    assert run([b"e", b"nd"], ["end"]) == ("", "end")


# --- UTF-8 ------------------------------------------------------------------------------------------------------------


def test_a_character_comes_with_its_last_byte() -> None:
    text = StopFilter()
    assert [text.feed(bytes([byte])) for byte in "é€😀".encode()] == ["", "é", "", "", "€", "", "", "", "😀"]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"\xff"], "�"),
        ([b"a\x80b"], "a�b"),
        ([b"\xf0\x9f", b"x"], "�x"),
        ([b"\xed\xa0\x80"], "���"),
        ([b"ok\xe2\x82"], "ok�"),
    ],
)
def test_bytes_that_are_no_utf_8_become_replacement_characters(pieces: list[bytes], expected: str) -> None:
    assert run(pieces, ()) == (expected, None)


def test_a_stop_string_of_several_bytes_is_found_where_a_token_cuts_a_character() -> None:
    head, tail = "weiß €".encode()[:-1], "€".encode()[-1:]
    assert run([head, tail, b"!"], ["€!"]) == ("weiß ", "€!")
