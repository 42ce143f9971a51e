"""What a chat answer has to look like: formats, schemas and grammars, and logprobs beside the text."""

import pytest

from ds4trio.chat import OutputFormat
from tests.api.chat_completions.requests import SCHEMA, answer_of, body, conversation, parse, refusal


@pytest.mark.parametrize(
    ("members", "output"),
    [
        ({"response_format": {"type": "json_object"}}, OutputFormat("json")),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, OutputFormat("schema", schema=SCHEMA)),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": SCHEMA},
                }
            },
            OutputFormat("schema", schema=SCHEMA),
        ),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, OutputFormat("schema", schema=SCHEMA)),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": True}}},
            OutputFormat("schema", schema=True),
        ),
        ({"json_schema": SCHEMA}, OutputFormat("schema", schema=SCHEMA)),
        ({"json_schema": {}}, OutputFormat("schema", schema={})),
        ({"grammar": 'root ::= "a"'}, OutputFormat("gbnf", grammar='root ::= "a"')),
        ({"response_format": {"type": "gbnf", "grammar": "root ::= x"}}, OutputFormat("gbnf", grammar="root ::= x")),
        ({"response_format": {"type": "grammar", "grammar": "root ::= x"}}, OutputFormat("gbnf", grammar="root ::= x")),
        ({"response_format": {"type": "lark", "grammar": "start: X"}}, OutputFormat("lark", grammar="start: X")),
    ],
)
def test_every_way_to_say_what_the_answer_has_to_look_like(members: dict[str, object], output: OutputFormat) -> None:
    assert conversation(**members).output == output


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"type": "json_schema"}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": "x"}}, "$.response_format.json_schema.schema"),
        ({"type": "gbnf"}, "response_format.grammar"),
        ({"type": "lark", "grammar": None}, "response_format.grammar"),
        ({"type": "python"}, "response_format.type"),
        ({"type": ["text"]}, "$.response_format.type"),
        ({}, "$.response_format"),
        ("json", "$.response_format"),
    ],
)
def test_an_answer_of_an_unknown_form_is_refused(wanted: object, param: str) -> None:
    assert refusal(body(response_format=wanted)).param == param


@pytest.mark.parametrize(
    ("members", "top"),
    [
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
        ({"logprobs": True, "top_logprobs": None}, 0),
        ({"logprobs": False}, None),
    ],
)
def test_logprobs_come_with_as_many_alternatives_as_asked_for(members: dict[str, object], top: int | None) -> None:
    task = parse(body(**members))
    assert task.top_logprobs == top
    assert answer_of(task)[1].logprobs is (top is not None)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"top_logprobs": 5, "logprobs": False}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "$.top_logprobs"),
        ({"top_logprobs": -1, "logprobs": True}, "$.top_logprobs"),
        ({"logprobs": 5}, "$.logprobs"),
    ],
)
def test_logprobs_that_cannot_be_had_are_refused(members: dict[str, object], param: str) -> None:
    assert refusal(body(**members)).param == param
