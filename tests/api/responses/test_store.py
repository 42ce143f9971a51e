"""What is kept, for how long, and the documents that clients get of it."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from openai.types.responses import Response, ResponseItem
from pydantic import TypeAdapter

from ds4trio.api.answer import Answer, Delta, Frame
from ds4trio.api.errors import ApiError, InvalidRequestError
from ds4trio.api.responses import Responses, ResponseStore, UnknownResponseError
from ds4trio.api.responses.store import StoredResponse
from ds4trio.chat import ContentDelta, Message, ReasoningDelta, ToolCall
from tests.api.responses.scripts import FRAME, LENGTH, PROGRESS, call, deltas, play, request

SDK_ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)


@pytest.fixture
def responses() -> Responses:
    return Responses(ResponseStore())


def keep(responses: Responses, id: str = "00ff", **members: object) -> Answer:
    return responses.parse(request(**{"store": True, **members})).answer(Frame(id=id, created=1.0, model="tiny"))


def messages(responses: Responses, **members: object) -> tuple[Message, ...]:
    prompt = responses.parse(request(**members)).prompt
    assert not isinstance(prompt, tuple)
    return prompt.messages


@pytest.mark.parametrize("stream", [True, False])
def test_a_response_can_be_asked_for_from_its_start_to_its_end(responses: Responses, stream: bool) -> None:
    answer = keep(responses, stream=stream)
    answer.start(PROGRESS)
    assert json.loads(responses.response_document("resp_00ff"))["status"] == "in_progress"
    for delta in deltas(ContentDelta("hi")):
        answer.delta(0, delta)
    answer.end(0, LENGTH)
    answer.finish(LENGTH.usage)
    document = responses.response_document("resp_00ff")
    Response.model_validate_json(document, strict=True)
    assert json.loads(document)["output"][0]["content"][0]["text"] == "hi"
    assert json.loads(document)["status"] == "incomplete"


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_is_kept_and_cannot_be_continued(responses: Responses, stream: bool) -> None:
    answer = keep(responses, stream=stream)
    answer.start(PROGRESS)
    answer.error(ApiError("stopped", code="cancelled"))
    assert json.loads(responses.response_document("resp_00ff"))["status"] == "cancelled"
    with pytest.raises(InvalidRequestError, match="was not completed"):
        responses.parse(request(previous_response_id="resp_00ff"))


def test_store_false_keeps_nothing(responses: Responses) -> None:
    play(keep(responses, store=False), deltas(ContentDelta("hi")))
    with pytest.raises(UnknownResponseError) as caught:
        responses.response_document("resp_00ff")
    assert caught.value.status == 404


def test_the_next_request_goes_on_from_the_previous_one(responses: Responses) -> None:
    script = deltas(ReasoningDelta("hm"), ContentDelta("let me see"), *call("agents__spawn", '{"a":1}'))
    play(keep(responses, instructions="be brief"), script)
    call_id = json.loads(responses.response_document("resp_00ff"))["output"][2]["call_id"]
    result = {"type": "function_call_output", "call_id": call_id, "output": "done"}
    second = keep(responses, "0a", input=[result], previous_response_id="resp_00ff")
    play(second, deltas(ContentDelta("fine")))
    assert messages(responses, previous_response_id="resp_0a", instructions="be long", input="go on") == (
        Message("system", "be long"),
        Message("user", "hello"),
        Message("assistant", "let me see", "hm", (ToolCall(call_id, "agents__spawn", '{"a":1}'),)),
        Message("tool", "done", tool_call_id=call_id),
        Message("assistant", "fine"),
        Message("user", "go on"),
    )


def test_a_call_that_was_cut_off_is_no_part_of_the_conversation(responses: Responses) -> None:
    play(keep(responses), deltas(ContentDelta("hm"), *call("read", '{"pa', complete=False)), LENGTH)
    assert messages(responses, previous_response_id="resp_00ff", input="go on") == (
        Message("user", "hello"),
        Message("assistant", "hm"),
        Message("user", "go on"),
    )


def test_an_unknown_previous_response_is_refused(responses: Responses) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        responses.parse(request(previous_response_id="resp_gone"))
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_items_can_be_referred_to(responses: Responses) -> None:
    play(keep(responses), deltas(ReasoningDelta("hm"), *call("read", "{}")))
    output = json.loads(responses.response_document("resp_00ff"))["output"]
    references = [{"id": output[0]["id"]}, {"type": "item_reference", "id": output[1]["id"]}]
    assert messages(responses, input=references) == (
        Message("assistant", "", "hm", (ToolCall(output[1]["call_id"], "read", "{}"),)),
    )
    responses.delete("resp_00ff")
    with pytest.raises(InvalidRequestError) as caught:
        responses.parse(request(input=references))
    assert caught.value.param == "$.input[0].id"


def test_a_response_is_decoded_once_for_all_references_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResponseStore()
    responses = Responses(store)
    play(keep(responses), deltas(*call("read", "{}"), *call("read", "{}", index=1), ContentDelta("x")))
    output = json.loads(responses.response_document("resp_00ff"))["output"]
    asked: list[str] = []

    def ask(item_id: str) -> bytes | None:
        asked.append(item_id)
        return ResponseStore.document_of(store, item_id)

    monkeypatch.setattr(store, "document_of", ask)
    assert len(messages(responses, input=[{"id": item["id"]} for item in output])[0].tool_calls) == 2
    assert asked == [output[0]["id"]]


def test_an_item_is_referred_to_once(responses: Responses) -> None:
    play(keep(responses), deltas(ContentDelta("x" * 1000)))
    (item,) = json.loads(responses.response_document("resp_00ff"))["output"]
    with pytest.raises(InvalidRequestError, match="twice") as caught:
        responses.parse(request(input=[{"id": item["id"]}] * 2))
    assert (caught.value.code, caught.value.param) == ("duplicate_item", "$.input[1].id")


def test_references_are_bounded(responses: Responses) -> None:
    calls = [event for index in range(1001) for event in call("read", "{}", index=index)]
    play(keep(responses), [Delta(tuple(calls), 1)])
    references = [{"id": item["id"]} for item in json.loads(responses.response_document("resp_00ff"))["output"]]
    assert len(messages(responses, input=references[:1000])[0].tool_calls) == 1000
    with pytest.raises(InvalidRequestError, match="1000") as caught:
        responses.parse(request(input=references))
    assert caught.value.param == "$.input[1000]"


def test_delete_says_so_and_works_once(responses: Responses) -> None:
    play(keep(responses), [])
    assert json.loads(responses.delete("resp_00ff")) == {"id": "resp_00ff", "object": "response", "deleted": True}
    with pytest.raises(UnknownResponseError):
        responses.delete("resp_00ff")


def test_a_response_deleted_while_it_runs_does_not_come_back(responses: Responses) -> None:
    answer = keep(responses)
    answer.start(PROGRESS)
    responses.delete("resp_00ff")
    answer.finish(LENGTH.usage)
    with pytest.raises(UnknownResponseError):
        responses.response_document("resp_00ff")


INPUT = [
    {"role": "user", "content": "one"},
    {"type": "message", "role": "assistant", "content": "two", "id": "msg_own"},
    {"type": "function_call", "call_id": "c", "name": "read", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "three"},
]


def test_input_items_are_full_items_in_pages(responses: Responses) -> None:
    play(keep(responses, input=INPUT), [])
    page = json.loads(responses.input_items_document("resp_00ff", limit=3, order="asc"))
    rest = json.loads(responses.input_items_document("resp_00ff", limit=3, order="asc", after=page["last_id"]))
    assert (page["has_more"], rest["has_more"]) == (True, False)
    assert [item["type"] for item in page["data"] + rest["data"]] == [
        "message",
        "message",
        "function_call",
        "function_call_output",
    ]
    for item in page["data"]:
        SDK_ITEM.validate_json(json.dumps(item), strict=True)
    assert page["data"][0]["content"] == [{"type": "input_text", "text": "one"}]
    assert page["data"][1]["id"] == "msg_own"
    newest_first = json.loads(responses.input_items_document("resp_00ff"))["data"]
    assert [item["id"] for item in newest_first] == [item["id"] for item in (page["data"] + rest["data"])[::-1]]


def test_a_string_is_a_users_message_in_the_list(responses: Responses) -> None:
    play(keep(responses), [])
    (item,) = json.loads(responses.input_items_document("resp_00ff"))["data"]
    assert (item["role"], item["content"]) == ("user", [{"type": "input_text", "text": "hello"}])


def test_items_are_listed_as_the_client_wrote_them(responses: Responses) -> None:
    item = b'{"type":"function_call","name":"f","call_id":"c","arguments":"{}","later":[1.0,1e2,9007199254740993]}'
    body = b'{"input": [%s]}' % item
    play(responses.parse(body).answer(FRAME), [])
    listed = responses.input_items_document(f"resp_{FRAME.id}")
    assert b'"later":[1.0,1e2,9007199254740993]' in listed
    assert json.loads(listed)["data"][0].items() > json.loads(item).items()


@pytest.mark.parametrize("after", [None, "last"])
def test_a_page_of_a_long_input_is_quick(responses: Responses, after: str | None) -> None:
    items = [{"role": "user", "content": 'line of "text"\n' * 1000} for _ in range(1000)]
    play(keep(responses, input=items), [])
    last: str = json.loads(responses.input_items_document("resp_00ff", limit=100))["last_id"]

    def seconds() -> float:
        begin = time.perf_counter()
        responses.input_items_document("resp_00ff", after=last if after else None)
        return time.perf_counter() - begin

    assert min(seconds() for _ in range(5)) < 0.01


def test_a_page_after_an_unknown_item_is_refused(responses: Responses) -> None:
    play(keep(responses), [])
    with pytest.raises(InvalidRequestError):
        responses.input_items_document("resp_00ff", after="msg_other")


def stored(size: int, *item_ids: str) -> StoredResponse:
    return StoredResponse(b"x" * size, (), None, item_ids)


def test_the_least_recently_used_leaves_first() -> None:
    store = ResponseStore(most_responses=2)
    store.begin("a", stored(1))
    store.begin("b", stored(1))
    store.get("a")
    store.begin("c", stored(1))
    assert [store.get(name) is not None for name in "abc"] == [True, False, True]


def test_a_response_larger_than_the_store_is_not_kept() -> None:
    store = ResponseStore(most_bytes=10)
    store.begin("a", stored(11))
    assert (len(store), store.size) == (0, 0)


def test_messages_count() -> None:
    message = Message("user", "x" * 1000)
    assert StoredResponse(b"", (), (message, message)).size > 2000


def test_also_empty_messages_and_items_have_a_size() -> None:
    messages = tuple(Message("user") for _ in range(1000))
    calls = tuple(ToolCall(f"call_{number:x}", "read", "") for number in range(1000))
    assert StoredResponse(b"", (), messages).size > 1000 * sys.getsizeof(messages[0])
    assert StoredResponse(b"", (), (Message("assistant", tool_calls=calls),)).size > 1000 * sys.getsizeof(calls[0])
    assert StoredResponse(b"", (b"{}",) * 1000).size > 1000 * sys.getsizeof(b"{}")


class StoreMachine(RuleBasedStateMachine):
    """Whatever is done, the bounds hold, the size is that of what is there, and no item outlives its response."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.store = ResponseStore(most_responses=4, most_bytes=700)
        self.known: dict[str, StoredResponse] = {}
        self.count = 0

    @rule(target=ids, size=st.integers(0, 60))
    def begin(self, size: int) -> str:
        self.count += 1
        return self._put(self.store.begin, f"resp_{self.count}", size)

    @rule(response_id=ids, size=st.integers(0, 60))
    def update(self, response_id: str, size: int) -> None:
        if self.store.get(response_id) is not None:
            self._put(self.store.update, response_id, size)
        else:
            self.store.update(response_id, stored(size))
            assert self.store.get(response_id) is None

    @rule(response_id=ids)
    def delete(self, response_id: str) -> None:
        was_there = self.store.get(response_id) is not None
        assert self.store.delete(response_id) == was_there
        assert self.store.get(response_id) is None

    @invariant()
    def bounded(self) -> None:
        there = [response for name in self.known if (response := self.store.get(name)) is not None]
        assert len(there) == len(self.store) <= 4
        assert sum(response.size for response in there) == self.store.size <= 700
        for name in self.known:
            assert (self.store.document_of(f"item_of_{name}") is not None) == (self.store.get(name) is not None)

    def _put(self, method: Callable[[str, StoredResponse], None], response_id: str, size: int) -> str:
        item_id = f"item_of_{response_id}"
        document = json.dumps({"output": [{"id": item_id}], "x": "x" * size}).encode()
        self.known[response_id] = StoredResponse(document[:], (), None, (item_id,))
        method(response_id, self.known[response_id])
        return response_id


TestStore = StoreMachine.TestCase


def test_what_was_refused_is_not_kept(responses: Responses) -> None:
    answer = keep(responses)
    answer.refusal(ApiError("queue full"))
    with pytest.raises(UnknownResponseError):
        responses.response_document(f"resp_{FRAME.id}")
