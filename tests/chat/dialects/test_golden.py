"""Raw answers of 38 model families, read by the row that probing finds for their real templates."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from ds4trio.chat.dialects import HERMES, Dialect, derive
from ds4trio.chat.dialects.rows import PHI4_MINI
from ds4trio.chat.messages import Tool
from ds4trio.chat.template import ChatTemplate
from tests.chat.dialects.answers import cut, cuts, read
from tests.chat.templates import llama_cpp_templates

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[2] / "data"
CASES: list[dict[str, Any]] = [json.loads(line) for line in (DATA / "tool_calls.jsonl").read_text().splitlines()]
TOOLS = [
    Tool(tool["function"]["name"], parameters=tool["function"]["parameters"])
    for tool in json.loads((DATA / "tools.json").read_text())
]
WITHOUT_TEMPLATE = {
    "granite3.3": replace(HERMES, openers=("<|tool_call|>",)),
    "gemma3": HERMES,
    "phi-4-mini": PHI4_MINI,
    "phi-4-reasoning": replace(HERMES, think_start="<think>", think_ends=("</think>",)),
}
MISSES: dict[str, str] = {}
"""Cases that are not read as expected, and why."""


@cache
def row(family: str, template: str | None) -> Dialect:
    if template is None:
        return WITHOUT_TEMPLATE[family]
    source = llama_cpp_templates()[template]
    return derive(ChatTemplate(source), source)


def is_right(case: dict[str, Any], pieces: str | list[str]) -> bool:
    answer = read(
        row(case["family"], case["template_file"]),
        pieces,
        tools=TOOLS,
        prompt_end=case.get("generation_prompt", ""),
    )
    calls = [(call["name"], call["arguments"]) for call in case["tool_calls"]]
    return answer.parsed == (case["content"].strip(), case["reasoning"].strip(), calls)


def test_whole() -> None:
    assert {case["id"] for case in CASES if not is_right(case, case["raw"])} == MISSES.keys()
    assert len(MISSES) <= 0.03 * len(CASES)


@settings(max_examples=20)
@given(sizes=cuts)
def test_in_pieces(sizes: list[int]) -> None:
    assert {case["id"] for case in CASES if not is_right(case, cut(case["raw"], sizes))} == MISSES.keys()
