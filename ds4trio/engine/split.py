"""Models that were split over several files, which say so in their names: ``qwen-00001-of-00003.gguf``.

llama.cpp is given the first part and finds the others beside it by these names. Nothing here opens a file.
"""

import re
from pathlib import Path

__all__ = ["model_name", "model_parts"]

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def model_parts(path: Path) -> list[Path]:
    """The files of the model that ``path`` is a part of, the first one first; ``path`` alone where it was not split."""
    if not (match := PART.fullmatch(path.name)) or not 0 < int(match[2]) <= int(match[3]):
        return [path]
    return [path.with_name(f"{match[1]}-{number:05}-of-{match[3]}.gguf") for number in range(1, int(match[3]) + 1)]


def model_name(path: Path) -> str:
    """What a model is called: its file's name without the ending and without the number of the part."""
    match = PART.fullmatch(path.name)
    return match[1] if match else path.stem
