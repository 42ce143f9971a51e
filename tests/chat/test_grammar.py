# ruff: noqa: RUF001 - DeepSeek's markers look like others
import dataclasses
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4trio.chat.dialects import HERMES, Dialect
from ds4trio.chat.dialects.rows import FUNCTIONARY, GEMMA4, HARMONY, KIMI_K3, LFM2, LLAMA4, MINIMAX_M3
from ds4trio.chat.grammar import UnenforceableError, grammar_for
from ds4trio.chat.grammar.schemas import Schema
from ds4trio.chat.messages import Conversation, OutputFormat, Tool, ToolChoice
from tests.chat.constraints import Vocabulary
from tests.chat.dialects.write import write_call

Reasoning = Literal["closed", "open", "may_begin"]

QWEN3 = dataclasses.replace(HERMES, think_start="<think>", think_ends=("</think>",))
QWEN3_CODER = Dialect(
    codec="tagged",
    separator="\n",
    call_begin="<tool_call>\n",
    call_end="</tool_call>",
    head="<function={name}>\n",
    tail="</function>\n",
    key_begin="<parameter=",
    key_end=">\n",
    value_end="\n</parameter>\n",
)
DEEPSEEK_V31 = Dialect(
    codec="named",
    think_start="<think>",
    think_ends=("</think>",),
    section_begin="<｜tool▁calls▁begin｜>",
    section_end="<｜tool▁calls▁end｜>",
    call_begin="<｜tool▁call▁begin｜>",
    call_end="<｜tool▁call▁end｜>",
    head="{name}<｜tool▁sep｜>",
)
DEEPSEEK_V4 = Dialect(
    codec="tagged",
    think_start="<think>",
    think_ends=("</think>",),
    section_begin="<｜DSML｜tool_calls>\n",
    section_end="</｜DSML｜tool_calls>",
    head='<｜DSML｜invoke name="{name}">\n',
    tail="</｜DSML｜invoke>\n",
    key_begin='<｜DSML｜parameter name="',
    key_end='" string="{hint}">',
    value_end="</｜DSML｜parameter>\n",
    hints=("true", "false"),
)
MISTRAL_NEMO = Dialect(
    codec="json", section_begin="[TOOL_CALLS][", section_end="]", separator=", ", id_key="id", name_key="name"
)
KIMI_K2 = Dialect(
    codec="named",
    section_begin="<|tool_calls_section_begin|>",
    section_end="<|tool_calls_section_end|>",
    call_begin="<|tool_call_begin|>",
    call_end="<|tool_call_end|>",
    head="functions.{name}:{index}<|tool_call_argument_begin|>",
)
LLAMA3 = Dialect(codec="json", separator="; ", bare=True, openers=("<|python_tag|>",), args_key="parameters")
MINICPM5 = Dialect(
    codec="tagged",
    separator="\n",
    head='<function name="{name}">',
    tail="</function>",
    key_begin='<param name="',
    key_end='">',
    value_end="</param>",
    cdata=True,
)
DIALECTS = {
    "hermes": HERMES,
    "qwen3": QWEN3,
    "qwen3-coder": QWEN3_CODER,
    "deepseek-v3.1": DEEPSEEK_V31,
    "deepseek-v4": DEEPSEEK_V4,
    "mistral-nemo": MISTRAL_NEMO,
    "kimi-k2": KIMI_K2,
    "kimi-k3": KIMI_K3,
    "llama-3": LLAMA3,
    "llama-4": LLAMA4,
    "lfm2": LFM2,
    "gemma-4": GEMMA4,
    "minimax-m3": MINIMAX_M3,
    "minicpm-5": MINICPM5,
    "gpt-oss": HARMONY,
}
every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)

READ = Tool(
    "read",
    parameters={
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "limit": {"type": "integer", "minimum": 1, "maximum": 99},
            "mode": {"type": "string", "enum": ["text", "bytes"]},
            "follow": {"type": "boolean"},
        },
        "required": ["path", "follow"],
        "additionalProperties": False,
    },
    strict=True,
)
READ_MANY = Tool(
    "read_many",
    parameters={
        "type": "object",
        "properties": {
            "paths": {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 2},
            "range": {
                "type": "object",
                "properties": {"unit": {"type": "string", "maxLength": 3}, "start": {"type": "number"}},
                "required": ["start"],
                "additionalProperties": False,
            },
            "as": {"type": "string", "minLength": 2, "maxLength": 5},
        },
        "required": ["paths"],
        "additionalProperties": False,
    },
    strict=True,
)
NOW = Tool("now", parameters={"type": "object", "properties": {}, "additionalProperties": False}, strict=True)
TOOLS = (READ, READ_MANY, NOW)


