"""Which files of a repository are the model."""

import pytest

from ds4trio.hub.files import HubError, choose_files

REPO = "org/Small-GGUF"
SPLIT = [f"Q8_0/Small-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
FILES = [
    "README.md",
    "Small-BF16.gguf",
    "Small-IQ4_XS.gguf",
    "Small-Q4_K_M.gguf",
    "Small-Q4_K_S.gguf",
    "Small-UD-Q4_K_M.gguf",
    "imatrix.gguf",
    "mmproj-F16.gguf",
    *reversed(SPLIT),
]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("", ["Small-Q4_K_M.gguf"]),
        ("Q4_K_M", ["Small-Q4_K_M.gguf"]),
        ("q4_k_m", ["Small-Q4_K_M.gguf"]),
        ("UD-Q4_K_M", ["Small-UD-Q4_K_M.gguf"]),
        ("Q8_0", SPLIT),
        ("Small-BF16.gguf", ["Small-BF16.gguf"]),
        ("mmproj-F16.gguf", ["mmproj-F16.gguf"]),
        (SPLIT[0], SPLIT),
        (SPLIT[2], SPLIT),
    ],
)
def test_a_model_is_found_by_nothing_by_its_quantization_or_by_any_of_its_files(wanted: str, chosen: list[str]) -> None:
    assert choose_files(REPO, FILES, wanted) == chosen


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["a-F16.gguf", "a-Q8_0.gguf"], "a-Q8_0.gguf"),
        (["a-F16.gguf", "a-Q8_0.gguf", "a.Q4_0.gguf"], "a.Q4_0.gguf"),
        (["gpt-oss-mxfp4.gguf", "gpt-oss-F16.gguf"], "gpt-oss-mxfp4.gguf"),
        (["b.gguf", "a.gguf", "mmproj.gguf"], "a.gguf"),
    ],
)
def test_where_nothing_is_asked_for_it_is_what_most_want(files: list[str], chosen: str) -> None:
    assert choose_files(REPO, files, "") == [chosen]


@pytest.mark.parametrize("wanted", ["Q4_K", "Q2_K", "other.gguf"])
def test_what_is_not_there_is_answered_with_what_is(wanted: str) -> None:
    with pytest.raises(HubError, match=f"{REPO} has no {wanted}; it has Q8_0/Small-Q8_0-00001") as caught:
        choose_files(REPO, FILES, wanted)
    assert "mmproj" not in str(caught.value)


def test_a_repository_without_a_model_says_so() -> None:
    with pytest.raises(HubError, match="no GGUF file at all"):
        choose_files(REPO, ["README.md", "mmproj.gguf", "model.safetensors"], "")


def test_a_part_that_is_missing_is_named() -> None:
    with pytest.raises(HubError, match=r"00002-of-00003\.gguf missing"):
        choose_files(REPO, [SPLIT[0], SPLIT[2]], "Q8_0")
