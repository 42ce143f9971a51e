"""The stop filter: however the text is cut into tokens, what comes out is the same, and it comes as early as it can."""

from collections.abc import Iterable, Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from ds4trio.engine.text import Piece, StopFilter

LETTERS = "abé😀"
MARKERS = ("<a>", "<ab>", "b")

stop_strings = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3)
plain = st.lists(st.text(LETTERS, max_size=4).map(Piece), max_size=12)
# Stop strings that contain markers, spell them in part, or have nothing to do with them.
marked_stops = st.lists(st.text("ab<>", min_size=1, max_size=6), max_size=3)
marked = st.lists(
    st.one_of(
        st.text("ab<>", max_size=3).map(Piece),
        st.sampled_from(MARKERS).map(lambda marker: Piece(marker, special=True)),
    ),
    max_size=12,
)


def without_nesting(stops: Sequence[str]) -> list[str]:
    """The stop strings that contain none of the others: of these, the first to begin is the first to end."""
    return [
        string
        for index, string in enumerate(stops)
        if string not in stops[:index] and not any(other != string and other in string for other in stops)
    ]


def run(pieces: Iterable[Piece], stops: Sequence[str]) -> tuple[list[Piece], str | None]:
    text = StopFilter(stops)
    out = [final for piece in pieces for final in text.feed(piece.text, special=piece.special)]
    return out + text.finish(), text.stopped