def obeys(name: str, arguments: str) -> bool:
    """Whether a call of one of `TOOLS` is what its schema says."""
    match name, json.loads(arguments):
        case "now", {**rest}:
            return not rest
        case "read", {"path": str(), "follow": bool(), **rest}:
            limit, mode = rest.pop("limit", 1), rest.pop("mode", "text")
            return isinstance(limit, int) and 1 <= limit <= 99 and mode in {"text", "bytes"} and not rest
        case "read_many", {"paths": [str(), *_] as paths, **rest}:
            match rest.pop("range", {"start": 0}), rest.pop("as", "json"):
                case {"start": int() | float(), **span}, str(kind):
                    unit = span.pop("unit", "")
                    texts = all(isinstance(path, str) and len(path) <= 4 for path in paths) and len(paths) <= 2
                    return (
                        texts
                        and isinstance(unit, str)
                        and len(unit) <= 3
                        and 2 <= len(kind) <= 5
                        and not (rest or span)
                    )
    return False


@cache
def vocabulary(dialect: Dialect, *, special: bool = True) -> Vocabulary:
    """One in which the dialect's tags are special tokens, or one that knows none."""
    if not special:
        return Vocabulary()
    if dialect.codec == "minimax_m3":
        return Vocabulary(["]<]minimax[>["])
    pattern = re.compile(r'<[^<>\s="]+>|\[[A-Z_]+\]|｜DSML｜|<\|"\|>')
    return Vocabulary({token for marker in dialect.markers for token in pattern.findall(marker)})


def conversation(*tools: Tool, choice: ToolChoice | str = "auto", **fields: Any) -> Conversation:
    if isinstance(choice, str):
        choice = ToolChoice(choice)  # type: ignore[arg-type]
    return Conversation(messages=(), tools=tools, tool_choice=choice, **fields)


def grammar(
    wanted: Conversation,
    dialect: Dialect = HERMES,
    *,
    special: bool = True,
    reasoning: Reasoning = "closed",
    prompt_end: str = "",
) -> str | None:
    tokens = vocabulary(dialect, special=special).special_tokens
    return grammar_for(wanted, dialect, special_tokens=tokens, reasoning=reasoning, prompt_end=prompt_end)


