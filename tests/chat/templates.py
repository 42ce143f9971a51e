"""The chat templates of real models, as llama.cpp keeps them for its own tests.

They are no part of this repository: the first call fetches the source distribution of the llama-cpp-python that is
installed (77 MB, some seconds), keeps the templates of it in the temporary directory and throws the rest away. Tests
that call this need a package index or that directory, so they are marked slow.
"""

import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

__all__ = ["llama_cpp_templates"]

_FOLDER = "/vendor/llama.cpp/models/templates/"


@cache
def llama_cpp_templates() -> dict[str, str]:
    """Jinja sources by file name. Raises `subprocess.CalledProcessError` where the archive cannot be fetched."""
    folder = Path(tempfile.gettempdir()) / f"ds4trio-templates-{version('llama-cpp-python')}"
    if not folder.is_dir():
        _fetch(folder)
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        download = Path(scratch) / "download"
        requirement = f"llama-cpp-python=={version('llama-cpp-python')}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps"]
        subprocess.run([*pip, requirement, "-d", str(download)], check=True)
        templates = Path(scratch) / "templates"
        templates.mkdir()
        with tarfile.open(next(download.glob("*.tar.gz"))) as archive:
            for member in archive:
                if _FOLDER in member.name and member.name.endswith(".jinja"):
                    source = archive.extractfile(member)
                    assert source is not None
                    (templates / Path(member.name).name).write_bytes(source.read())
        try:
            templates.rename(folder)
        except OSError:  # another test process was quicker
            if not folder.is_dir():
                raise
