"""Which files a split model has, and what it is called."""

from pathlib import Path

import pytest

from ds4trio.engine.split import model_name, model_parts

PARTS = [Path(f"/models/qwen-0000{number}-of-00003.gguf") for number in (1, 2, 3)]


@pytest.mark.parametrize("part", PARTS)
def test_any_part_stands_for_all_and_the_first_comes_first(part: Path) -> None:
    assert model_parts(part) == PARTS
    assert model_name(part) == "qwen"


@pytest.mark.parametrize(
    "name",
    ["qwen.gguf", "qwen-1-of-3.gguf", "qwen-00004-of-00003.gguf", "qwen-00000-of-00003.gguf", "a-00001-of-00001.bin"],
)
def test_a_file_that_is_no_part_stands_for_itself(name: str) -> None:
    assert model_parts(Path(name)) == [Path(name)]


@pytest.mark.parametrize(("name", "called"), [("qwen.Q4_K_M.gguf", "qwen.Q4_K_M"), ("a-00001-of-00001.gguf", "a")])
def test_a_model_is_called_by_its_file(name: str, called: str) -> None:
    assert model_name(Path(name)) == called