def hermes(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


LOOSE = dataclasses.replace(READ, strict=False)
SCHEMA_FORMAT = OutputFormat("schema", schema={"type": "object", "properties": {"a": {"type": "integer"}}})


class TestWhatIsDemanded:
    @pytest.mark.parametrize(
        "wanted",
        [
            conversation(),
            conversation(LOOSE),
            conversation(LOOSE, parallel_tool_calls=False),
            conversation(READ, choice="none"),
            conversation(LOOSE, NOW, choice=ToolChoice("none", ("read",))),
            conversation(LOOSE, choice=ToolChoice("auto", ("read",))),
        ],
    )
    def test_nothing(self, wanted: Conversation) -> None:
        assert grammar(wanted) is None

    @pytest.mark.parametrize("special", [True, False])
    def test_a_required_call_is_all_that_there_is(self, special: bool) -> None:
        words = vocabulary(HERMES, special=special)
        made = grammar(conversation(*TOOLS, choice="required"), special=special)
        call = hermes("read", '{"path": "a", "follow": true}')
        assert words.accepts(made, call)
        assert words.accepts(made, f"{call}\n{hermes('now', '{}')}")
        assert not words.accepts(made, "", complete=True)
        assert not words.accepts(made, f"Well. {call}", complete=False)
        assert not words.accepts(made, f"{call} Done.", complete=False)
        assert not words.accepts(made, hermes("write", "{}"), complete=False)
        assert not words.accepts(made, call.replace("<tool_call>\n", "<tool_call>  "), complete=False)

    def test_one_call_at_a_time(self) -> None:
        made = grammar(conversation(*TOOLS, choice="required", parallel_tool_calls=False))
        words = vocabulary(HERMES)
        assert words.accepts(made, hermes("now", "{}"))
        assert not words.accepts(made, hermes("now", "{}") + "\n", complete=False)

    @pytest.mark.parametrize("mode", ["required", "auto"])
    def test_only_named_tools(self, mode: Literal["required", "auto"]) -> None:
        made = grammar(conversation(LOOSE, NOW, choice=ToolChoice(mode, ("read",))))
        words = vocabulary(HERMES)
        assert words.accepts(made, hermes("read", '{"path": "", "follow": true}'))
        assert not words.accepts(made, hermes("now", "{}"), complete=False)

    @pytest.mark.parametrize("special", [True, False])
    def test_strict_tools_are_held_to_their_schema_where_calls_are_free(self, special: bool) -> None:
        words = vocabulary(HERMES, special=special)
        loose = dataclasses.replace(READ_MANY, strict=False)
        made = grammar(conversation(READ, loose), special=special)
        assert words.accepts(made, "No call at all, just {text}\n and < brackets >.")
        assert words.accepts(made, "First this. " + hermes("read", '{"path": "a", "follow": true}'))
        assert words.accepts(made, hermes("read_many", '{"anything": [1, null]}'))
        assert not words.accepts(made, "First. " + hermes("read", '{"path": 7'), complete=False)
        assert not words.accepts(made, hermes("read", '{"follow"'), complete=False)

    @pytest.mark.parametrize("format", [OutputFormat(), SCHEMA_FORMAT])
    @pytest.mark.parametrize("choice", ["required", "auto", "none"])
    def test_the_prompt_may_have_begun_it(self, choice: str, format: OutputFormat) -> None:
        wanted = conversation(NOW, choice=choice, output=format)
        made = grammar(wanted, FUNCTIONARY, prompt_end="assistant\n\n>>>")
        words = vocabulary(FUNCTIONARY)
        assert made is None or words.accepts(made, "now\n{}") == (choice != "none")
        assert made is None or words.accepts(made, 'all\n{"a": 1}') == (choice != "required")
        assert made is None or not words.accepts(made, ">>>", complete=False)
        assert (made is None) == (choice == "none" and format.kind == "text")

    def test_a_call_needs_a_tool(self) -> None:
        with pytest.raises(UnenforceableError) as caught:
            grammar(conversation(READ, choice=ToolChoice("required", ("write",))))
        assert caught.value.param == "tool_choice"

    def test_a_lenient_schema_is_obeyed_as_far_as_it_can_be(self) -> None:
        schema = {
            "type": "object",
            "properties": {"n": {"type": "integer"}, "l": {"type": "array", "uniqueItems": True}},
            "required": ["n"],
        }
        made = grammar(conversation(Tool("f", parameters=schema), choice="required"))
        words = vocabulary(HERMES)
        assert words.accepts(made, hermes("f", '{"n": 1, "l": [2, 2]}'))
        assert not words.accepts(made, hermes("f", '{"n": "'), complete=False)

    @every_dialect
    def test_a_lenient_schema_that_cannot_be_read_is_no_schema(self, dialect: Dialect) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "string", "pattern": "(?=a)b("}}}
        made = grammar(conversation(Tool("f", parameters=schema), NOW, choice="required"), dialect)
        assert vocabulary(dialect).accepts(made, write_call(dialect, "now", {}))


class TestReasoning:
    CALL = hermes("now", "{}")

    @pytest.mark.parametrize("special", [True, False])
    @pytest.mark.parametrize("prefix", ["", "<think>\nHm, {] </thin.\n</think>\n\n"])
    def test_it_may_begin(self, special: bool, prefix: str) -> None:
        made = grammar(conversation(NOW, choice="required"), QWEN3, special=special, reasoning="may_begin")
        assert vocabulary(QWEN3, special=special).accepts(made, prefix + self.CALL)

    @pytest.mark.parametrize("special", [True, False])
    def test_it_has_begun(self, special: bool) -> None:
        made = grammar(conversation(NOW, choice="required"), QWEN3, special=special, reasoning="open")
        words = vocabulary(QWEN3, special=special)
        assert words.accepts(made, f"Hm.\n</think>\n\n{self.CALL}")
        assert words.accepts(made, f"Hm.{self.CALL}")  # the reader takes that for a call
        assert not words.accepts(made, "Hm.\n</think>\n\nI will", complete=False)
        assert not words.accepts(made, "Hm.")
        assert not words.accepts(made, "</think>" + "\n" * 9, complete=False)

    @pytest.mark.parametrize("special", [True, False])
    def test_a_format_counts_after_it(self, special: bool) -> None:
        made = grammar(conversation(output=SCHEMA_FORMAT), QWEN3, special=special, reasoning="open")
        words = vocabulary(QWEN3, special=special)
        assert words.accepts(made, 'Is {"a": "b"} right? No.</think>\n{"a": 1}')
        assert not words.accepts(made, '</think>{"a": "', complete=False)

    @pytest.mark.parametrize("special", [True, False])
    def test_free_text_after_it_and_before_calls(self, special: bool) -> None:
        made = grammar(conversation(NOW), QWEN3, special=special, reasoning="may_begin")
        words = vocabulary(QWEN3, special=special)
        assert words.accepts(made, "<think>Hm.</think>\n\nYes.")
        assert words.accepts(made, f"<think>Hm.</think>\n\nYes. {self.CALL}")
        assert not words.accepts(made, f"<think>Hm.</think>\n\nYes. {self.CALL} No.", complete=False)

    def test_gpt_oss_reasons_in_a_message(self) -> None:
        made = grammar(conversation(NOW, choice="required"), HARMONY)
        words = vocabulary(HARMONY)
        thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
        assert words.accepts(made, thought + write_call(HARMONY, "now", {}))
        assert not words.accepts(made, thought + "<|channel|>final", complete=False)

    def test_gpt_oss_answers_in_a_format(self) -> None:
        made = grammar(conversation(NOW, output=SCHEMA_FORMAT), HARMONY)
        words = vocabulary(HARMONY)
        thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
        assert words.accepts(made, thought + '<|channel|>final<|message|>{"a": 1}')
        assert words.accepts(made, thought + write_call(HARMONY, "now", {}))
        assert not words.accepts(made, "<|channel|>final<|message|>Yes", complete=False)

    def test_gpt_oss_may_speak_before_a_call(self) -> None:
        made = grammar(conversation(NOW), HARMONY)
        words = vocabulary(HARMONY)
        preamble = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
        assert words.accepts(made, preamble + write_call(HARMONY, "now", {}))
        assert words.accepts(made, "<|channel|>final<|message|>It is late.")


