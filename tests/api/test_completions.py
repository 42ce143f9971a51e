"""Completions as bytes: raw prompts in all their forms, and answers that the ``openai`` SDK's own types accept."""

import json
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion

from ds4trio.api.answer import Delta, Ending, Frame, HeartbeatForm
from ds4trio.api.completions import CompletionDocument, CompletionOptions, Completions, CompletionStream
from ds4trio.api.errors import ApiError, InvalidRequestError, OverloadedError, openai_error, openai_error_document
from ds4trio.api.task import Task
from ds4trio.chat import ContentDelta
from ds4trio.engine import Phase, Progress, Sampling, TokenLogprob
from tests.api import tasks
from tests.api.openai_sdk import sdk, unknown_members
from tests.events import USAGE, Script, Step, pieces, play, scripts, texts
from tests.grammars.chat import sse_data
from tests.grammars.completions import check_completion_stream

FRAME = Frame(id="1f", created=1_790_000_000.75, model="small", prompts=("once",))
PREFILL = Progress(Phase.PREFILL, prompt_tokens=30, prefilled_tokens=20, rate=10.0)
FORMS: list[HeartbeatForm] = ["both", "event", "comment"]


def body(**members: object) -> bytes:
    return json.dumps({"prompt": "once", **members}).encode()


def parse(request: bytes) -> Task:
    return Completions().parse(request)


def answer_of(task: Task) -> tuple[type[CompletionStream | CompletionDocument], CompletionOptions]:
    """How the task is answered."""
    return tasks.answer_of(task)


def described(request: bytes) -> dict[str, object]:
    """All that a request asks for, to compare it."""
    return tasks.described(parse(request))


def refusal(request: bytes) -> InvalidRequestError:
    return tasks.refused(parse, request)


def stream(prompts: tuple[str, ...] = ("once",), **members: Any) -> CompletionStream:
    return CompletionStream(_frame(prompts), options=options(**members))


def document(prompts: tuple[str, ...] = ("once",), **members: Any) -> CompletionDocument:
    return CompletionDocument(_frame(prompts), options=options(**members))


def _frame(prompts: tuple[str, ...]) -> Frame:
    return Frame(FRAME.id, FRAME.created, FRAME.model, prompts)


def options(
    *, n: int = 1, echo: bool = False, logprobs: bool = False, include_usage: bool = False
) -> CompletionOptions:
    return CompletionOptions(n=n, echo=echo, logprobs=logprobs, include_usage=include_usage)


def script(*deltas: Delta) -> Script:
    """One choice, with a beat before every step."""
    ending = Ending("stop", USAGE, prefill_seconds=0.5, decode_seconds=0.25)
    parts: list[Delta | Ending] = [*deltas, ending]
    steps: list[Step] = [step for part in parts for step in (PREFILL, (0, part))]
    events = tuple(event for delta in deltas for event in delta.events)
    return Script(tuple(steps), (events,), (ending,), (tuple(token for delta in deltas for token in delta.logprobs),))


def said(text: str, *tokens: bytes) -> Delta:
    logprobs = tuple(TokenLogprob(0, token, -1.0, (TokenLogprob(0, token, -1.0),)) for token in tokens)
    return Delta((ContentDelta(text),) if text else (), 1, logprobs)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_the_least_request_asks_for_one_document_of_sixteen_tokens() -> None:
    assert described(body()) == {
        "kind": "completion",
        "model": None,
        "prompt": ("once",),
        "answer": (CompletionDocument, options()),
        "overrides": {},
        "max_tokens": 16,
        "stop": (),
        "n": 1,
        "top_logprobs": None,
        "ignore_eos": False,
        "priority": None,
        "warnings": (),
        "prompt_member": "prompt",
    }


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("once", ("once",)),
        (["once"], ("once",)),
        (["once", "twice"], ("once", "twice")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["once", [0, 2**31 - 1]], ("once", (0, 2**31 - 1))),
        (list(range(100)), (tuple(range(100)),)),
        (["x"] * 64, ("x",) * 64),
    ],
)
def test_a_prompt_is_a_text_or_token_ids_or_a_list_of_either(prompt: object, prompts: object) -> None:
    assert parse(body(prompt=prompt)).prompt == prompts


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        ([], "prompt"),
        ("", "$.prompt[0]"),
        ([""], "$.prompt[0]"),
        ([[1], []], "$.prompt[1]"),
        ([1, "once"], "$.prompt[0]"),
        (["once", 1], "$.prompt[1]"),
        (["x"] * 65, "prompt"),
        ([1, -1], "$.prompt[1]"),
        ([2**31], "$.prompt[0]"),
        ([[1, 2**31]], "$.prompt[0][1]"),
        ([[1.5]], "$.prompt[0][0]"),
        ([[["deep"]]], "$.prompt[0][0]"),
        ([None], "$.prompt[0]"),
        (7, "$.prompt"),
    ],
)
def test_a_bad_prompt_is_refused_with_its_path(prompt: object, param: str) -> None:
    assert refusal(body(prompt=prompt)).param == param


