"""Which files of a repository make a model. Knows names only: no network, no disk."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from ds4trio.engine.split import model_parts

__all__ = ["HubError", "choose_files"]

# Quantizations by what most want of them, where none was asked for: small, and hardly worse than the original.
PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "MXFP4", "Q5_K_M", "Q6_K", "Q8_0")
# What else is kept in GGUF files: the eyes of a model that sees, and what a quantization was made with.
OTHER = re.compile(r"mmproj|imatrix", re.IGNORECASE)
# Files that an error names.
MOST_NAMED = 20


class HubError(Exception):
    """A model does not come from the Hub; the message says why and what to do."""


def choose_files(repo: str, files: Collection[str], wanted: str) -> list[str]:
    """The files in ``repo`` that hold the model, the one to open first.

    ``wanted`` is the path of one of them, or the name of a quantization as it stands in the files' names; empty: the
    usual one. Raises `HubError` where there is none such, or a part of it is missing.
    """
    models = [name for name in sorted(files) if name.endswith(".gguf") and not OTHER.search(name) and _is_first(name)]
    if wanted.endswith(".gguf"):
        first = wanted if wanted in files else None
    elif wanted:
        first = _quantized(models, wanted)
    else:
        first = next((name for tag in PREFERRED if (name := _quantized(models, tag))), next(iter(models), None))
    if first is None:
        has = ", ".join(models[:MOST_NAMED]) or "no GGUF file at all"
        raise HubError(f"{repo} has no {wanted or 'model in GGUF'}; it has {has}")
    parts = [str(part) for part in model_parts(Path(first))]
    if missing := [part for part in parts if part not in files]:
        raise HubError(f"{repo} has not all parts of {first}: {', '.join(missing[:MOST_NAMED])} missing")
    return parts


def _is_first(name: str) -> bool:
    return str(model_parts(Path(name))[0]) == name


def _quantized(models: Iterable[str], tag: str) -> str | None:
    """The plainest name that has the tag as a word of its own: Q4_K is neither in IQ4_K nor in Q4_K_M."""
    word = re.compile(rf"(?<![a-z0-9]){re.escape(tag)}(?![a-z0-9_])", re.IGNORECASE)
    return min((name for name in models if word.search(name)), key=lambda name: (len(name), name), default=None)