class TestOutputFormats:
    @staticmethod
    def accepts(output: OutputFormat, text: str, *tools: Tool, **fields: Any) -> bool:
        complete = not text.endswith("…")
        made = grammar(conversation(*tools, output=output, **fields))
        return vocabulary(HERMES).accepts(made, text.removesuffix("…"), complete=complete)

    def test_json_is_an_object(self) -> None:
        assert self.accepts(OutputFormat("json"), '{"a": [1, {"b": null}]}')
        assert not self.accepts(OutputFormat("json"), "[…")
        assert not self.accepts(OutputFormat("json"), "Sure…")

    def test_it_may_be_indented_but_not_for_ever(self) -> None:
        value = {"a": [1, {"b": {"c": []}}], "d": "x"}
        for indent in (None, 2, 4, "\t"):
            assert self.accepts(OutputFormat("json"), json.dumps(value, indent=indent))
        assert self.accepts(OutputFormat("json"), json.dumps(value, separators=(",", ":")))
        for endless in ("\n\n\n\n", " " * 60, "\n" + " " * 60, "\n" + "\t" * 60, "\n \n \n"):
            assert not self.accepts(OutputFormat("json"), f"{{{endless}…")
            assert not self.accepts(OutputFormat("json"), f'{{"a":{endless}…')
            assert not self.accepts(OutputFormat("json"), f'{{"a": 1{endless}…')

    def test_calls_have_less_white_space(self) -> None:
        words = vocabulary(HERMES)
        made = grammar(conversation(NOW, Tool("f"), choice="required"))
        assert words.accepts(made, hermes("f", '{"a": [1,2], "b":{}}'))
        assert not words.accepts(made, hermes("f", '{ "a"'), complete=False)
        assert not words.accepts(made, hermes("f", '{"a":  '), complete=False)
        assert not words.accepts(made, hermes("f", '{"a": 1\n'), complete=False)

    def test_a_grammar_in_gbnf(self) -> None:
        output = OutputFormat("gbnf", grammar='root ::= ("yes" | "no") [ ]? [0-9]+')
        assert self.accepts(output, "yes 12")
        assert not self.accepts(output, "maybe…")

    def test_a_grammar_in_lark(self) -> None:
        output = OutputFormat("lark", grammar='start: "a" number\nnumber: /[0-9]+/')
        assert self.accepts(output, "a12")
        assert not self.accepts(output, "12…")

    @pytest.mark.parametrize(
        "output",
        [SCHEMA_FORMAT, OutputFormat("json"), OutputFormat("gbnf", grammar='root ::= "{" "\\"a\\": " [0-9] "}"')],
    )
    def test_an_answer_in_the_format_or_a_call(self, output: OutputFormat) -> None:
        assert self.accepts(output, '{"a": 1}', NOW)
        assert self.accepts(output, hermes("now", "{}"), NOW)
        assert self.accepts(output, hermes("now", '{"any": 1}'), dataclasses.replace(NOW, strict=False))
        assert not self.accepts(output, "Yes…", NOW)
        assert not self.accepts(output, hermes("now", "{}") + "…", NOW, choice="none")

    def test_a_required_call_leaves_no_place_for_it(self) -> None:
        assert self.accepts(SCHEMA_FORMAT, hermes("now", "{}"), NOW, choice="required")
        assert not self.accepts(SCHEMA_FORMAT, '{"…', NOW, choice="required")

    def test_json_beside_calls_without_a_marker(self) -> None:
        made = grammar(conversation(NOW, output=SCHEMA_FORMAT), LLAMA3)
        words = vocabulary(LLAMA3)
        assert words.accepts(made, '{"a": 1}')
        assert words.accepts(made, write_call(LLAMA3, "now", {}))

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            (OutputFormat("gbnf", grammar='root ::= "a'), "line 1"),
            (OutputFormat("gbnf", grammar="root ::= other"), "other"),
            (OutputFormat("lark", grammar='start: "a"\n  (other'), "2("),
            (OutputFormat("lark", grammar="start: other"), "other"),
            (OutputFormat("lark", grammar=""), "grammar"),
            (OutputFormat("schema", schema=False), "nsatisfiable"),
        ],
    )
    def test_what_is_wrong_is_said(self, output: OutputFormat, message: str) -> None:
        with pytest.raises(UnenforceableError, match=re.escape(message)) as caught:
            grammar(conversation(output=output))
        assert caught.value.param == "response_format"