def test_a_request_without_a_prompt_is_refused() -> None:
    assert refusal(b"{}").param == "prompt"


def test_what_is_asked_for_is_kept() -> None:
    task = parse(
        body(model="m", max_tokens=5, stop="END", n=3, best_of=3, temperature=0, seed=7, ignore_eos=True, user="me")
    )
    assert (task.model, task.max_tokens, task.stop, task.n, task.ignore_eos) == ("m", 5, ("END",), 3, True)
    assert task.overrides == {"temperature": 0, "seed": 7}
    assert answer_of(task) == (CompletionDocument, options(n=3))


def test_a_stream_with_its_usage_an_echo_or_logprobs() -> None:
    task = parse(body(stream=True, stream_options={"include_usage": True}, echo=True))
    assert answer_of(task) == (CompletionStream, options(echo=True, include_usage=True))
    task = parse(body(stream=True, logprobs=0))
    assert answer_of(task) == (CompletionStream, options(logprobs=True))
    assert task.top_logprobs == 0
    assert parse(body(logprobs=20)).top_logprobs == 20


@pytest.mark.parametrize(
    "members",
    [
        {"n": 1, "best_of": 1, "echo": False, "suffix": "", "stream": False, "stop": [], "logit_bias": {}},
        dict.fromkeys(["model", "n", "best_of", "max_tokens", "stop", "suffix", "echo", "logprobs", "stream", "seed"]),
        {"best_of": 1, "stream_options": {"include_usage": None}, "ignore_eos": None, "metadata": {"a": [None]}},
    ],
)
def test_members_that_ask_for_nothing_special_change_nothing(members: dict[str, object]) -> None:
    assert described(body(**members)) == described(body())


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 4, "n": 2}, "best_of"),
        ({"echo": True, "logprobs": 0}, "echo"),
    ],
)
def test_what_this_server_cannot_do_is_refused_by_name(members: dict[str, object], param: str) -> None:
    error = refusal(body(**members))
    assert (error.code, error.param) == ("unsupported", param)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"n": 0}, "$.n"),
        ({"n": 9}, "$.n"),
        ({"max_tokens": 0}, "$.max_tokens"),
        ({"logprobs": 21}, "$.logprobs"),
        ({"logprobs": True}, "$.logprobs"),
        ({"echo": "yes"}, "$.echo"),
        ({"temperature": -1}, "$.temperature"),
        ({"stop": ["x"] * 17}, "$.stop"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_path(members: dict[str, object], param: str) -> None:
    assert refusal(body(**members)).param == param


MEMBERS = ["prompt", "n", "best_of", "echo", "logprobs", "max_tokens", "stop", "stream", "suffix", "logit_bias", "seed"]
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(exclude_categories=())))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
)


def outcome(request: bytes) -> Task | ApiError:
    try:
        return parse(request)
    except ApiError as error:
        return error


