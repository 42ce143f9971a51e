"""What protocols and dialects cost: milliseconds per token on one core, and what a long body does to the event loop.

    python -m benchmarks.cost

The first part reads recorded-looking answers (reasoning, text, a tool call with a long argument) token by token with a
dialect's reader and writes them down in each protocol, as the server does. The second sends a body of 5 MB to a server
in this process, with a real tokenizer, while a ticker measures how late the loop lets it run.
"""

import json
import math
import statistics
import time
from collections.abc import Callable

import trio

from benchmarks.report import Report, benchmark
from ds4trio.api.answer import Answer, Frame
from ds4trio.api.chat_completions import ChatCompletions
from ds4trio.api.completions import Completions
from ds4trio.api.messages import Messages
from ds4trio.api.responses import Responses, ResponseStore
from ds4trio.api.task import WireProtocol
from ds4trio.chat import TextReader, Tool
from ds4trio.chat.dialects import HERMES, DialectReader
from ds4trio.chat.guide import AnswerGuide
from ds4trio.config import Settings
from ds4trio.engine import Finished, GenerationRequest, Progress, TextDelta, Usage
from ds4trio.server.app import build_app
from ds4trio.server.choices import Choice
from ds4trio.testing import call_asgi

TOKENS = 20_000
BYTES_PER_TOKEN = 4
MOST_PER_TOKEN = 0.15e-3
BODY_BYTES = 5_000_000
LONGEST_HOLD = 0.02

TOOL = Tool(
    "write_file", parameters={"type": "object", "properties": {"path": {"type": "string"}, "text": {"type": "string"}}}
)
HELLO = [{"role": "user", "content": "hi"}]
BODIES: dict[str, tuple[Callable[[], WireProtocol], dict[str, object]]] = {
    "chat": (ChatCompletions, {"messages": HELLO}),
    "completions": (Completions, {"prompt": "hi"}),
    "responses": (lambda: Responses(ResponseStore()), {"input": "hi", "model": "m"}),
    "messages": (Messages, {"messages": HELLO, "model": "m", "max_tokens": 9}),
}


def answer_text() -> str:
    """Prose, then a call whose argument is a long file."""
    prose = "The river ran past the green table, and nobody heard it. " * (TOKENS * BYTES_PER_TOKEN // 2 // 57)
    lines = "\n".join(
        f'    print("line {number}")  # <b>é</b>' for number in range(TOKENS * BYTES_PER_TOKEN // 2 // 40)
    )
    call = {"name": TOOL.name, "arguments": {"path": "a.py", "text": lines}}
    return f"{prose}\n<tool_call>\n{json.dumps(call)}\n</tool_call>"


def seconds_per_token(make: Callable[[], WireProtocol], body: dict[str, object], text: str, *, stream: bool) -> float:
    """One whole answer, from the engine's text to the protocol's bytes, and what the sampling thread adds."""
    task = make().parse(json.dumps({**body, "stream": stream}).encode())
    answer: Answer = task.answer(Frame("0" * 24, 0.0, "m", prompts=("hi",)))
    raw = task.kind == "completion"
    reader = TextReader() if raw else DialectReader(HERMES, tools=(TOOL,), prompt_end="")
    guide = AnswerGuide(DialectReader(HERMES, tools=(TOOL,), prompt_end=""), budget=None, think_end="")
    choice = Choice(GenerationRequest(prompt=[1], max_tokens=TOKENS), lambda: reader)
    pieces = [text[start : start + BYTES_PER_TOKEN] for start in range(0, len(text), BYTES_PER_TOKEN)]
    answer.start(Progress())
    begun = time.perf_counter()
    for number, piece in enumerate(pieces, 1):
        if not raw:
            guide.observe(piece, special=False)
        if (delta := choice.read(TextDelta(piece, number))) is not None:
            answer.delta(0, delta)
    rest, ending = choice.finish(Finished("stop", Usage(1, 0, len(pieces))))
    if rest is not None:
        answer.delta(0, rest)
    answer.end(0, ending)
    answer.finish(ending.usage)
    return (time.perf_counter() - begun) / len(pieces)


def per_token(report: Report) -> None:
    """A row for each protocol and form."""
    text = answer_text()
    for name, (make, body) in BODIES.items():
        for stream in (True, False):
            cost = statistics.median(seconds_per_token(make, body, text, stream=stream) for _ in range(5))
            form = "stream" if stream else "document"
            report.add(
                f"{name}, {form}: reading, guiding, writing",
                f"{1e3 * cost:.4f} ms a token",
                f"≤ {1e3 * MOST_PER_TOKEN:g} ms",
                cost <= MOST_PER_TOKEN,
            )


async def long_body(report: Report, model: str) -> None:
    """A conversation of 5 MB: parsed, rendered, tokenized, and only then refused, since no context holds it."""
    texts = ["the river ran past the green table " * 70] * (BODY_BYTES // 2500)
    messages = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]
    # Written before the clock runs: this loop is the server's, too.
    bodies = {
        "/v1/chat/completions": json.dumps({"messages": messages}).encode(),
        "/v1/responses": json.dumps({"model": "m", "input": messages}).encode(),
        "/v1/messages": json.dumps({"model": "m", "max_tokens": 9, "messages": messages}).encode(),
    }
    app = build_app(Settings(model=model, ctx=512, any_model=True))
    async with app.test_app(), trio.open_nursery() as nursery:
        await app.host.settled.wait()
        late = 0.0

        async def tick() -> None:
            nonlocal late
            while True:
                due = trio.current_time() + 0.002
                await trio.sleep_until(due)
                late = max(late, trio.current_time() - due)

        nursery.start_soon(tick)
        for path, data in bodies.items():
            worst, took = 0.0, math.inf
            for _ in range(3):
                late, begun = 0.0, trio.current_time()
                async with call_asgi(app, data, path=path) as call:
                    await call.ended.wait()
                worst, took = max(worst, late), min(took, trio.current_time() - begun)
                if call.status != 400 or b"context" not in call.body:
                    raise SystemExit(f"unexpected answer: {call.status} {call.body[:200]!r}")
            report.add(
                f"{path}, {len(data) / 1e6:.1f} MB parsed, rendered, tokenized in {took:.1f} s: the loop is held",
                f"{1e3 * worst:.1f} ms",
                f"≤ {1e3 * LONGEST_HOLD:g} ms",
                worst <= LONGEST_HOLD,
            )
        nursery.cancel_scope.cancel()


@benchmark("cost")
async def main(report: Report, model: str) -> None:
    """Measure the readers and writers, and one loop."""
    per_token(report)
    await long_body(report, model)


if __name__ == "__main__":
    main()