SCHEMAS: list[tuple[Mapping[str, Any] | bool, list[object], list[str]]] = [
    (True, [1, "a", {"b": []}], ["x"]),
    ({}, [None], ["x"]),
    ({"type": "object"}, [{"a": {"b": 1}}], ["1"]),
    ({"type": ["string", "null"]}, ["a", None], ["1"]),
    ({"enum": ["a", 1, None]}, ["a", 1, None], ['"b"']),
    ({"const": {"a": 1}}, [{"a": 1}], ['{"a": 2']),
    ({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "null"}}]}, [3, [None]], ['"', "[1"]),
    ({"type": "string", "pattern": "^a[0-9]+$"}, ["a12"], ['"b', '"a"']),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "é😀x"], ['"a"', '"abcd']),
    ({"type": "string", "format": "date-time"}, ["2026-01-02T03:04:05Z"], ['"20x']),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, [[1], [1, 2]], ["[]", "[1, 2, 3"]),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1.5}, [0.5, 1.5], ["0}", "2"]),
    ({"allOf": [{"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}]}, [{"a": None}], ["{}"]),
    (
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "null"}}},
        [{"a": None}],
        ['{"a": 1'],
    ),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, [{"x": 1, "y": 2}], ['{"x": "']),
    ({"type": "object", "propertyNames": {"type": "string"}, "$id": "http://example.com/x"}, [{"x": 1}], ["1"]),
    ({"type": "null", "title": "t", "default": {"$ref": "#/nowhere"}, "x-own": 1}, [None], ["1"]),
]


