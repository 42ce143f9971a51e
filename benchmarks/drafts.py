"""What guessing brings where an answer repeats what it was given, and what it costs where it does not.

    python -m benchmarks.drafts [--rounds 5] [--model FILE.gguf]

Two servers, one with ``--draft ngram`` (the default) and one with ``--draft off``, are asked the same in turns. The
file to be edited is one of ours. SmolLM2-135M is too small to edit a file when told so: a grammar holds it to the
edited text, which it writes token by token as ever. The other texts it writes freely. Greedy answers are compared:
their prompts are short enough for one step, since the borders of steps move llama.cpp's logits a little.
"""

import json
import random
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import click

import ds4trio.engine.admission
from benchmarks.peers import CTX, THREADS
from benchmarks.report import Report, benchmark
from ds4trio.testing import ServerProcess, chat_body, fresh_prompt, open_client, run_server

FASTER = 1.5
NOT_SLOWER = 0.97
FILE_CHARACTERS = 3000
FREE = 250
"""Tokens of a free answer."""


def edit() -> dict[str, Any]:
    """A file, and the same file with one name changed everywhere."""
    text = Path(ds4trio.engine.admission.__file__).read_text()[:FILE_CHARACTERS]
    edited = re.sub(r"\bpriority\b", "urgency", text)
    assert edited != text
    # Nobody sent it before.
    question = "Rename `priority` to `urgency`, and answer with the whole file."
    prompt = f"{fresh_prompt(60)}\n\n```python\n{text}\n```\n\n{question}"
    return chat_body(prompt, temperature=0, max_tokens=2000, grammar=f"root ::= {json.dumps(edited)}")


def story() -> dict[str, Any]:
    """A text that repeats little, drawn at random."""
    seed = random.randrange(2**31)
    return chat_body(f"Tell me a story. {fresh_prompt(50)}", temperature=1, seed=seed, max_tokens=FREE, ignore_eos=True)


def ramble() -> dict[str, Any]:
    """A greedy answer: a small model soon repeats itself in it."""
    return chat_body(f"Tell me a story. {fresh_prompt(50)}", temperature=0, max_tokens=FREE, ignore_eos=True)


TASKS = {"an edited file": edit, "a story, temperature 1": story, "a story, greedy": ramble}


async def write(server: ServerProcess, body: dict[str, Any]) -> tuple[float, str, dict[str, Any]]:
    """Tokens per second of an answer behind its first one, its text and its timings."""
    async with open_client(server.port, body) as client:
        await client.read_all()
    times = client.times_of_tokens
    timings = next(event.data["timings"] for event in reversed(client.events) if "timings" in event.data)
    return (timings["predicted_n"] - 1) / (times[-1] - times[0]), client.text, timings


@benchmark("drafts")
@click.option("--rounds", default=5, show_default=True)
async def main(report: Report, model: str, rounds: int) -> None:
    """Measure two servers side by side."""
    flags = ("--model", model, "--ctx", str(CTX), "--threads", str(THREADS), "--no-kv-disk")
    async with run_server(*flags) as guessing, run_server(*flags, "--draft", "off") as plain:
        for name, task in TASKS.items():
            ratios, rates, drafted, accepted, equal = [], [], 0, 0, 0
            with click.progressbar(range(rounds + 1), label=name, file=sys.stderr) as bar:
                for number in bar:
                    body = task()
                    order = [guessing, plain] if number % 2 else [plain, guessing]
                    results = {id(server): await write(server, body) for server in order}
                    (fast, text, timings), (slow, other, _) = results[id(guessing)], results[id(plain)]
                    if number:  # the first one warms up
                        ratios.append(fast / slow)
                        rates.append((fast, slow))
                        drafted += timings.get("draft_n", 0)
                        accepted += timings.get("draft_n_accepted", 0)
                        equal += text == other
            ratio = statistics.median(ratios)
            with_it, without = (statistics.median(values) for values in zip(*rates, strict=True))
            least = FASTER if task is edit else NOT_SLOWER
            report.add(
                f"{name}: tokens/s with and without guessing ({rounds}×)",
                f"{with_it:.0f} and {without:.0f}, {ratio:.2f} × ({min(ratios):.2f} to {max(ratios):.2f}); "
                f"{accepted} of {drafted} guessed tokens accepted",
                f"≥ {least} ×",
                ratio >= least,
            )
            if task is ramble:
                report.add(f"{name}: the same text", f"{equal} of {rounds}", f"{rounds} of {rounds}", equal == rounds)
            report.series.setdefault("drafts", {})[name] = rates


if __name__ == "__main__":
    main()
