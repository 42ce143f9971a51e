"""The rules by which an answer is read, on rows written here."""

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4trio.chat.dialects import HERMES, Dialect, DialectReader
from ds4trio.chat.dialects.rows import FUNCTIONARY, GEMMA4, HARMONY, KIMI_K3, LFM2, LLAMA4, MINIMAX_M3, MUSE, SOLAR
from ds4trio.chat.events import ContentDelta, OutputEvent, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from ds4trio.chat.messages import Tool
from tests.chat.dialects.answers import Answer, cut, cuts, gather, read
from tests.chat.dialects.test_round_trip import DEEPSEEK, DSML, GLM, KIMI_K2, LLAMA3, MISTRAL, QWEN3_CODER

QWEN3 = replace(HERMES, think_start="<think>", think_ends=("</think>",))
CITY = Tool(
    "weather",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"type": ["string", "null"]},
            "where": {"$ref": "#/$defs/place"},
        },
        "$defs": {"place": {"anyOf": [{"type": "object"}, {"enum": ["here", "there"]}]}},
    },
)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
CALLED = (("weather", '{"city": "Oslo"}'),)


def hear(reader: DialectReader, *pieces: str | tuple[str]) -> list[OutputEvent]:
    """Feed pieces; those in a tuple are special tokens."""
    events: list[OutputEvent] = []
    for piece in pieces:
        events += reader.feed(piece) if isinstance(piece, str) else reader.feed(piece[0], special=True)
    return events


def test_arguments_are_streamed_as_they_come() -> None:
    reader = DialectReader(HERMES, tools=[CITY], prompt_end="")
    assert hear(reader, 'Hi <b>\n<tool_call>\n{"name": "weather", ') == [ContentDelta("Hi <b>")]
    assert hear(reader, '"arguments": {"ci') == [ToolCallStart(0, "weather"), ToolCallDelta(0, '{"ci')]
    assert hear(reader, 'ty": "Os') == [ToolCallDelta(0, 'ty": "Os')]
    assert hear(reader, 'lo"}}\n</tool_') == [ToolCallDelta(0, 'lo"}'), ToolCallEnd(0)]
    assert hear(reader, "call>\n") == []
    assert reader.finish() == []


def test_tagged_strings_are_streamed_escaped() -> None:
    reader = DialectReader(QWEN3_CODER, tools=[CITY], prompt_end="")
    hear(reader, "<tool_call>\n<function=weather>\n<parameter=city>\n")
    assert hear(reader, 'a "b"\n') == [ToolCallDelta(0, 'a \\"b\\"')]
    assert hear(reader, "c") == [ToolCallDelta(0, "\\nc")]
    assert hear(reader, "\n</parameter>\n</function>\n</tool_call>") == [ToolCallDelta(0, '"}'), ToolCallEnd(0)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("<parameter=days>\n3\n</parameter>\n", {"days": 3}),
        ("<parameter=days>\nmany\n</parameter>\n", {"days": "many"}),
        ("<parameter=city>\n3\n</parameter>\n", {"city": "3"}),
        ("<parameter=unit>\nnull\n</parameter>\n", {"unit": None}),
        ("<parameter=unit>\nnullable\n</parameter>\n", {"unit": "nullable"}),
        ("<parameter=where>\nhere\n</parameter>\n", {"where": "here"}),
        ("<parameter=other>\n{'a': True}\n</parameter>\n", {"other": {"a": True}}),
        ("<parameter=other>\nplain words\n</parameter>\n", {"other": "plain words"}),
        ("<parameter=city>\n</parameter> is text\n</parameter>\n", {"city": "</parameter> is text"}),
        ("<parameter=city>\n\n x \n\n</parameter>\n", {"city": "\n x \n"}),
        ("<parameter=city>\nno end tag\n", {"city": "no end tag"}),
        ("<parameter=city>\na\n</parameter>\n<parameter=city>\nb\n</parameter>\n", {"city": "a"}),
        ("", {}),
    ],
)
def test_tagged_values(value: str, expected: object) -> None:
    raw = f"<tool_call>\n<function=weather>\n{value}</function>\n</tool_call>"
    assert read(QWEN3_CODER, raw, tools=[CITY]).parsed == ("", "", [("weather", expected)])