KEYWORDS = ["type", "properties", "required", "items", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs"]
KEYWORDS += ["pattern", "format", "minLength", "maxLength", "minItems", "maxItems", "additionalProperties"]


class TestSchemas:
    @pytest.mark.parametrize(("schema", "good", "bad"), SCHEMAS)
    def test_are_enforced(self, schema: Mapping[str, Any] | bool, good: list[object], bad: list[str]) -> None:
        made = grammar(conversation(output=OutputFormat("schema", schema=schema)))
        words = vocabulary(HERMES)
        for value in good:
            assert words.accepts(made, json.dumps(value, ensure_ascii=False)), value
        for text in bad:
            assert not words.accepts(made, text, complete=False), text

    @pytest.mark.parametrize("reference", ["#/own/7", "#/own/-1", "#/own/x", "#/nowhere", "#/own/0/x", "x"])
    def test_a_reference_to_nowhere_is_refused(self, reference: str) -> None:
        schema = {"properties": {"a": {"$ref": reference}}, "own": [{"type": "string"}, {"type": "string"}]}
        with pytest.raises(UnenforceableError):
            grammar(conversation(Tool("f", parameters=schema, strict=True), choice="required"), QWEN3_CODER)
        with pytest.raises(UnenforceableError):
            grammar(conversation(output=OutputFormat("schema", schema=schema)))
        stray = Schema({"$ref": reference}, schema)
        assert stray.resolved() is stray

    @every_dialect
    def test_references_hold_inside_of_a_call(self, dialect: Dialect) -> None:
        schema = {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {
                "tree": {"$ref": "#/definitions/node"},
                "more": {"type": "array", "items": {"$ref": "#/properties/tree"}},
            },
            "required": ["tree"],
            "additionalProperties": False,
            "definitions": {
                "node": {
                    "type": "object",
                    "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/definitions/node"}},
                    "required": ["v"],
                    "additionalProperties": False,
                }
            },
        }
        tool = Tool("f", parameters=schema, strict=True)
        made = grammar(conversation(tool, choice="required"), dialect)
        words = vocabulary(dialect)
        good: dict[str, object] = {"tree": {"v": 1, "next": {"v": 2}}, "more": [{"v": 3}]}
        if dialect.codec in ("gemma4", "minimax_m3"):  # what refers to something is left to JSON
            text = written(dialect, "f", {"tree": "@", "more": ["+"]}).replace('<|"|>', "")
            text = text.replace("@", '{"v": 1, "next": {"v": 2}}').replace("+", '{"v": 3}')
        else:
            text = written(dialect, "f", good)
        assert words.accepts(made, text)
        ((_, arguments),) = words.read(dialect, text, [tool], start_of(dialect)).calls
        assert json.loads(arguments) == good
        assert not words.accepts(made, text.replace("2", '"x"'), complete=False)

    @pytest.mark.parametrize(
        ("schema", "message"),
        [
            ({"not": {}}, '"not" cannot be enforced at /'),
            ({"properties": {"a": {"if": {}}}}, '"if" cannot be enforced at /properties/a'),
            ({"properties": {"a/b": {"items": {"uniqueItems": True}}}}, "at /properties/a~1b/items"),
            ({"anyOf": [{}, {"dependentRequired": {}}]}, "/anyOf/1"),
            ({"properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}, "look-ahead"),
            ({"properties": {"a": {"type": "string", "format": "colour"}}}, "format: colour at /properties/a"),
            ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "/properties/a"),
            ({"properties": {"a": {"oneOf": [{"type": "string"}, {"maxLength": 3}]}}}, "oneOf"),
            ({"properties": {"a": {"type": "text"}}}, "text at /properties/a"),
            ({"propertyNames": {"pattern": "^a"}}, '"propertyNames" cannot be enforced'),
            (
                {
                    "type": "object",
                    "properties": {"a": {"allOf": [{"type": "string"}, {"type": "null"}]}},
                    "required": ["a"],
                },
                "nsatisfiable",
            ),
        ],
    )
    def test_what_cannot_be_enforced_is_named(self, schema: dict[str, Any], message: str) -> None:
        with pytest.raises(UnenforceableError, match=re.escape(message)) as caught:
            grammar(conversation(output=OutputFormat("schema", schema=schema)))
        assert caught.value.param == "response_format"
        strict = Tool("f", parameters={"type": "object", **schema}, strict=True)
        with pytest.raises(UnenforceableError, match=re.escape(message)) as caught:
            grammar(conversation(NOW, strict))
        assert caught.value.param == "tools[1]"
        assert "'f' is strict" in str(caught.value)
        assert grammar(conversation(dataclasses.replace(strict, strict=False), choice="required"))

    @pytest.mark.parametrize("depth", [60, 200, 10_000])
    def test_depth_has_an_end(self, depth: int) -> None:
        schema: dict[str, Any] = {"type": "integer"}
        for _ in range(depth):
            schema = {"type": "array", "items": schema}
        output = OutputFormat("schema", schema=schema)
        if depth < 100:
            made = grammar(conversation(output=output))
            assert vocabulary(HERMES).accepts(made, "[" * depth + "1" + "]" * depth)
        else:
            with pytest.raises(UnenforceableError):
                grammar(conversation(output=output))

    def test_a_panic_inside_of_llguidance_is_a_refusal(self) -> None:
        schema = {"type": "string", "pattern": ["a" * 89 + "é" * 20]}
        with pytest.raises(UnenforceableError, match="malformed"):
            grammar(conversation(output=OutputFormat("schema", schema=schema)))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "type",
                            "properties",
                            "required",
                            "items",
                            "enum",
                            "const",
                            "anyOf",
                            "$ref",
                            "$defs",
                            "pattern",
                            "format",
                        ]
                    ),
                    inner | st.sampled_from(["object", "string", "array", "#/$defs/a", ["string", "null"]]),
                    max_size=4,
                )
            ),
            max_leaves=8,
        ),
        st.sampled_from(list(DIALECTS)),
        st.booleans(),
    )
    def test_nonsense_is_refused_or_ignored(self, schema: object, name: str, strict: bool) -> None:
        parameters = schema if isinstance(schema, dict) else {"properties": schema}
        tool = Tool("f", parameters=parameters, strict=strict)
        try:
            assert grammar(conversation(tool, choice="required"), DIALECTS[name])
        except UnenforceableError:
            assert strict


