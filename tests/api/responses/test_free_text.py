"""The string inside of a custom tool's arguments, read in pieces."""

import json

from hypothesis import given
from hypothesis import strategies as st

from ds4trio.api.responses.free_text import FreeText
from tests.api.responses.scripts import fragments


@given(st.text(max_size=60), st.booleans(), st.data())
def test_pieces_join_to_the_text_wherever_the_json_is_cut(text: str, ascii_only: bool, data: st.DataObject) -> None:
    reader = FreeText()
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    pieces = [reader.feed(fragment) for fragment in data.draw(fragments(arguments))]
    assert "".join(pieces) + reader.finish() == text


@given(st.text(max_size=30), st.data())
def test_what_was_read_of_a_cut_string_is_its_beginning(text: str, data: st.DataObject) -> None:
    arguments = json.dumps({"input": text})
    reader = FreeText()
    read = "".join(
        reader.feed(fragment)
        for fragment in data.draw(fragments(arguments[: data.draw(st.integers(13, len(arguments)))]))
    )
    assert text.startswith(read)


def test_text_goes_out_at_once() -> None:
    reader = FreeText()
    assert [reader.feed(piece) for piece in ('{ "input" : "a', "b\\", "n\\u00", 'e9"', "}")] == [
        "a",
        "b",
        "\n",
        "é",
        "",
    ]


@given(st.text(max_size=20), st.sampled_from([r"\u+0AF", r"\d", r"\u 123"]), st.text(max_size=20), st.data())
def test_what_follows_a_bad_escape_is_not_lost(text: str, escape: str, rest: str, data: st.DataObject) -> None:
    reader = FreeText()
    arguments = json.dumps({"input": text}).removesuffix('"}') + escape + rest
    read = "".join(reader.feed(fragment) for fragment in data.draw(fragments(arguments)))
    assert read + reader.finish() == text + escape + rest


def test_another_shape_comes_out_as_it_is() -> None:
    reader = FreeText()
    assert reader.feed('{"patch": "x"}') == ""
    assert reader.finish() == '{"patch": "x"}'


def test_an_escaped_backslash_before_a_u_is_no_escape() -> None:
    reader = FreeText()
    assert reader.feed(r'{"input": "\\ud83d') == r"\ud83d"


def test_half_a_pair_of_surrogates_is_replaced() -> None:
    assert FreeText().feed(r'{"input": "a\ud83d b\ude00"') == "a\ufffd b\ufffd"
