"""What the reference says is what there is, where it is written by hand."""

import re
from pathlib import Path

from ds4trio.cli import main
from ds4trio.config import Settings
from ds4trio.server.app import build_app

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| `(GET|POST|DELETE) (/\S*)` \|", re.MULTILINE)


def test_all_endpoints_are_listed_and_no_others() -> None:
    rules = build_app(Settings(engine="simulated")).url_map.iter_rules()
    there = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert set(ROW.findall((DOCS / "reference" / "endpoints.md").read_text(encoding="utf-8"))) == there


def test_settings_and_flags_that_pages_name_exist() -> None:
    names = set(Settings.__struct_fields__)
    options = {
        option.removeprefix("--").replace("-", "_")
        for command in main.commands.values()
        for parameter in command.params
        for option in parameter.opts
    }
    for page in DOCS.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        flags = {flag.replace("-", "_") for flag in re.findall(r"`--([a-z][a-z-]+)[ `]", text)}
        flags |= {name.lower() for name in re.findall(r"\bDS4TRIO_([A-Z_]+)", text)}
        flags |= {
            flag.replace("-", "_")
            for line in text.splitlines()
            if "ds4trio serve" in line
            for flag in re.findall(r" --([a-z][a-z-]+)", line)
        }
        known = {*names, *(f"no_{name}" for name in names), "long", "install", "peer", "version"} | options
        assert flags <= known, (page.name, flags - known)


def test_files_that_pages_name_exist() -> None:
    missing = []
    for page in DOCS.rglob("*.md"):
        for path in re.findall(r"`((?:ds4trio|tests|benchmarks|docs|examples)/[\w./-]*)`", page.read_text("utf-8")):
            if "NAME" not in path and not (DOCS.parent / path).exists():
                missing.append((page.name, path))
    assert missing == []


def test_names_of_the_code_in_the_guides_exist() -> None:
    code = [path for folder in ("ds4trio", "tests", "benchmarks") for path in (DOCS.parent / folder).rglob("*.py")]
    words = {word for path in code for word in re.findall(r"\w+", path.read_text("utf-8"))}
    missing = [
        (page.name, name)
        for page in (*DOCS.glob("contributing/*.md"), *DOCS.glob("explanation/*.md"))
        for name in re.findall(r"`([A-Za-z_][\w.]*)(?:\(.*?\))?`", page.read_text("utf-8"))
        if name.rpartition(".")[2] not in words
    ]
    assert missing == []