def written(dialect: Dialect, name: str, arguments: Mapping[str, object]) -> str:
    """A call as the model's template writes it, but with strings in JSON where the codec is Python's."""
    if dialect.codec == "pythonic":
        words = {True: "True", False: "False"}
        values = (
            f"{key}={words[value] if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)}"
            for key, value in arguments.items()
        )
        return f"{dialect.section_begin}{name}({', '.join(values)}){dialect.section_end}"
    return write_call(dialect, name, arguments)


def in_order(name: str, arguments: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """A call with its arguments as they stand in the schema."""
    order = next(list(tool.parameters["properties"]) for tool in TOOLS if tool.name == name)
    return name, {key: arguments[key] for key in order if key in arguments}


TEXTS = st.text(st.sampled_from('ab 1\n"{}\\é😀<>/=,:'), max_size=6)
CALLS: st.SearchStrategy[tuple[str, dict[str, object]]] = st.one_of(
    st.fixed_dictionaries(
        {"path": TEXTS, "follow": st.booleans()},
        optional={"limit": st.integers(1, 99), "mode": st.sampled_from(["text", "bytes"])},
    ).map(lambda found: in_order("read", found)),
    st.fixed_dictionaries(
        {"paths": st.lists(st.text("abé", max_size=4), min_size=1, max_size=2)},
        optional={"as": st.text("abé\n", min_size=2, max_size=5)},
    ).map(lambda found: in_order("read_many", found)),
    st.just(("now", {})),
)


class TestNotations:
    @every_dialect
    @given(call=CALLS)
    def test_what_the_template_writes_is_accepted(self, dialect: Dialect, call: tuple[str, dict[str, object]]) -> None:
        name, arguments = call
        text = written(dialect, name, arguments)
        words = vocabulary(dialect)
        assert words.accepts(cached_grammar(dialect), text)
        ((read_name, read_arguments),) = words.read(dialect, text, TOOLS, start_of(dialect)).calls
        assert (read_name, json.loads(read_arguments)) == (name, arguments)

    @every_dialect
    @pytest.mark.parametrize("special", [True, False])
    @pytest.mark.parametrize("mode", ["required", "auto"])
    def test_whatever_the_grammar_allows_is_read_as_calls_that_obey(
        self, dialect: Dialect, special: bool, mode: Literal["required", "auto"]
    ) -> None:
        words = vocabulary(dialect, special=special)
        made = grammar(conversation(*TOOLS, choice=mode), dialect, special=special)
        towards = [text for text in (dialect.section_begin, dialect.call_begin, dialect.value_end) if text]
        finished = 0
        for seed in range(5):
            tokens = words.walk(made, seed, towards or ["read"])
            if tokens is None:
                continue
            finished += 1
            answer = words.read(dialect, tokens, TOOLS, start_of(dialect))
            assert all(obeys(*call) for call in answer.calls), answer
            if mode == "required":
                assert answer.calls
                assert not answer.content.strip(), answer
        assert finished

    @every_dialect
    def test_free_arguments_are_read_as_a_call(self, dialect: Dialect) -> None:
        loose = tuple(dataclasses.replace(tool, strict=False) for tool in TOOLS)
        text = written(dialect, "read", {"follow": True, "path": "a"})  # the order is free, too
        words = vocabulary(dialect)
        made = grammar(conversation(*loose, choice=ToolChoice("auto", ("read",))), dialect)
        prefix = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant" if dialect.codec == "harmony" else ""
        assert words.accepts(made, prefix + text)
        assert not words.accepts(made, prefix + written(dialect, "now", {}), complete=False)


class TestTaggedArguments:
    ONE_OF_TWO: Mapping[str, Any] = {
        "type": "object",
        "anyOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "integer"}}}],
    }

    def test_only_plain_objects_can_be_enforced(self) -> None:
        tool = Tool("f", parameters=self.ONE_OF_TWO, strict=True)
        with pytest.raises(UnenforceableError, match="anyOf"):
            grammar(conversation(tool), QWEN3_CODER)
        made = grammar(conversation(dataclasses.replace(tool, strict=False), choice="required"), QWEN3_CODER)
        assert vocabulary(QWEN3_CODER).accepts(made, written(QWEN3_CODER, "f", {"b": 1}))

    def test_an_open_object_takes_any_names(self) -> None:
        tool = Tool("f", parameters={"type": "object", "additionalProperties": {"type": "integer"}}, strict=True)
        made = grammar(conversation(tool, choice="required"), QWEN3_CODER)
        words = vocabulary(QWEN3_CODER)
        assert words.accepts(made, written(QWEN3_CODER, "f", {"x": 1, "y_2": 2}))
        assert not words.accepts(made, written(QWEN3_CODER, "f", {"x": "one"}), complete=False)

    def test_a_hint_tells_text_from_other_values(self) -> None:
        schema = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]}
        tool = Tool("f", parameters=schema, strict=True)
        made = grammar(conversation(tool, choice="required"), DEEPSEEK_V4)
        for value in ("null", None, "a < b"):
            text = written(DEEPSEEK_V4, "f", {"a": value})
            assert vocabulary(DEEPSEEK_V4).accepts(made, text)
            ((_, arguments),) = vocabulary(DEEPSEEK_V4).read(DEEPSEEK_V4, text, [tool]).calls
            assert json.loads(arguments) == {"a": value}
        assert not vocabulary(DEEPSEEK_V4).accepts(made, written(DEEPSEEK_V4, "f", {"a": 1}), complete=False)


