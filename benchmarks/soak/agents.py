"""The clients of the soak. Each is an endless loop of requests; what they find wrong they say, and go on."""

import json
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
import trio

from benchmarks.soak.answers import LEAST_MARGIN, Reference, reference_of
from ds4trio.testing import StreamClient, chat_body, fresh_prompt, open_client

__all__ = ["AGENTS", "Soak", "learn"]

QUESTIONS = tuple(
    f"{verb} {thing}."
    for verb in ("Describe", "Name the parts of", "Say where one finds", "Explain")
    for thing in ("a river", "a train", "the moon", "a violin", "bread", "a clock")
)
ANSWER = 12
TURNS = 6
SYSTEM = (
    "You are a careful agent that answers with one JSON object. " + "Think of the table, the river, the stone. " * 40
)
PATIENCE = 120.0
"""Seconds after which a client that is not answered calls that wrong."""
BROKEN = (h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError, OSError)


@dataclass
class Soak:
    """One server's life as its clients see it. ``left`` counts requests by how they ended."""

    port: int
    references: dict[str, Reference]
    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    stopping: trio.Event = field(default_factory=trio.Event)
    killed: bool = False

    @property
    def computed(self) -> int:
        """Requests of which something was computed."""
        return self.ended["complete"] + self.ended["left"]

    def check(self, right: bool, what: str) -> None:
        """Note what is wrong."""
        if not right:
            self.wrong.append(what)

    def compare(self, question: str, text: str, protocol: str) -> None:
        """Note an answer that is another one than when nobody else was there."""
        margin = self.references[question].margin(text)
        self.check(
            margin < LEAST_MARGIN, f"{protocol}: {question} was answered with {text!r}, {margin:.2f} less likely"
        )

    @asynccontextmanager
    async def asking(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> AsyncIterator[StreamClient]:
        """A connection with one request on it, which has to end in time."""
        with trio.move_on_after(PATIENCE) as patience:
            async with open_client(self.port, body, path=path) as client:
                yield client
        self.check(not patience.cancelled_caught or self.killed, f"{path}: no end within {PATIENCE:g} s")

    async def complete(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> dict[str, Any] | None:
        """The document that answers a request that is not streamed; None where the server was killed."""
        async with self.asking(body, path) as client:
            await client.read_all()
        if client.status != 200:
            self.check(False, f"{path}: status {client.status}")
            return None
        self.ended["complete"] += 1
        document: dict[str, Any] = json.loads(client.body)
        return document


async def learn(port: int) -> dict[str, Reference]:
    """What a server that does nothing else answers to the questions."""
    references = {}
    for question in QUESTIONS:
        body = chat_body(question, stream=False, max_tokens=ANSWER, temperature=0, logprobs=True, top_logprobs=2)
        async with open_client(port, body) as client:
            await client.read_all()
        references[question] = reference_of(json.loads(client.body)["choices"][0]["logprobs"]["content"], ANSWER)
    return references


async def converse(soak: Soak) -> None:
    """A conversation whose answers are forced, so that a word of anybody else's would be seen."""
    messages = [{"role": "system", "content": SYSTEM}]
    for _ in range(TURNS):
        nonce = secrets.token_hex(6)
        messages.append({"role": "user", "content": f"The id is {nonce}. {fresh_prompt(60)}"})
        schema = {
            "type": "object",
            "properties": {"id": {"const": nonce}},
            "required": ["id"],
            "additionalProperties": False,
        }
        body = {
            "stream": True,
            "messages": messages,
            "max_tokens": 40,
            "response_format": {"type": "json_schema", "json_schema": {"name": "id", "schema": schema}},
        }
        async with soak.asking(body) as client:
            await client.read_all()
        soak.check(client.body.endswith(b"data: [DONE]\n\n"), "a stream without its end")
        soak.check(_is_object(client.text, {"id": nonce}), "a forced answer that is another one")
        soak.ended["complete"] += 1
        messages.append({"role": "assistant", "content": client.text})


async def question_chat(soak: Soak) -> None:
    """One of the questions, streamed."""
    question = random.choice(QUESTIONS)
    async with soak.asking(chat_body(question, max_tokens=ANSWER, temperature=0)) as client:
        await client.read_all()
    soak.check(client.body.endswith(b"data: [DONE]\n\n"), f"chat: status {client.status}, or no end")
    soak.ended["complete"] += 1
    soak.compare(question, client.text, "chat")


async def question_responses(soak: Soak) -> None:
    """One of the questions, by Responses."""
    question = random.choice(QUESTIONS)
    body = {"model": "any", "input": question, "max_output_tokens": ANSWER, "temperature": 0, "store": False}
    if document := await soak.complete(body, "/v1/responses"):
        text = "".join(part["text"] for item in document["output"] for part in item.get("content", ()))
        soak.compare(question, text, "responses")


async def question_messages(soak: Soak) -> None:
    """One of the questions, by Messages."""
    question = random.choice(QUESTIONS)
    body = {
        "model": "any",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": ANSWER,
        "temperature": 0,
    }
    if document := await soak.complete(body, "/v1/messages"):
        text = "".join(block["text"] for block in document["content"])
        soak.compare(question, text, "messages")


async def vanish(soak: Soak) -> None:
    """A long prompt whose client leaves somewhere between the queue and the answer, in one of two ways."""
    body = chat_body(fresh_prompt(random.randint(100, 900)), max_tokens=60)
    async with soak.asking(body) as client:
        with trio.move_on_after(random.expovariate(1.0)):
            await client.read_all()
        if random.random() < 0.5:
            client.reset()
    soak.ended["left"] += 1


async def insist(soak: Soak) -> None:
    """A client with a deadline of its own that sends the same request until it is answered in time."""
    body = chat_body(fresh_prompt(400), max_tokens=8)
    for attempt in range(30):
        async with soak.asking(body) as client:
            with trio.move_on_after(0.5 * 1.2**attempt):
                await client.read_all()
        if client.body.endswith(b"data: [DONE]\n\n"):
            soak.ended["complete"] += 1
            return
        soak.ended["left"] += 1
    soak.check(False, "a client that insisted was never answered")


async def blunder(soak: Soak) -> None:
    """Requests that are refused."""
    body: dict[str, Any] = random.choice(
        [{}, {"messages": "hi"}, chat_body("hi", temperature="hot"), chat_body("x", n=0)]
    )
    async with soak.asking(body) as client:
        await client.read_all()
    soak.check(client.status == 400, f"a bad request got status {client.status}")
    soak.ended["refused"] += 1
    await trio.sleep(1)


async def watch(soak: Soak) -> None:
    """Somebody who looks at the page for a while, and at the figures."""
    for path in ("/metrics", "/requests", "/requests/events"):
        async with open_client(soak.port, method="GET", path=path) as client:
            with trio.move_on_after(3):
                await client.read_all()
        soak.check(client.status == 200, f"{path}: status {client.status}")


def _is_object(text: str, wanted: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(text) == wanted)
    except ValueError:
        return False


def _for_ever(once: Callable[[Soak], Awaitable[None]]) -> Callable[[Soak], Awaitable[None]]:
    async def agent(soak: Soak) -> None:
        while not soak.stopping.is_set():
            try:
                await once(soak)
            except BROKEN as error:
                soak.check(soak.killed, f"{once.__name__}: {type(error).__name__}")
                await trio.sleep(0.2)
            except ValueError:
                soak.check(soak.killed, f"{once.__name__}: what came was cut off")

    return agent


AGENTS = tuple(
    map(
        _for_ever,
        (
            *(converse, converse, question_chat, question_chat, question_responses, question_messages),
            *(vanish, vanish, insist, blunder, watch),
        ),
    )
)
