"""Values in the notations of JSON, Python and Gemma 4 become the same values in JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.chat.dialects.cursor import Cursor
from ds4trio.chat.dialects.literals import JSON, PYTHON, Notation, literal, transcribed
from tests.chat.dialects.answers import cut, cuts

text = st.text(st.characters(exclude_categories=["Cs", "Co"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
NOTATIONS = (JSON, PYTHON, Notation(('<"', '"'), bare=True))
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=12)


def in_pieces(source: str, notation: Notation, sizes: list[int]) -> str:
    cursor = Cursor()
    pieces: list[str] = []
    reader = literal(cursor, notation, pieces.append, payload=lambda _: None)
    try:
        for piece in cut(source, sizes):
            cursor.push(piece)
            next(reader)
        cursor.closed = True
        next(reader)
    except StopIteration as stop:
        return "".join(pieces) if stop.value else ""
    return ""


@given(value=values, sizes=cuts, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_json(value: object, sizes: list[int], ascii_only: bool, indent: int | None) -> None:
    source = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert json.loads(in_pieces(source, JSON, sizes)) == value
    assert json.loads(transcribed(source, JSON) or "") == value


@given(value=values, sizes=cuts)
def test_python(value: object, sizes: list[int]) -> None:
    assert json.loads(in_pieces(repr(value), PYTHON, sizes)) == value


@given(noise=st.text(st.sampled_from("{}[]()\"'\\,:=ux0aN1-.e \n<é")), sizes=cuts)
def test_noise_is_refused_or_becomes_json(noise: str, sizes: list[int]) -> None:
    for notation in NOTATIONS:
        if (found := transcribed(noise, notation)) is not None:
            json.loads(found)
            assert json.loads(in_pieces(noise, notation, sizes)) == json.loads(found)


digits = st.sampled_from(["+123", "1_23", " 123", "١٢٣٤", "12", "00e9", "D83D", "dE00", "0000d800", "00110000", ""])
escapes = st.builds("\\{}{}".format, st.sampled_from("uUxq\\n"), digits)


@given(parts=st.lists(escapes | digits | st.sampled_from(["\\", "é", "'", "😀"])), sizes=cuts)
def test_broken_escapes_become_text_that_can_be_encoded(parts: list[str], sizes: list[int]) -> None:
    noise = f'["{"".join(parts)}"]'
    for notation in NOTATIONS:
        found = in_pieces(noise, notation, sizes)
        assert found == (transcribed(noise, notation) or "")
        if found:
            json.dumps(json.loads(found), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (r'"\u+123"', "\\u+123"),
        (r'"\u12"', "\\u12"),
        (r'"\ud83d\ude00"', "😀"),
        (r'"\ud83d!"', "\ufffd!"),
        (r'"\ud83d\u0041"', "\ufffdA"),
        (r'"\ud83d\ud83d\ude00"', "\ufffd😀"),
        (r'"\ud83d\u"', "\ufffd\\u"),
        (r'"\ude00\ud83d"', "\ufffd\ufffd"),
        (r'"\U0000d800\U00110000\U0001f600"', "\ufffd\\U00110000😀"),
    ],
)
def test_escapes_that_give_a_number(source: str, value: str) -> None:
    assert json.loads(transcribed(source, JSON) or "") == value


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ('{"a": [1, 2,], }', {"a": [1, 2]}),
        ('{"a": "two\nlines\tand \\q"}', {"a": "two\nlines\tand \\q"}),
        ('{"a": True, "b": None}', {"a": True, "b": None}),
        (r'"it\'s"', "it's"),
        ("[+1, .5, 1., 007, 1٢]", [1.0, 0.5, 1.0, 7.0, 12.0]),
    ],
)
def test_what_models_do_wrong_is_forgiven(source: str, value: object) -> None:
    assert json.loads(transcribed(source, JSON) or "") == value


@pytest.mark.parametrize(
    "source", ["", "{", '{"a" 1}', "{a: 1}", "[1 2]", '"open', "NaN", "9" * 5000, "1 2", "{]", "[1}"]
)
def test_what_is_no_value_is_refused(source: str) -> None:
    assert transcribed(source, JSON) is None


def test_depth_costs_nothing() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert transcribed(deep, JSON) == deep
