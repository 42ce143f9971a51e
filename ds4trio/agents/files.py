"""Puts a configuration into a file that somebody may have already: JSON, TOML or YAML.

Everything that was there stays there, comments too where the format has them; a value of ours takes the place of
another one of the same name. What comes out is read once more and compared, so a library's slip is an error and never
a lost setting.
"""

import copy
import difflib
import io
import json
import re
import shutil
import stat
import tempfile
import tomllib
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, count
from pathlib import Path
from typing import Any

__all__ = ["Change", "UnmergeableError", "dump", "merged", "plan"]

LINE_END = re.compile(r"\r?\n")
INDENT = re.compile(r'^([ \t]+)"', re.MULTILINE)
BY_HAND = "enter by hand what the command prints without --write"
PRIVATE = 0o600
"""The mode of a new file: there may be a key in it."""
OTHERS = 0o077
"""What a mode allows anybody but the owner."""


class UnmergeableError(Exception):
    """A file cannot take a configuration; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Change:
    """A file as it is (``before`` is None where there is none) and as it is going to be.

    ``exposed`` says that others may read or write it as it is, and that a key is going to be in it: they lose that.
    """

    path: Path
    before: str | None
    after: str
    exposed: bool = False

    @property
    def diff(self) -> str:
        """In the unified form, empty where nothing changes."""
        before = (self.before or "").splitlines(keepends=True)
        lines = difflib.unified_diff(before, self.after.splitlines(keepends=True), str(self.path), str(self.path))
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)

    def write(self) -> Path | None:
        """Write the file in one piece; the path of the backup of what was there, if anything was.

        Blocks. Raises ``OSError``, or `UnmergeableError` where the file is not what it was.
        """
        path = self.path.resolve()  # a link to a collection of such files stays one
        path.parent.mkdir(parents=True, exist_ok=True)
        if _read(path) != self.before:
            raise UnmergeableError(f"{self.path} has changed in the meantime; try again")
        if self.before is None:
            backup, mode = None, PRIVATE
        else:
            mode = stat.S_IMODE(path.stat().st_mode) & ~(OTHERS if self.exposed else 0)
            if self.after == self.before:
                path.chmod(mode)
                return None
            backup = next(name for name in _backups(path) if not name.exists())
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=path.parent, delete=False) as file:
            new = Path(file.name)
            try:
                file.write(self.after)
                file.close()
                new.chmod(mode)
                if backup is not None:
                    shutil.copy2(path, backup)
                    backup.chmod(mode)
                new.replace(path)
            except BaseException:
                new.unlink()
                raise
        return backup


def plan(path: Path, ours: Mapping[str, Any], *, key: str = "") -> Change:
    """What writing ``ours``, which may hold ``key``, into a file would change.

    Blocks. Raises `UnmergeableError`, ``OSError``.
    """
    before = _read(path)
    exposed = before is not None and bool(key) and _holds(ours, key) and bool(path.stat().st_mode & OTHERS)
    try:
        return Change(path, before, merged(before or "", ours, path.suffix), exposed)
    except UnmergeableError as error:
        raise UnmergeableError(f"{path}: {error}") from None


def _holds(values: object, key: str) -> bool:
    if isinstance(values, Mapping):
        return any(_holds(value, key) for value in values.values())
    return values == key


def dump(ours: Mapping[str, Any], name: str) -> str:
    """A file of that name with nothing in it but ``ours``. Raises `UnmergeableError` where a library is missing."""
    return merged("", ours, Path(name).suffix)


def merged(text: str, ours: Mapping[str, Any], suffix: str) -> str:
    """``text`` with ``ours`` in it, in the format of ``suffix``. Raises `UnmergeableError`."""
    load, write = FORMATS[suffix]
    try:
        there = load(text) if text.strip() else None
        wanted = {} if there is None else copy.deepcopy(there)
        if not isinstance(wanted, dict):
            raise UnmergeableError(f"it holds no table of settings; {BY_HAND}")
        _merge(wanted, ours)
        if there == wanted:
            return text
        after = write(text, ours)
        if text.count("\r\n") == text.count("\n") > 0:  # new lines end as all the others do
            after = LINE_END.sub("\r\n", after)
        if load(after) != wanted:
            raise UnmergeableError(f"settings would be lost in it; {BY_HAND}")
        after.encode()
    except UnmergeableError:
        raise
    except ImportError as error:
        raise UnmergeableError(f"{error.name} is needed for it: pip install 'ds4trio[agents]'") from None
    except Exception as error:  # each library has errors of its own
        raise UnmergeableError(f"it cannot be read ({' '.join(str(error).split())}); {BY_HAND}") from None
    return after


def _merge(document: MutableMapping[str, Any], ours: Mapping[str, Any]) -> None:
    for key, value in ours.items():
        there = document.get(key)
        if isinstance(value, Mapping) and key in document:
            if not isinstance(there, MutableMapping):
                raise UnmergeableError(f"{key!r} is no table of settings in it; {BY_HAND}")
            _merge(there, value)
        elif isinstance(value, list) and isinstance(there, list):
            _merge_list(there, value)
        elif isinstance(there, MutableMapping | list):
            raise UnmergeableError(f"{key!r} holds settings of its own in it; {BY_HAND}")
        elif key not in document or there != value:
            document[key] = value


def _merge_list(document: list[Any], ours: list[Mapping[str, Any]]) -> None:
    """Lists here are of things with an ``id``: the one with the same is changed, others stay."""
    for value in ours:
        same = next((one for one in document if isinstance(one, MutableMapping) and one.get("id") == value["id"]), None)
        if same is None:
            document.append(value)
        else:
            _merge(same, value)


def _load_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_float=_exact, parse_constant=_no_number)
    except ValueError as error:
        # What keeps comments in JSON is kept by nobody, so a file with comments is left alone.
        raise UnmergeableError(f"it is no plain JSON ({error}); {BY_HAND}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnmergeableError(f"it has a name twice in one table, and one of both would be lost; {BY_HAND}")
    return found


def _exact(text: str) -> float:
    number = float(text)
    if Decimal(repr(number)) != Decimal(text):
        raise UnmergeableError(f"the number {text} would change in it; {BY_HAND}")
    return number


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number there")


def _write_json(text: str, ours: Mapping[str, Any]) -> str:
    document = json.loads(text) if text.strip() else {}
    _merge(document, ours)
    found = INDENT.search(text)
    return json.dumps(document, indent=found[1] if found else 2, ensure_ascii=text.isascii()) + "\n"


def _write_toml(text: str, ours: Mapping[str, Any]) -> str:
    import tomlkit  # noqa: PLC0415 - an extra

    document = tomlkit.parse(text)
    _merge(document, ours)
    return tomlkit.dumps(document)


def _load_yaml(text: str) -> Any:
    from ruamel.yaml import YAML  # noqa: PLC0415 - an extra

    return YAML(typ="safe", pure=True).load(text)


def _write_yaml(text: str, ours: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML  # noqa: PLC0415 - an extra

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # lines stay as long as they are
    document = yaml.load(text)
    out = io.StringIO()
    if document is None:  # nothing, or comments only
        out.write(text if not text or text.endswith("\n") else f"{text}\n")
        document = {}
    _merge(document, ours)
    yaml.dump(document, out)
    return out.getvalue()


Load = Callable[[str], Any]
Write = Callable[[str, Mapping[str, Any]], str]
FORMATS: Mapping[str, tuple[Load, Write]] = {
    ".json": (_load_json, _write_json),
    ".toml": (tomllib.loads, _write_toml),
    ".yml": (_load_yaml, _write_yaml),
}


def _read(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise UnmergeableError(f"{path} is not UTF-8; {BY_HAND}") from None


def _backups(path: Path) -> "chain[Path]":
    first = path.with_name(f"{path.name}.bak")
    return chain([first], (path.with_name(f"{path.name}.bak{number}") for number in count(2)))
