"""The tokenizer endpoints as bytes: bounds of the requests, shapes of the answers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.api.errors import InvalidRequestError
from ds4trio.api.tokens import (
    DetokenizeRequest,
    TokenizeRequest,
    detokenize_document,
    parse_detokenize,
    parse_tokenize,
    template_document,
    tokenize_document,
)


def test_a_text_is_tokenized_with_llama_server_s_defaults() -> None:
    assert parse_tokenize(b'{"content": "hi"}') == TokenizeRequest(
        "hi", add_special=False, parse_special=True, with_pieces=False
    )


def test_how_to_read_the_text_can_be_said() -> None:
    request = b'{"content": "", "add_special": true, "parse_special": false, "with_pieces": true, "unknown": 1}'
    assert parse_tokenize(request) == TokenizeRequest("", add_special=True, parse_special=False, with_pieces=True)


@pytest.mark.parametrize(
    ("request_body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b'{"content": "\\ud800"}', "invalid_json", None),
        (b"{}", "missing_required_parameter", None),
        (b"[]", "invalid_type", None),
        (b'{"content": 1}', "invalid_type", "$.content"),
        (b'{"content": ["hi"]}', "invalid_type", "$.content"),
        (b'{"content": "hi", "add_special": "yes"}', "invalid_type", "$.add_special"),
    ],
)
def test_a_bad_request_to_tokenize_is_refused_with_its_path(request_body: bytes, code: str, param: str | None) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_tokenize(request_body)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize("tokens", [[], [0], [0, 5, 2**31 - 1]])
def test_token_ids_are_read(tokens: list[int]) -> None:
    assert parse_detokenize(json.dumps({"tokens": tokens}).encode()) == DetokenizeRequest(tokens)


@pytest.mark.parametrize(
    ("request_body", "param"),
    [
        (b"{}", None),
        (b'{"tokens": null}', "$.tokens"),
        (b'{"tokens": "1"}', "$.tokens"),
        (b'{"tokens": [1, -1]}', "$.tokens[1]"),
        (b'{"tokens": [2147483648]}', "$.tokens[0]"),
        (b'{"tokens": [1.5]}', "$.tokens[0]"),
        (b'{"tokens": ["a"]}', "$.tokens[0]"),
    ],
)
def test_what_are_no_token_ids_is_refused_with_its_path(request_body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_detokenize(request_body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("request_body", "code"),
    [
        (b"{}", "missing_required_parameter"),
        (b'{"tokens": ["a"]}', "invalid_type"),
        (b'{"tokens": [-1]}', "invalid_value"),
        (b'{"tokens": [2147483648]}', "invalid_value"),
    ],
)
def test_the_code_says_what_is_wrong(request_body: bytes, code: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_detokenize(request_body)
    assert caught.value.code == code


def test_tokens_are_ids_or_ids_with_their_pieces() -> None:
    assert json.loads(tokenize_document([7, 8], None)) == {"tokens": [7, 8]}
    assert json.loads(tokenize_document([], [])) == {"tokens": []}
    # Half a character is no text: llama-server sends its bytes.
    assert json.loads(tokenize_document([7, 8, 9], [b" a", "é".encode(), b"\xc3"])) == {
        "tokens": [{"id": 7, "piece": " a"}, {"id": 8, "piece": "é"}, {"id": 9, "piece": [0xC3]}]
    }


@given(pieces=st.lists(st.binary(max_size=4)))
def test_pieces_keep_every_byte(pieces: list[bytes]) -> None:
    document = json.loads(tokenize_document(range(len(pieces)), pieces))
    told = [token["piece"] for token in document["tokens"]]
    assert [bytes(piece) if isinstance(piece, list) else piece.encode() for piece in told] == pieces
    assert [token["id"] for token in document["tokens"]] == list(range(len(pieces)))


@given(text=st.text(), cut=st.integers(0, 8))
def test_the_text_of_tokens_is_whole_although_they_cut_characters(text: str, cut: int) -> None:
    data = text.encode()
    assert json.loads(detokenize_document([data[:cut], data[cut:]])) == {"content": text}


def test_the_text_of_half_a_character_says_that_something_is_missing() -> None:
    assert json.loads(detokenize_document([b"a", b"\xc3"])) == {"content": "a\ufffd"}


def test_a_rendered_prompt_is_a_document() -> None:
    assert json.loads(template_document("<|im_start|>user\né")) == {"prompt": "<|im_start|>user\né"}