class TestTaggedStrings:
    @staticmethod
    def accepts(schema: Mapping[str, Any], value: str) -> bool:
        parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
        tool = Tool("f", parameters=parameters, strict=True)
        text = f"<tool_call>\n<function=f>\n<parameter=a>\n{value}\n</parameter>\n</function>\n</tool_call>"
        made = {
            special: grammar(conversation(tool, choice="required"), QWEN3_CODER, special=special)
            for special in (True, False)
        }
        found = {vocabulary(QWEN3_CODER, special=special).accepts(made[special], text) for special in made}
        assert len(found) == 1
        return found.pop()

    @pytest.mark.parametrize(
        ("schema", "good", "bad"),
        [
            ({"type": "string"}, ["", "a\n</param>\n", '"'], []),
            ({}, ["x", "1"], []),
            ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "\n\n\n"], ["a", "abcd"]),
            ({"type": "string", "pattern": "^[a-c]+/$"}, ["abc/"], ["abd/", "abc"]),
            ({"type": "string", "pattern": "b[0-9]"}, ["ab1", "b2c"], ["ab"]),
            ({"type": "string", "format": "date"}, ["2026-01-31"], ["2026-13-01"]),
            ({"type": "string", "format": "uri"}, ["https://example.com/a?b#c"], ["example"]),
            ({"type": ["string", "null"], "enum": ["a", None]}, ["a", "null"], ["b"]),
            ({"anyOf": [{"type": "string", "maxLength": 1}, {"type": "null"}]}, ["a", "null"], ["ab"]),
            ({"const": "only"}, ["only"], ["other"]),
            ({"type": "integer"}, ["12"], ["1.5", "x", '"1"']),
            ({"type": "array", "items": {"type": "string"}}, ['["a", "b"]'], ["a"]),
        ],
    )
    def test_obey(self, schema: Mapping[str, Any], good: list[str], bad: list[str]) -> None:
        assert [value for value in good if not self.accepts(schema, value)] == []
        assert [value for value in bad if self.accepts(schema, value)] == []

    @pytest.mark.parametrize(
        ("schema", "keyword"),
        [
            ({"type": "string", "format": "hostname"}, "format"),
            ({"type": "string", "pattern": "^a|b$|^c"}, "pattern"),
            ({"type": "string", "allOf": [{"minLength": 1}]}, "allOf"),
        ],
    )
    def test_what_cannot_be_enforced_is_named(self, schema: Mapping[str, Any], keyword: str) -> None:
        with pytest.raises(UnenforceableError, match=f'"{keyword}" cannot be enforced .* at /properties/a'):
            self.accepts(schema, "")


@cache
def cached_grammar(dialect: Dialect) -> str | None:
    return grammar(conversation(*TOOLS, choice="required"), dialect)


def start_of(dialect: Dialect) -> str:
    return "<|start|>assistant" if dialect.codec == "harmony" else ""


@every_dialect
@pytest.mark.parametrize("strict", [True, False])
def test_the_tools_of_claude_code(dialect: Dialect, strict: bool) -> None:
    requests = Path(__file__).parents[1] / "data" / "requests"
    request = json.loads((requests / "claude-2.1.197-messages.json").read_text(encoding="utf-8"))
    tools = [Tool(tool["name"], parameters=tool["input_schema"], strict=strict) for tool in request["tools"]]
    made = grammar(conversation(*tools, choice="required"), dialect)
    words = vocabulary(dialect)
    assert words.accepts(made, written(dialect, "Read", {"file_path": "/etc/hosts", "limit": 10}))
    assert not words.accepts(made, written(dialect, "Reed", {}), complete=False)
