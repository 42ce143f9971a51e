"""What a dialect writes, it reads: any call, in any pieces, as text and as special tokens."""

import json
import re
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4trio.chat.dialects import HERMES, Dialect, DialectReader
from ds4trio.chat.dialects.rows import (
    FUNCTIONARY,
    GEMMA4,
    HARMONY,
    KIMI_K3,
    LFM2,
    LLAMA4,
    MINIMAX_M3,
    MUSE,
    PHI4_MINI,
    SOLAR,
)
from ds4trio.chat.events import OutputEvent
from ds4trio.chat.messages import Tool
from tests.chat.dialects.answers import Answer, cut, cuts, gather
from tests.chat.dialects.write import write_call

QWEN3_CODER = Dialect(
    codec="tagged",
    think_start="<think>",
    think_ends=("</think>",),
    call_begin="<tool_call>\n",
    head="<function={name}>\n",
    key_begin="<parameter=",
    key_end=">\n",
    value_end="\n</parameter>\n",
    tail="</function>\n",
    call_end="</tool_call>",
)
GLM = Dialect(
    codec="tagged",
    call_begin="<tool_call>",
    head="{name}",
    key_begin="<arg_key>",
    key_end="</arg_key>",
    value_begin="<arg_value>",
    value_end="</arg_value>",
    call_end="</tool_call>",
)
DSML = Dialect(
    codec="tagged",
    section_begin="<|DSML|calls>\n",
    head='<|DSML|invoke name="{name}">\n',
    key_begin='<|DSML|parameter name="',
    key_end='" string="{hint}">',
    value_end="</|DSML|parameter>\n",
    tail="</|DSML|invoke>\n",
    section_end="</|DSML|calls>",
    hints=("true", "false"),
)
MINICPM = Dialect(
    codec="tagged",
    head='<function name="{name}">',
    key_begin='<param name="',
    key_end='">',
    value_end="</param>",
    tail="</function>",
    cdata=True,
)
KIMI_K2 = Dialect(
    codec="named",
    section_begin="<|calls_begin|>",
    call_begin="<|call_begin|>",
    head="functions.{name}:{index}<|argument_begin|>",
    call_end="<|call_end|>",
    section_end="<|calls_end|>",
)
MISTRAL = Dialect(codec="named", call_begin="[TOOL_CALLS]", head="{name}[CALL_ID]{id}[ARGS]")
DEEPSEEK = Dialect(
    codec="named",
    section_begin="<|calls_begin|>",
    call_begin="<|call_begin|>",
    head="function<|sep|>{name}\n```json\n",
    tail="\n```",
    call_end="<|call_end|>",
    section_end="<|calls_end|>",
)
COHERE = Dialect(
    codec="json",
    section_begin="<|START_ACTION|>[\n    ",
    section_end="\n]<|END_ACTION|>",
    name_key="tool_name",
    args_key="parameters",
    id_key="tool_call_id",
)
APERTUS = Dialect(codec="json", section_begin="<|tools_prefix|>[", section_end="]<|tools_suffix|>", name_is_key=True)
LLAMA3 = Dialect(codec="json", bare=True, args_key="parameters", openers=("<|python_tag|>",))

ROWS = {
    "hermes": HERMES,
    "cohere": COHERE,
    "apertus": APERTUS,
    "llama3": LLAMA3,
    "phi4-mini": PHI4_MINI,
    "kimi-k2": KIMI_K2,
    "mistral": MISTRAL,
    "deepseek": DEEPSEEK,
    "functionary": FUNCTIONARY,
    "solar": SOLAR,
    "qwen3-coder": QWEN3_CODER,
    "glm": GLM,
    "dsml": DSML,
    "minicpm": MINICPM,
    "kimi-k3": KIMI_K3,
    "muse": MUSE,
    "minimax-m3": MINIMAX_M3,
    "gemma4": GEMMA4,
    "lfm2": LFM2,
    "llama4": LLAMA4,
    "harmony": HARMONY,
}
PROMPT_END = {"harmony": "<|start|>assistant"}

text = st.text(st.characters(exclude_categories=["Cs", "Co"]))
keys = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True).filter(lambda key: key not in ("item", "invoke"))
scalars = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(keys, inner, min_size=1, max_size=3),
    max_leaves=8,
)
arguments = st.dictionaries(keys, values, max_size=4)


def schema(value: object) -> dict[str, object]:
    """The JSON schema of exactly such a value; a list has the schema of its first item."""
    match value:
        case bool():
            return {"type": "boolean"}
        case int() | float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array", "items": schema(value[0])}
        case Mapping():
            return {"type": "object", "properties": {key: schema(item) for key, item in value.items()}}
    raise TypeError(value)


def uniform(value: object) -> bool:
    """Whether the lists of a value hold one type each, so that a schema can tell it whole."""
    if isinstance(value, list):
        return all(schema(item) == schema(value[0]) and uniform(item) for item in value)
    return all(map(uniform, value.values())) if isinstance(value, dict) else True


def fed(dialect: Dialect, raw: str, sizes: list[int], tool: Tool, prompt_end: str, *, special: bool) -> Answer:
    """Read ``raw`` in pieces; with ``special`` everything in it that looks like a special token is one."""
    pattern = re.compile(r"<\|[^<>]*\|?>|<[a-z_]+\|>|\[[A-Z_]+\]|\]<\]minimax\[>\[" if special else "(?!)")
    tokens = set(pattern.findall("".join(dialect.markers)))
    reader = DialectReader(dialect, tools=[tool], prompt_end=prompt_end, special_tokens=tokens)
    events: list[OutputEvent] = []
    start = 0
    for match in [*pattern.finditer(raw), None]:
        for piece in cut(raw[start : match.start() if match else len(raw)], sizes):
            events += reader.feed(piece)
        if match:
            events += reader.feed(match.group(), special=match.group() in tokens)
            start = match.end()
    return gather([*events, *reader.finish()])


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("family", ROWS)
@settings(max_examples=25)
@given(arguments=arguments, sizes=cuts)
def test_round_trip(family: str, special: bool, arguments: dict[str, object], sizes: list[int]) -> None:
    if family == "minimax-m3" and not uniform(arguments):
        return  # only the schema tells a string from a number there
    dialect = ROWS[family]
    raw = write_call(dialect, "run_it", arguments)
    if "</" in json.dumps(arguments) or "<|" in json.dumps(arguments):
        return  # end markers inside values are another test's matter
    tool = Tool("run_it", parameters=schema(arguments))
    answer = fed(dialect, raw, sizes, tool, PROMPT_END.get(family, ""), special=special)
    assert answer.parsed == ("", "", [("run_it", arguments)])
