"""Chat requests as clients write them, and what becomes of them."""

import json
from pathlib import Path

from ds4trio.api.chat_completions import ChatCompletions
from ds4trio.api.chat_completions.answer import ChatDocument, ChatOptions, ChatStream
from ds4trio.api.errors import InvalidRequestError
from ds4trio.api.task import Task
from ds4trio.chat import Conversation
from tests.api import tasks

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
GOLDEN = sorted((Path(__file__).parents[2] / "data" / "requests").glob("*chat-completions*.json"))


def body(**members: object) -> bytes:
    return json.dumps({"messages": HI, **members}).encode()


def raw(members: str) -> bytes:
    """A body with members that ``json.dumps`` would not write."""
    return f'{{"messages": [{{"role": "user", "content": "hi"}}], {members}}}'.encode()


def parse(request: bytes) -> Task:
    return ChatCompletions().parse(request)


def conversation(**members: object) -> Conversation:
    prompt = parse(body(**members)).prompt
    assert isinstance(prompt, Conversation)
    return prompt


def answer_of(task: Task) -> tuple[type[ChatStream | ChatDocument], ChatOptions]:
    """How the task is answered."""
    return tasks.answer_of(task)


def described(request: bytes) -> dict[str, object]:
    """All that a request asks for, to compare it."""
    return tasks.described(parse(request))


def refusal(request: bytes) -> InvalidRequestError:
    return tasks.refused(parse, request)


def function(name: str = "read", **members: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, **members}}
