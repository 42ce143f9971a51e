"""What probing finds for the real templates, against an independent probe's findings and llama.cpp's marker names."""

import json
from pathlib import Path
from typing import Any

import pytest

from ds4trio.chat.dialects import HERMES, Dialect, derive
from ds4trio.chat.dialects.rows import HARMONY
from ds4trio.chat.template import ChatTemplate
from tests.chat.templates import llama_cpp_templates

FOUND: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "dialects.json").read_text(encoding="utf-8")
)
_OWN_ROW = "no probe sees this family whole: the row is written by hand"
_NO_WRAPPER = "its <response> stands around tool results, not around content"
BETTER = {
    "Kimi-K3.jinja": _OWN_ROW,
    "MiniMax-M3.jinja": _OWN_ROW,
    "muse-glimmer.jinja": _OWN_ROW,
    "meetkai-functionary-medium-v3.2.jinja": _OWN_ROW,
    "upstage-Solar-Open-100B.jinja": _OWN_ROW,
    "MiniMax-M2.jinja": _NO_WRAPPER,
}
"""Templates for which the row differs from `FOUND`, and why it is the better one."""


def found_facts(row: dict[str, Any]) -> dict[str, Any]:
    """What `FOUND` says of a template, brought to the terms that both have."""
    kind = {"none": "json", "bare_json": "json"}.get(row["kind"], row["kind"])
    begins = [row.get("sect_begin", ""), row.get("call_begin", ""), row.get("name_prefix", "")]
    if row["kind"] == "none":
        begins = [HERMES.call_begin]
    facts = {
        "kind": kind,
        "bare": row["kind"] == "bare_json",
        "think": (row.get("think_start", ""), *row.get("think_end", [])),
        "begin": "".join(begin.strip() for begin in begins),
        "wrappers": tuple(row.get("content_strip", ())),
    }
    if kind == "json" and not row.get("name_is_key"):
        facts["keys"] = (row["name_key"], row["args_key"])
    if kind == "tagged":
        facts["tags"] = tuple(row.get(field, "").strip() for field in ("key_begin", "key_end", "val_begin", "val_end"))
    return facts


def facts(row: Dialect) -> dict[str, Any]:
    before_name = row.head_parts[0] if row.codec == "tagged" or not row.call_begin + row.section_begin else ""
    known = {
        "kind": row.codec,
        "bare": row.bare,
        "think": tuple(marker.strip() for marker in (row.think_start, *row.think_ends)),
        "begin": "".join(begin.strip() for begin in (row.section_markers[0], row.call_begin, before_name)),
        # Those of Cohere and Solar are found in addition.
        "wrappers": tuple(wrapper for wrapper in row.wrappers if wrapper in ("<response>", "</response>")),
    }
    if row.codec in ("gemma4", "pythonic", "harmony"):
        known["begin"] = row.section_markers[0] + row.call_begin
    if row.codec == "json" and not row.name_is_key:
        known["keys"] = (row.name_key, row.args_key)
    if row.codec == "tagged":
        tags = (row.key_begin, row.key_end.replace("{hint}", "true"), row.value_begin, row.value_end)
        known["tags"] = tuple(tag.strip() for tag in tags)
    return known


@pytest.mark.slow
def test_against_another_probe() -> None:
    differing = {}
    for name, source in llama_cpp_templates().items():
        row = derive(ChatTemplate(source), source)
        if facts(row) != found_facts(FOUND[name]):
            differing[name] = (facts(row), found_facts(FOUND[name]))
    assert differing.keys() == BETTER.keys(), differing


@pytest.mark.slow
def test_rows_are_written_as_the_template_writes() -> None:
    source = llama_cpp_templates()["Qwen3.5-4B.jinja"]
    assert derive(ChatTemplate(source), source) == Dialect(
        codec="tagged",
        think_start="<think>",
        think_ends=("</think>",),
        separator="\n",
        call_begin="<tool_call>\n",
        head="<function={name}>\n",
        key_begin="<parameter=",
        key_end=">\n",
        value_end="\n</parameter>\n",
        tail="</function>\n",
        call_end="</tool_call>",
    )


def derived(source: str) -> Dialect:
    return derive(ChatTemplate(source), source)


def test_templates_without_calls_get_the_hermes_row() -> None:
    assert derived("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}") == HERMES
    thinking = derived("{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}<think>")
    assert (thinking.call_begin, thinking.think_start, thinking.think_ends) == (
        HERMES.call_begin,
        "<think>",
        ("</think>",),
    )


@pytest.mark.parametrize("source", ["{{ raise_exception('no') }}", "{{ 1 / 0 }}", "", "{{ messages[7].x.y }}"])
def test_never_raises(source: str) -> None:
    assert derived(source) == HERMES


def test_known_by_a_text_of_the_source() -> None:
    assert derived("{{ '<|channel|>analysis<|message|>' }}") == HARMONY


def test_special_markers() -> None:
    row = derived("{{ '<|open|>' }}")
    assert row.special_markers(["<|open|>", "<|sep|>", "<|im_end|>", "call", "think", "\n", "<"]) == {
        "<|open|>",
        "<|sep|>",
    }