def joined(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def pieces(*texts: str) -> list[Piece]:
    return [Piece(text) for text in texts]


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """Text without the cuts; markers stay apart."""
    out: list[Piece] = []
    for piece in pieces:
        if out and not piece.special and not out[-1].special:
            out[-1] = Piece(out[-1].text + piece.text)
        elif piece.text:
            out.append(piece)
    return out


def letters(pieces: Iterable[Piece]) -> list[Piece]:
    """Text cut after each character; markers are units."""
    return [part for piece in pieces for part in ([piece] if piece.special else [Piece(each) for each in piece.text])]


def first_stop(whole: Sequence[Piece], stops: Sequence[str]) -> tuple[int, str] | None:
    """The place and name of the first stop string that begins and ends between units."""
    units = letters(whole)
    hits = []
    for start in range(len(units)):
        for end in range(start + 1, len(units) + 1):
            if (string := joined(units[start:end])) in stops:
                hits.append((start, string))
    return min(hits, default=None)


# --- the text does not depend on the cuts -----------------------------------------------------------------------------


@given(pieces=marked)
def test_without_stop_strings_everything_passes_at_once(pieces: list[Piece]) -> None:
    text = StopFilter()
    for piece in pieces:
        assert text.feed(piece.text, special=piece.special) == ([piece] if piece.text else [])
    assert (text.finish(), text.stopped) == ([], None)


@given(pieces=marked, stops=marked_stops.map(without_nesting))
def test_the_text_ends_before_the_first_stop_string_and_no_marker_is_cut(pieces: list[Piece], stops: list[str]) -> None:
    hit = first_stop(pieces, stops)
    expected = (pieces, None) if hit is None else (letters(pieces)[: hit[0]], hit[1])
    out, stopped = run(pieces, stops)
    assert (merged(out), stopped) == (merged(expected[0]), expected[1])


@given(pieces=marked, stops=marked_stops)
@example(pieces=[Piece("abc"), Piece("d")], stops=["bcd", "c"])
def test_cuts_do_not_change_the_text_where_stop_strings_contain_each_other(
    pieces: list[Piece], stops: list[str]
) -> None:
    finer, whole = run(letters(pieces), stops), run(merged(pieces), stops)
    assert (merged(finer[0]), finer[1]) == (merged(whole[0]), whole[1])


@given(pieces=plain, stops=stop_strings)
def test_the_text_never_contains_a_stop_string(pieces: list[Piece], stops: list[str]) -> None:
    out, _ = run(pieces, stops)
    assert not any(string in joined(out) for string in stops)


# --- nothing comes too early or too late ------------------------------------------------------------------------------


@given(pieces=plain, stops=stop_strings.map(without_nesting))
def test_only_what_may_become_a_stop_string_is_held_back(pieces: list[Piece], stops: list[str]) -> None:
    text = StopFilter(stops)
    out = seen = ""
    for piece in pieces:
        out += joined(text.feed(piece.text))
        seen += piece.text
        if text.stopped is not None:
            return
        beginnings = [string[:size] for string in stops for size in range(len(string))]
        held = max((len(start) for start in beginnings if seen.endswith(start)), default=0)
        assert out == seen[: len(seen) - held]


def test_text_that_cannot_become_a_stop_string_is_given_at_once() -> None:
    text = StopFilter(["</s>"])
    assert text.feed("Hello") == pieces("Hello")
    assert text.feed(" <") == pieces(" ")
    assert text.feed("/") == []
    assert text.feed("b>") == pieces("</b>")
    assert text.stopped is None


def test_a_beginning_that_did_not_become_a_stop_string_is_given_in_the_end() -> None:
    text = StopFilter(["STOP"])
    assert text.feed("do not ST") == pieces("do not ")
    assert text.finish() == pieces("ST")
    assert text.stopped is None


def test_a_stop_string_may_begin_inside_a_failed_beginning() -> None:
    assert run(pieces("aa", "a", "b", "c"), ["aab"]) == (pieces("a"), "aab")


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_a_stop_string_is_found_across_four_tokens() -> None:
    text = StopFilter(["\n\nUser:"])
    assert [text.feed(token) for token in ("Hi.\n", "\nUs", "er", ": more")] == [pieces("Hi."), [], [], []]
    assert text.stopped == "\n\nUser:"
    assert text.finish() == []


def test_the_stop_string_that_begins_first_wins_in_whatever_order_they_are_given() -> None:
    assert run(pieces("one two three"), ["three", "two"]) == (pieces("one "), "two")
    assert run(pieces("one two three"), ["two", "three"]) == (pieces("one "), "two")


@given(rest=marked)
def test_after_a_stop_string_everything_is_ignored(rest: list[Piece]) -> None:
    text = StopFilter(["."])
    assert text.feed("yes.no") == pieces("yes")
    assert [text.feed(piece.text, special=piece.special) for piece in rest] == [[]] * len(rest)
    assert (text.finish(), text.stopped) == ([], ".")


def test_an_empty_stop_string_stops_nothing() -> None:
    assert run(pieces("text"), ["", "x"]) == (pieces("te"), "x")
    assert run(pieces("text"), [""]) == (pieces("text"), None)


def test_a_text_may_be_nothing_but_a_stop_string() -> None:
    assert run(pieces("e", "nd"), ["end"]) == ([], "end")


# --- markers ----------------------------------------------------------------------------------------------------------

CALL = Piece("<call>", special=True)


def test_a_marker_ends_a_beginning_that_it_does_not_continue() -> None:
    text = StopFilter(["STOP"])
    assert text.feed("a ST") == pieces("a ")
    assert text.feed("<call>", special=True) == [*pieces("ST"), CALL]
    assert text.feed("OP") == pieces("OP")


def test_a_stop_string_may_be_or_contain_a_marker() -> None:
    assert run([*pieces("a"), CALL, *pieces("b")], ["<call>"]) == (pieces("a"), "<call>")
    assert run([*pieces("a", "b"), CALL, *pieces("c", "d")], ["b<call>c"]) == (pieces("a"), "b<call>c")
    assert run([*pieces("a", "b"), CALL, *pieces("d")], ["b<call>c"]) == ([*pieces("a", "b"), CALL, *pieces("d")], None)


def test_a_stop_string_does_not_begin_or_end_inside_a_marker() -> None:
    whole = [*pieces("a"), CALL, *pieces("b")]
    assert run(whole, ["a<", "call", "l>b", "<call"]) == (whole, None)
    assert run(pieces("a<call>b"), ["call"]) == (pieces("a<"), "call")