def test_the_prompt_may_open_the_reasoning() -> None:
    assert read(QWEN3, "I see.\n</think>\n\nHi.", prompt_end="x<think>\n") == Answer("Hi.", "I see.")
    assert read(QWEN3, "\n\nHi.", prompt_end="<think>\n\n</think>\n\n") == Answer("Hi.")
    assert read(QWEN3, "\n<think>a</think>b") == Answer("b", "a")
    reader = DialectReader(QWEN3, tools=[], prompt_end="<think>")
    assert reader.reasoning
    hear(reader, "x</think>")
    assert not reader.reasoning


def test_the_prompt_may_open_a_call() -> None:
    assert read(FUNCTIONARY, 'weather\n{"city": "Oslo"}', tools=[CITY], prompt_end=">>>") == Answer(calls=CALLED)
    raw = 'all\nHi.>>>weather\n{"city": "Oslo"}'
    assert read(FUNCTIONARY, raw, tools=[CITY], prompt_end=">>>") == Answer("Hi.", calls=CALLED)


def test_white_space_between_texts_stays() -> None:
    assert read(HERMES, f"a\n\n{CALL}\nb\n", tools=[CITY]) == Answer("a\n\n\nb\n", calls=CALLED)
    assert read(HERMES, f"\n{CALL}\n\n{CALL}\n", tools=[CITY]) == Answer(calls=CALLED * 2)
    assert read(HERMES, "  plain \n") == Answer("  plain \n")


def test_white_space_of_content_waits_only_where_a_call_may_follow() -> None:
    assert hear(DialectReader(HERMES, tools=[], prompt_end=""), "a.", "\n", "\n") == [
        *(ContentDelta("a."), ContentDelta("\n"), ContentDelta("\n"))
    ]
    assert hear(DialectReader(HERMES, tools=[CITY], prompt_end=""), "a.", "\n", "\n") == [ContentDelta("a.")]


@pytest.mark.parametrize(
    "text",
    [
        "a < b and <tool is no marker",
        "Write <tool_call> and then JSON.",
        '<tool_call>{"what": 1}</tool_call>',
        '<tool_call>\n{"name": 3}',
        "<tool_call>[1, 2]</tool_call> is a list",
        "in text <think> begins nothing, nor does </think> end it",
    ],
)
def test_what_is_no_call_is_content(text: str) -> None:
    assert read(QWEN3, f"See: {text} .", tools=[CITY]) == Answer(f"See: {text} .")


def test_within_reasoning_only_known_tools_are_called() -> None:
    unknown = CALL.replace("weather", "nothing")
    raw = f"Use <tool_call> or {unknown} so {CALL}"
    answer = read(QWEN3, raw, tools=[CITY], prompt_end="<think>")
    assert answer == Answer(reasoning=f"Use <tool_call> or {unknown} so", calls=CALLED)


def test_without_tools_nothing_is_called() -> None:
    assert read(HERMES, f"See {CALL}.") == Answer(f"See {CALL}.")
    reader = DialectReader(HERMES, tools=[], prompt_end="", special_tokens=["<tool_call>", "</tool_call>"])
    events = hear(reader, "See ", ("<tool_call>",), " this ", ("</tool_call>",), ".")
    assert gather([*events, *reader.finish()]) == Answer("See  this .")


def test_a_special_token_counts_only_as_such() -> None:
    tokens = ["<tool_call>", "</tool_call>", "<think>", "</think>", "<|im_end|>", "\n\n"]
    reader = DialectReader(QWEN3, tools=[CITY], prompt_end="<think>\n", special_tokens=tokens)
    body = '\n{"name": "weather", "arguments": {"city": "Oslo"}}\n'
    events = hear(reader, f"spelled {CALL} </think>", ("</think>",), "\n\n", ("<|im_end|>",))
    events += hear(reader, ("<tool_call>",), body, ("</tool_call>",), "\n\n", ("<tool_call>",), "not one")
    answer = gather([*events, *reader.finish()])
    assert answer == Answer("<tool_call>not one", f"spelled {CALL} </think>", CALLED)