@settings(max_examples=200)
@given(request=st.dictionaries(st.sampled_from(MEMBERS), values), prompt=st.booleans())
def test_anything_like_a_request_is_a_task_or_an_invalid_request(request: dict[str, object], prompt: bool) -> None:
    content = json.dumps(request | ({"prompt": "once"} if prompt else {})).encode()
    task = outcome(content)
    if isinstance(task, ApiError):
        assert json.loads(openai_error_document(task))["error"]["message"] == task.message
        return
    assert isinstance(task.prompt, tuple)
    assert all(task.prompt)
    assert task.max_tokens is not None
    overrides: dict[str, Any] = dict(task.overrides)
    Sampling(**overrides)


# --- answers ----------------------------------------------------------------------------------------------------------


def completions_of(content: bytes) -> list[Completion]:
    """The chunks as the SDK's types see them; those miss that a finish reason may be null while a choice runs."""
    documents = [json.loads(data) for data in sse_data(content)[:-1]]
    for chunk in documents:
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
    return [Completion.model_validate_json(json.dumps(chunk), strict=True) for chunk in documents]


@settings(max_examples=60)
@given(data=st.data(), prompts=st.integers(1, 2), n=st.integers(1, 2), echo=st.booleans(), include_usage=st.booleans())
def test_a_stream_obeys_its_grammar_and_a_document_says_the_same(
    data: st.DataObject, prompts: int, n: int, echo: bool, include_usage: bool
) -> None:
    raw = ("once", "upon")[:prompts]
    script = data.draw(scripts(n=prompts * n, calls=False))
    form = data.draw(st.sampled_from(FORMS))
    content = play(stream(raw, n=n, echo=echo, include_usage=include_usage), script, form=form)
    choices = check_completion_stream(content)
    assert [choice["text"] for choice in choices] == [
        (raw[index // n] if echo else "") + script.text(index) for index in range(prompts * n)
    ]
    assert [choice["finish_reason"] for choice in choices] == [ending.reason for ending in script.endings]
    for chunk in completions_of(content):
        assert unknown_members(chunk) <= {"timings"}
        assert (chunk.id, chunk.created, chunk.model) == ("cmpl-1f", 1_790_000_000, "small")
    whole = Completion.model_validate_json(play(document(raw, n=n, echo=echo), script), strict=True)
    assert unknown_members(whole) <= {"timings"}
    assert [(choice.index, choice.text, choice.finish_reason, choice.logprobs) for choice in whole.choices] == [
        (index, choice["text"], choice["finish_reason"], None) for index, choice in enumerate(choices)
    ]


@settings(max_examples=60)
@given(data=st.data(), parts=st.lists(texts, min_size=1, max_size=4))
def test_logprobs_are_parallel_lists_whose_offsets_find_each_token_in_the_text(
    data: st.DataObject, parts: list[str]
) -> None:
    deltas = []
    for text in parts:
        # Tokens may cut characters, deltas never do.
        tokens = [piece.encode("latin-1") for piece in data.draw(pieces(text.encode().decode("latin-1")))]
        deltas.append(said(text, *tokens))
    (choice,) = check_completion_stream(play(stream(logprobs=True), script(*deltas)))
    text, logprobs = choice["text"], choice["logprobs"]
    assert text == "".join(parts)
    tokens = [token.data for delta in deltas for token in delta.logprobs]
    before = [b"".join(tokens[:number]) for number in range(len(tokens))]
    assert logprobs["text_offset"] == [len(data.decode(errors="ignore")) for data in before]
    for token, start in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert "\ufffd" in token or text[start:].startswith(token)
    (whole,) = json.loads(play(document(logprobs=True), script(*deltas)))["choices"]
    assert whole["logprobs"] == logprobs


def test_logprobs_of_each_token_come_with_its_alternatives() -> None:
    top = (TokenLogprob(5, b" a", -0.5), TokenLogprob(6, b"\xc3", -1.5))
    delta = Delta((ContentDelta(" a"),), 1, (TokenLogprob(5, b" a", -0.5, top),))
    (choice,) = check_completion_stream(play(stream(logprobs=True), script(delta)))
    assert choice["logprobs"] == {
        "tokens": [" a"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{" a": -0.5, "\ufffd": -1.5}],
        "text_offset": [0],
    }


def test_a_delta_that_says_nothing_is_not_written() -> None:
    assert stream(logprobs=True).delta(0, Delta((), 1)) == b""
    assert stream().delta(0, Delta((), 1)) == b""


def test_a_beat_never_names_a_choice_that_has_ended() -> None:
    answer = stream(("once", "upon"), include_usage=True)

    def named() -> list[int]:
        (data,) = sse_data(answer.beat(PREFILL, "event"))
        return [choice["index"] for choice in json.loads(data)["choices"]]

    seen = [named()]
    for choice in (0, 1):
        answer.end(choice, Ending("stop", USAGE))
        seen.append(named())
    assert seen == [[0], [1], []]


def test_beats_of_a_stream_are_comments_events_or_both_and_of_a_document_white_space() -> None:
    comment, event = (stream().beat(PREFILL, form) for form in ("comment", "event"))
    assert comment == b": prefill 20/30 (66.7%) 10 t/s eta 1s\n\n"
    assert json.loads(sse_data(event)[0])["choices"] == [
        {"index": 0, "text": "", "logprobs": None, "finish_reason": None}
    ]
    assert stream().beat(PREFILL, "both") == comment + event
    assert [document().beat(PREFILL, form) for form in FORMS] == [b" "] * 3


def test_usage_and_timings_come_at_the_end() -> None:
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": 5,
        "total_tokens": 35,
        "prompt_tokens_details": {"cached_tokens": 20},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    *chunks, finish, last = map(json.loads, sse_data(play(stream(include_usage=True), script(said("a"))))[:-1])
    assert (last["choices"], last["usage"]) == ([], usage)
    assert all(chunk["usage"] is None for chunk in chunks)
    whole = json.loads(play(document(), script(said("a"))))
    assert whole["usage"] == usage
    assert whole["timings"] == finish["timings"]
    assert (whole["timings"]["prompt_n"], whole["timings"]["predicted_ms"]) == (10, 250.0)
    assert b"usage" not in play(stream(), script(said("a")))


# --- the SDK's client -------------------------------------------------------------------------------------------------


def test_the_sdk_reads_a_stream_and_a_document_through_their_beats() -> None:
    parts = script(said("Hel"), said("lo\n\ndata: é😀"))
    with sdk(play(stream(), parts), CompletionStream.content_type) as client:
        chunks = list(client.completions.create(model="small", prompt="once", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello\n\ndata: é😀"
    assert chunks[-1].choices[0].finish_reason == "stop"
    content = play(document(), parts)
    assert content.startswith(b" ")
    with sdk(content, CompletionDocument.content_type) as client:
        assert client.completions.create(model="small", prompt="once").choices[0].text == "Hello\n\ndata: é😀"


def test_a_stream_that_fails_ends_with_an_error_on_which_the_sdk_raises() -> None:
    error = OverloadedError("the server is shutting down", code="shutting_down")
    answer = stream(include_usage=True)
    content = answer.start(PREFILL) + answer.delta(0, said("Hel")) + answer.error(error)
    (choice,) = check_completion_stream(content)
    assert (choice["text"], choice["error"]["code"]) == ("Hel", "shutting_down")
    seen: list[Completion] = []
    with sdk(content, CompletionStream.content_type) as client:
        chunks = client.completions.create(model="small", prompt="once", stream=True)
        with pytest.raises(openai.APIError, match="the server is shutting down"):
            seen.extend(chunks)
    assert [chunk.choices[0].text for chunk in seen] == ["", "Hel"]


@pytest.mark.parametrize("late", [False, True])
def test_a_document_that_fails_is_the_error_object_alone(late: bool) -> None:
    error = OverloadedError("later", code="queue_full", retry_after=5)
    answer = document()
    parts: Sequence[bytes] = [answer.start(PREFILL), answer.delta(0, said("never sent"))] if late else []
    content = b"".join([*parts, answer.error(error) if late else answer.refusal(error)])
    assert json.loads(content) == openai_error(error)
    assert stream().refusal(error) == answer.refusal(error)
