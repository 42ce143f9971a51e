"""What is kept, for how long, and the documents that clients get of it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from openai.types.responses import Response, ResponseItem
from pydantic import TypeAdapter

from ds4trio.api.answer import Answer, Frame
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


def test_a_page_after_an_unknown_item_is_refused(responses: Responses) -> None:
    play(keep(responses), [])
    with pytest.raises(InvalidRequestError):
        responses.input_items_document("resp_00ff", after="msg_other")


def stored(size: int, *item_ids: str) -> StoredResponse:
    return StoredResponse(b"x" * size, b"", None, item_ids)


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
    assert StoredResponse(b"", b"", (message, message)).size > 2000


class StoreMachine(RuleBasedStateMachine):
    """Whatever is done, the bounds hold, the size is that of what is there, and no item outlives its response."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.store = ResponseStore(most_responses=4, most_bytes=100)
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
        assert sum(response.size for response in there) == self.store.size <= 100
        for name in self.known:
            assert (self.store.item(f"item_of_{name}") is not None) == (self.store.get(name) is not None)

    def _put(self, method: Callable[[str, StoredResponse], None], response_id: str, size: int) -> str:
        item_id = f"item_of_{response_id}"
        document = json.dumps({"output": [{"id": item_id}], "x": "x" * size}).encode()
        self.known[response_id] = StoredResponse(document[:], b"", None, (item_id,))
        method(response_id, self.known[response_id])
        return response_id


TestStore = StoreMachine.TestCase


def test_what_was_refused_is_not_kept(responses: Responses) -> None:
    answer = keep(responses)
    answer.refusal(ApiError("queue full"))
    with pytest.raises(UnknownResponseError):
        responses.response_document(f"resp_{FRAME.id}")