def test_special_tokens_within_arguments_are_spelled_out() -> None:
    reader = DialectReader(QWEN3, tools=[CITY], prompt_end="", special_tokens=['<|"|>', "<think>", "<tool_call>"])
    events = hear(reader, ("<tool_call>",), '{"name": "weather", "arguments": {"city": "', ("<think>",), '"}}')
    assert gather([*events, *reader.finish()]) == Answer(calls=(("weather", '{"city": "<think>"}'),))


def test_private_use_characters_of_the_model_are_no_markers() -> None:
    reader = DialectReader(QWEN3, tools=[], prompt_end="", special_tokens=["<think>"])
    assert gather([*reader.feed("a\U0010f000b\ue000"), *reader.finish()]) == Answer("a\ufffdb\ue000")


@pytest.mark.parametrize(
    ("raw", "arguments"),
    [
        ('{"arguments": {"city": "Oslo"}, "name": "weather"}', '{"city": "Oslo"}'),
        ('{"id": "1", "name": "weather", "arguments": {"city": "Oslo"}, "x": [{}]}', '{"city": "Oslo"}'),
        ('{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}', '{"city": "Oslo"}'),
        ('{"name": "weather", "parameters": {}}', "{}"),
        ('{"name": "weather"}', "{}"),
        ('{"name": "weather", "arguments": null}', "{}"),
        ('{"name": "weather", "arguments": {"city": "Oslo"}', '{"city": "Oslo"}'),
        ('{"name": "weather", "arguments": {"city": "Oslo"}}}', '{"city": "Oslo"}'),
        ('{"name": "weather", "arguments": {"city": Oslo}}', '{"city": Oslo}}\n'),
    ],
)
def test_json_calls_in_other_shapes(raw: str, arguments: str) -> None:
    answer = read(HERMES, f"<tool_call>\n{raw}\n</tool_call>ok", tools=[CITY])
    assert answer == Answer("ok", calls=(("weather", arguments),))


@pytest.mark.parametrize(
    ("raw", "arguments"),
    [
        (r'{"name": "weather", "arguments": {"city": "\ud800 \ud83d\ude00"}}', '{"city": "\ufffd \\ud83d\\ude00"}'),
        (r'{"arguments": {"city": "\udfff"}, "name": "weather"}', '{"city": "\ufffd"}'),
        (r'{"name": "weather", "arguments": "{\"city\": \"\\ud800\"}"}', '{"city": "\ufffd"}'),
        (r'{"name": "weather", "arguments": "{\"city\": \"\ud800\"}"}', '{"city": "\ufffd"}'),
        (r'{"name": "weather", "arguments": "\u+123"}', "{}"),
        (r'{"name": "weather", "\u+123": 1, "arguments": {"city": "\u٢٣٢٣"}}', '{"city": "\\\\u٢٣٢٣"}'),
    ],
)
def test_escapes_in_json_calls(raw: str, arguments: str) -> None:
    answer = read(HERMES, f"<tool_call>\n{raw}\n</tool_call>", tools=[CITY])
    assert answer == Answer(calls=(("weather", arguments),))


def test_a_name_with_a_broken_escape_is_none() -> None:
    for name in (r"\u+123", r"\u", r"\ud800"):
        raw = f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>'
        assert read(HERMES, raw, tools=[CITY]) == Answer(raw)


APERTUS_NAMES = replace(HERMES, name_is_key=True)


