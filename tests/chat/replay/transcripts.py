"""Transcripts of agents, and a server without an engine that answers them with what a script says the model samples.

All that a real server does to a prompt and an answer is done: parsing, rendering, tokenizing, reading, writing. What is
not computed is the model, so the tokens that would have to be are counted instead.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ds4trio.api.answer import Frame
from ds4trio.api.task import Task
from ds4trio.chat import ChatModel
from ds4trio.engine import Finished, ModelInfo, Progress, TextDelta, Tokenizer, Usage
from ds4trio.server.prompts import prepare
from tests.chat.replay.agents import AGENTS, Agent
from tests.chat.replay.tokenizers import oddly

__all__ = ["CHATML", "SPECIAL", "TRANSCRIPTS", "Server", "Turn", "play"]

SPECIAL = ("<|im_start|>", "<|im_end|>")

CHATML = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
    "{{ '<think>\n' + m.reasoning_content | trim + '\n</think>\n\n' if m.reasoning_content KEPT }}"
    "{% if m.role == 'tool' %}<tool_response>\n{{ m.content }}\n</tool_response>{% else %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}{{ '\n' if not loop.first or m.content }}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template like Qwen's. ``KEPT`` is to be replaced by the condition under which reasoning stays."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user says, and the raw answers that follow, each after the results of the one before.

    ``edited`` is what the user makes of the answer before; ``system`` the system text from here on.
    """

    user: str
    answers: tuple[str, ...]
    edited: str = ""
    system: str = ""


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


THOUGHT = "<think>\nThe user wants to know what is in the file, so I read it first.\n</think>\n\n"
READ = call("read", '{"path":"src/naïve.py",  "line": 1.0, "more": {"b": [1, 2], "a": null}}')
WRITE = call("write", '{ "path" : "src/table\\u0041.py", "more": {"text": "<b>\\"é\\"</b>\\n"} }')
NOTHING = call("read", "{}")
SAID = "The  file holds the green table,\nand `<b>é</b>` in its first line."

TRANSCRIPTS: dict[str, tuple[Turn, ...]] = {
    "talk": (Turn("Hello?", ("Hello there, how may I help you today?",)), Turn("And now?", (SAID,)), Turn("So?", ())),
    "one call": (Turn("Look.", (READ, SAID)), Turn("Thanks.", ())),
    "call beside text": (Turn("Look.", (f"Let me look.\n{READ}", f"And there.\n{WRITE}", SAID)), Turn("Thanks.", ())),
    "parallel calls": (
        Turn("Look at both.", (f"{READ}\n{WRITE}\n{NOTHING}", f"{NOTHING}\n{READ}", SAID)),
        Turn("So?", ()),
    ),
    "long work": (Turn("Do it.", (READ, WRITE) * 8), Turn("Is it done?", (SAID,)), Turn("Sure?", ())),
    "reasoning": (Turn("Look.", (THOUGHT + READ, f"{THOUGHT}Now this.\n{WRITE}", THOUGHT + SAID)),),
    "edited last message": (Turn("Look.", (READ, SAID)), Turn("Now this.", ()), Turn("No, that.", ())),
    "edited answer": (Turn("Look.", (READ, SAID)), Turn("So?", (SAID,), edited="The file is empty."), Turn("No?", ())),
    "changed date": (
        Turn("Look.", (READ, SAID), system="Today is Monday."),
        Turn("And?", (READ, SAID), system="Today is Tuesday."),
        Turn("So?", ()),
    ),
}


@dataclass(slots=True)
class Server:
    """``computed`` are the sequences that a cache would hold; ``prompts`` what was asked, ``fresh`` what was not there.

    ``new`` counts what no cache could have: the prompt without its longest beginning in tokens that were known.
    """

    chat: ChatModel
    tokenizer: Tokenizer
    special: Sequence[str]
    seed: int = 1
    computed: list[list[int]] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)

    def ask(self, agent: Agent, answer: str) -> Any:
        """Answer the agent's next request; returns the document."""
        task, choice = self._prepared(agent)
        prompt = self.prompts[-1]
        groups = oddly(answer, self._tokenize, self.special, random.Random(f"{self.seed} {len(self.prompts)}"))
        reply = task.answer(Frame(id="0" * 24, created=0.0, model="m"))
        written = reply.start(Progress(prompt_tokens=len(prompt)))
        count = 0
        for group in groups:
            count += len(group)
            text = b"".join(self.tokenizer.pieces(group)).decode()
            delta = choice.read(TextDelta(text, count, tokens=tuple(group)))
            written += reply.delta(0, delta) if delta is not None else b""
        delta, ending = choice.finish(Finished("stop", Usage(len(prompt), 0, count + 1)))
        written += reply.delta(0, delta) if delta is not None else b""
        written += reply.end(0, ending) + reply.finish(ending.usage)
        self.computed.append(prompt + [token for group in groups for token in group])
        return json.loads(written)

    def prefill(self, agent: Agent) -> None:
        """Compute the prompt of the agent's next request, and nothing more."""
        self._prepared(agent)
        self.computed.append(self.prompts[-1])

    def text(self, tokens: Sequence[int]) -> str:
        return b"".join(self.tokenizer.pieces(tokens)).decode()

    def _prepared(self, agent: Agent) -> tuple[Task, Any]:
        task = agent.protocol.parse(agent.request())
        info = ModelInfo(name="m", description="", context_length=10**6, trained_context_length=10**6, chat_template="")
        (choice,) = prepare(task, self.chat, info, self.tokenizer).choices
        prompt = list(choice.request.prompt)
        self.fresh.append(len(prompt) - max((_shared(prompt, known) for known in self.computed), default=0))
        self.prompts.append(prompt)
        return task, choice

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer.tokenize(text, add_special=False)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def play(server: Server, shape: str, transcript: Sequence[Turn], *, thinking: bool) -> None:
    """Let an agent of this protocol's shape work through a transcript."""
    agent = AGENTS[shape](thinking=thinking)
    results = {"read": "1: <b>é</b>\n2: green", "write": "ok"}
    for turn in transcript:
        agent.system = turn.system or agent.system
        if turn.edited:
            agent.edit_answer(turn.edited)
        before = len(agent.turns)
        agent.ask(turn.user)
        for answer in turn.answers:
            agent.take(server.ask(agent, answer), results)
        if not turn.answers:
            server.prefill(agent)
            del agent.turns[before:]
