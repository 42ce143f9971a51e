"""A block's file says again what was put into it; what damage does is in `test_faults`."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.cache.disk import Block, block_id, root_id
from ds4trio.cache.disk.block import TOKEN
from ds4trio.cache.disk.format import DamagedError, decode, encode, header_size

ROOT = root_id(b"model")


@given(
    tokens=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=300),
    start=st.integers(0, 2**40),
    whole=st.booleans(),
    payload=st.binary(max_size=300),
    model=st.text(max_size=200),
    words=st.text(max_size=300),
)
def test_a_header_says_again_what_was_put_into_it(
    tokens: list[int], start: int, whole: bool, payload: bytes, *, model: str, words: str
) -> None:
    own = array(TOKEN, tokens)
    start = 0 if whole else start
    parent = ROOT if start == 0 else bytes(16)
    block = Block(
        id=block_id(parent, own, whole=whole), parent=parent, start=start, tokens=own, whole=whole, seconds=0.5
    )
    head = encode(block, payload, root=ROOT, created=123.5, model=model, words=words)
    file = head + payload
    assert header_size(file[:8192], len(file)) == len(head)
    header = decode(head, len(file), root=ROOT, id=block.id)
    again = header.block
    assert (again.id, again.parent, again.start, again.tokens) == (block.id, block.parent, block.start, block.tokens)
    assert (again.whole, again.seconds, again.size, header.created) == (whole, 0.5, len(file), 123.5)
    assert model.encode(errors="replace").decode().startswith(header.model)
    assert words.encode(errors="replace").decode().startswith(header.words)
    assert header.words or not words
    header.verify(payload)
    with pytest.raises(DamagedError):
        header.verify(payload + b"x")


@given(a=st.lists(st.integers(0, 3), max_size=4), b=st.lists(st.integers(0, 3), max_size=4), whole=st.booleans())
def test_an_id_stands_for_parent_kind_and_tokens(a: list[int], b: list[int], whole: bool) -> None:
    one = block_id(ROOT, array(TOKEN, a), whole=whole)
    assert (one == block_id(ROOT, array(TOKEN, b), whole=whole)) == (a == b)
    assert one != block_id(ROOT, array(TOKEN, b), whole=not whole)
    assert one != block_id(root_id(b"another model"), array(TOKEN, b), whole=whole)