@pytest.mark.parametrize(
    ("dialect", "raw", "arguments", "complete"),
    [
        (HERMES, CALL, '{"city": "Oslo"}', True),
        (HERMES, CALL.partition("}")[0], '{"city": "Oslo"', False),
        (HERMES, CALL.partition("}")[0] + "}", '{"city": "Oslo"}', True),
        (HERMES, CALL.replace('"Oslo"', "Oslo"), '{"city": Oslo}}\n', False),
        (APERTUS_NAMES, '<tool_call>{"weather": 5}</tool_call>', "{}", True),
        (APERTUS_NAMES, '<tool_call>{"weather": {"city": ', '{"city": ', False),
        (LFM2, "<|tool_call_start|>[weather(city='Oslo'", '{"city":"Oslo"', False),
        (LFM2, "<|tool_call_start|>[weather(Oslo)]<|tool_call_end|>", '{"Oslo")]', False),
        (HARMONY, "<|channel|>commentary to=functions.weather<|message|><|call|>", "{}", True),
        (HARMONY, "<|channel|>commentary to=functions.weather<|message|>", "", False),
        (HARMONY, "<|channel|>commentary to=functions.weather<|message|>[1]<|call|>", "[1]", False),
        (HARMONY, '<|channel|>commentary to=functions.weather<|message|>{"city": 1}', '{"city": 1}', True),
        (QWEN3_CODER, "<tool_call>\n<function=weather>\n<parameter=city>\nO\n", '{"city": "O\\n', False),
        (QWEN3_CODER, "<tool_call>\n<function=weather>\n<parameter=city>\nO\n</parameter>", '{"city": "O"', False),
        (MINIMAX_M3, ']<]minimax[>[<invoke name="weather">]<]minimax[>[<city>O', '{"city": "O', False),
    ],
)
def test_a_call_is_complete_if_its_arguments_are_an_object(
    dialect: Dialect, raw: str, arguments: str, complete: bool
) -> None:
    reader = DialectReader(dialect, tools=[CITY], prompt_end="<|start|>assistant")
    events = [*reader.feed(raw), *reader.finish()]
    assert gather(events) == Answer(calls=(("weather", arguments),))
    assert [event for event in events if isinstance(event, ToolCallEnd)] == [ToolCallEnd(0, complete=complete)]


def test_arguments_before_the_name_cost_little_a_piece() -> None:
    raw = '<tool_call>\n{"arguments": {"city": "' + "x" * 200_000
    reader = DialectReader(HERMES, tools=[CITY], prompt_end="")
    pieces = cut(raw, [4])
    start = time.perf_counter()
    for piece in pieces:
        reader.feed(piece)
    # 5 µs here; a reader that copies what it has to remember takes 20 µs at this length and ever more beyond.
    assert (time.perf_counter() - start) / len(pieces) < 100e-6


def test_bare_calls() -> None:
    call = '{"name": "weather", "parameters": {"city": "Oslo"}}'
    assert read(LLAMA3, f" {call}; {call}", tools=[CITY]) == Answer(calls=CALLED * 2)
    assert read(LLAMA3, f"Hi <|python_tag|>{call}", tools=[CITY]) == Answer("Hi", calls=CALLED)
    for text in ('{"name": "Ada", "parameters": {}}', '{"title": 1}', f"So: {call}", "[1]", "{"):
        assert read(LLAMA3, text, tools=[CITY]) == Answer(text)
    called = (("weather", '{"city":"Oslo"}'),)
    assert read(LLAMA4, "[weather(city='Oslo'), weather(city=\"Oslo\")]", tools=[CITY]) == Answer(calls=called * 2)
    assert read(LLAMA4, "[1, 2]", tools=[CITY]) == Answer("[1, 2]")


@pytest.mark.parametrize(
    ("dialect", "raw", "answer"),
    [
        (HERMES, CALL.partition('"Oslo')[0], Answer(calls=(("weather", '{"city": '),))),
        (HERMES, CALL[:30], Answer()),
        (HERMES, "So <tool_ca", Answer("So <tool_ca")),
        (QWEN3_CODER, "<tool_call>\n<function=weather>\n<parameter=ci", Answer(calls=(("weather", "{"),))),
        (
            QWEN3_CODER,
            "<tool_call>\n<function=weather>\n<parameter=city>\nO",
            Answer(calls=(("weather", '{"city": "O'),)),
        ),
        (HARMONY, "<|channel|>final<|message|>Hi<|end|><|start|>assist", Answer("Hi")),
    ],
)
def test_cut_off(dialect: Dialect, raw: str, answer: Answer) -> None:
    assert read(dialect, raw, tools=[CITY], prompt_end="<|start|>assistant") == answer


def test_harmony_without_a_header_is_content() -> None:
    assert read(HARMONY, "Hello, world", prompt_end="<|start|>assistant") == Answer("Hello, world")


def test_where_sampling_is_greedy() -> None:
    reader = DialectReader(QWEN3_CODER, tools=[CITY], prompt_end="<think>")
    seen = []
    for piece in (
        *("hm", "</think>", "So", "\n<tool", "_call>\n", "<function=wea", "ther>\n", "<parameter=city>", "\nOs", "lo"),
        *("\n</para", "meter>\n", "</function>", "\n</tool_call>", "\nDone"),
    ):
        hear(reader, piece)
        seen.append(reader.structural)
    text, structure, value = False, True, False
    assert seen == [
        *(text, text, text, structure, structure, structure, structure, value, value, value),
        *(structure, structure, structure, text, text),
    ]


MARKERS = sorted(
    {
        marker
        for row in (QWEN3, QWEN3_CODER, GLM, DSML, KIMI_K2, KIMI_K3, MISTRAL, DEEPSEEK, GEMMA4, LFM2, LLAMA3, SOLAR)
        for marker in row.markers
    }
    | HARMONY.markers
)
WORDS = [*'{}[]():="\n', ", ", '{"name": "weather", "arguments": {', "weather", "city", "weather(city=", "functions."]
ROWS = [
    *(HERMES, QWEN3, QWEN3_CODER, GLM, DSML, KIMI_K2, KIMI_K3, MISTRAL, DEEPSEEK, GEMMA4, LFM2, LLAMA3, LLAMA4),
    *(FUNCTIONARY, SOLAR, MUSE, MINIMAX_M3, HARMONY),
]


@given(
    dialect=st.sampled_from(ROWS),
    pieces=st.lists(st.integers(0, 20) | st.sampled_from([*MARKERS, *WORDS]) | st.text(max_size=4), max_size=12),
    prompt_end=st.sampled_from(["", "<think>\n", "<|start|>assistant", ">>>"]),
    tools=st.sampled_from([[], [CITY]]),
    sizes=cuts,
)
def test_anything_is_read_the_same_in_any_pieces(
    dialect: Dialect, pieces: Sequence[str | int], prompt_end: str, tools: list[Tool], sizes: list[int]
) -> None:
    markers = sorted(dialect.markers)
    raw = "".join(piece if isinstance(piece, str) else markers[piece % len(markers)] for piece in pieces)
    whole = read(dialect, raw, tools=tools, prompt_end=prompt_end)
    assert read(dialect, cut(raw, sizes), tools=tools, prompt_end=prompt_end) == whole
    assert tools or not whole.calls


harmless = st.characters(exclude_categories=["Cs", "Co"], exclude_characters="<{[>t\n")


@settings(max_examples=30)
@given(text=st.text(harmless, min_size=1), sizes=cuts)
def test_plain_text_is_content(text: str, sizes: list[int]) -> None:
    for dialect in ROWS:
        answer = read(dialect, cut(text, sizes), tools=[CITY])
        assert answer == Answer(text), dialect


@pytest.mark.parametrize("dialect", [HERMES, QWEN3_CODER], ids=["json", "tagged"])
def test_long_arguments_cost_little_a_piece(dialect: Dialect) -> None:
    code = 'print("x" < 3)\n' * 7000
    raw = {
        "json": '<tool_call>\n{"name": "weather", "arguments": {"city": "'
        + code.replace('"', '\\"').replace("\n", "\\n"),
        "tagged": f"<tool_call>\n<function=weather>\n<parameter=city>\n{code}",
    }[dialect.codec]
    reader = DialectReader(dialect, tools=[CITY], prompt_end="")
    pieces = cut(raw, [4])
    start = time.perf_counter()
    for piece in pieces:
        reader.feed(piece)
    # 6 µs here; a reader that scans again what it holds takes milliseconds at this length.
    assert (time.perf_counter() - start) / len(pieces) < 100e-6


def test_deep_arguments_do_not_overflow() -> None:
    deep = '{"city": ' + "[" * 50_000 + "]" * 50_000 + "}"
    answer = read(HERMES, f'<tool_call>\n{{"name": "weather", "arguments": {deep}}}\n</tool_call>', tools=[CITY])
    assert answer == Answer(calls=(("weather", deep),))


def test_events_are_merged() -> None:
    reader = DialectReader(QWEN3, tools=[CITY], prompt_end="<think>")
    events = hear(reader, f"a <b> <c></think>d <e>{CALL}")
    assert events == [
        ReasoningDelta("a <b> <c>"),
        ContentDelta("d <e>"),
        ToolCallStart(0, "weather"),
        ToolCallDelta(0, '{"city": "Oslo"}'),
        ToolCallEnd(0),
    ]
