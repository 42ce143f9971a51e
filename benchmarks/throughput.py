"""Raw work: tokens per second of one, four and eight answers, and of prompts; beside a bare loop and other servers.

    python -m benchmarks.throughput [--rounds 4] [--peer http://HOST:PORT] [--model FILE.gguf]

Whoever is measured computes alone. All take turns, so that a slow minute of the machine hits all of them, and each
figure is the median of its ratios to the bare loop's of the same round. Clients share the machine with the servers, as
on a laptop. Answers are greedy and must not end early; our own guessing of what an answer repeats (`--draft`) is off
here, since the text is of no interest: `python -m benchmarks.drafts` is about that.
"""

import random
import statistics
import sys
from collections import defaultdict
from typing import Any

import click
import trio

from benchmarks.bare import Bare, open_bare
from benchmarks.peers import OURS, Contender, open_contenders
from benchmarks.report import Report, benchmark
from ds4trio.testing import StreamClient, chat_body, fresh_prompt, open_client

STREAMS = (1, 4, 8)
ANSWER = 100
PROMPTS = (250, 1000, 2500)
BARE = "bare loop"
ENOUGH = 0.97

Rates = dict[str, dict[int, list[float]]]
"""By who was measured and how much, tokens per second in each round."""


def body_of(prompt: str, *, answer: int) -> dict[str, Any]:
    """A request for an answer of so many tokens, in words that all servers understand."""
    return chat_body(
        prompt,
        model="any",
        max_tokens=answer,
        temperature=0,
        # SmolLM2's ends of a text and of a turn.
        logit_bias={"0": -100, "2": -100},
        stream_options={"include_usage": True},
    )


async def decode(contender: Contender, streams: int) -> float:
    """Tokens per second of so many answers, all together, while all of them are being written."""
    clients: list[StreamClient] = []

    async def come() -> None:
        body = body_of(f"Tell me a long story. {fresh_prompt(45)}", answer=ANSWER)
        async with open_client(contender.port, body, host=contender.host) as client:
            await client.read_all()
            if not client.times_of_tokens:
                raise EOFError(f"{contender.name} gave no answer: status {client.status}")
            clients.append(client)

    async with trio.open_nursery() as nursery:
        for _ in range(streams):
            nursery.start_soon(come)
    times = [[client.sent_at + at for at in client.times_of_tokens] for client in clients]
    since, until = max(each[0] for each in times), min(each[-1] for each in times)
    if since >= until:  # one after the other
        since, until = min(each[0] for each in times), max(each[-1] for each in times)
    tokens = 0.0
    for client in clients:
        # A piece of text may be several tokens, or less than one; a server that does not count (llama_cpp.server) sends
        # one in each.
        sizes = [(client.sent_at + at, len(text)) for at, text in client.pieces]
        per_letter = client.usage.get("completion_tokens", len(sizes)) / sum(size for _, size in sizes)
        tokens += per_letter * sum(size for at, size in sizes if since < at <= until)
    return tokens / (until - since)


async def prefill(contender: Contender, tokens: int) -> float:
    """Tokens of a prompt per second until its first token."""
    # A template that has a system prompt of its own would begin all requests with it, and only the first computes that.
    system = {"role": "system", "content": fresh_prompt(tokens)}
    body = body_of("Go on.", answer=2)
    body["messages"].insert(0, system)
    async with open_client(contender.port, body, host=contender.host) as client:
        took = await client.wait_for_token()
        await client.read_all()
    return float(client.usage.get("prompt_tokens", tokens)) / took


async def rounds_of(bare: Bare, contenders: list[Contender], rounds: int) -> tuple[Rates, Rates]:
    """Decode and prefill, of all in turns; a small one of each, that warms everything up, is not counted."""
    decoding: Rates = defaultdict(lambda: defaultdict(list))
    prefilling: Rates = defaultdict(lambda: defaultdict(list))

    async def decode_all(streams: int) -> None:
        decoding[BARE][streams].append(streams * ANSWER / await bare.decode(streams, ANSWER))
        for contender in random.sample(contenders, len(contenders)):
            decoding[contender.name][streams].append(await decode(contender, streams))

    async def prefill_all(tokens: int) -> None:
        prefilling[BARE][tokens].append(tokens / await bare.prefill(tokens))
        for contender in random.sample(contenders, len(contenders)):
            prefilling[contender.name][tokens].append(await prefill(contender, tokens))

    await decode_all(STREAMS[0])
    await prefill_all(PROMPTS[0])
    decoding.clear()
    prefilling.clear()
    steps = [(measure, size) for measure, sizes in ((decode_all, STREAMS), (prefill_all, PROMPTS)) for size in sizes]
    with click.progressbar(rounds * steps, label="measures", file=sys.stderr) as bar:
        for measure, size in bar:
            await measure(size)
    return decoding, prefilling


def compare(report: Report, what: str, rates: Rates, sizes: tuple[int, ...], unit: str) -> None:
    """A row for each size: everybody's rate, ours against the bare loop's and against llama-server's."""
    for size in sizes:
        ours = rates[OURS][size]
        measured = ", ".join(f"{name} {statistics.median(each[size]):.0f}" for name, each in rates.items())
        against = {
            name: statistics.median(own / other for own, other in zip(ours, each[size], strict=True))
            for name, each in rates.items()
            if name != OURS
        }
        ratios = ", ".join(f"{ratio:.3f} × {name}" for name, ratio in against.items())
        asked = size in (1, 4) or what == "prefill"
        bars = [f"≥ {ENOUGH} × bare loop"]
        holds = against[BARE] >= ENOUGH
        if what == "decode" and "llama-server" in against:
            bars.append("≥ llama-server")
            holds = holds and against["llama-server"] >= 1
        report.add(
            f"{what}, {size:,} {unit}: tokens/s",
            f"{measured}; {ratios}",
            " and ".join(bars) if asked else "for scale",
            holds or not asked,
        )
    report.series[what] = {name: {str(size): each[size] for size in sizes} for name, each in rates.items()}


@benchmark("throughput")
@click.option("--rounds", default=4, show_default=True)
@click.option("--peer", "peers", multiple=True, metavar="URL", help="another server with the same model, measured too")
async def main(report: Report, model: str, rounds: int, peers: tuple[str, ...]) -> None:
    """Measure and compare."""
    async with (
        open_bare(model) as bare,
        open_contenders(model, parallel=max(STREAMS), urls=peers, flags=("--draft", "off")) as contenders,
    ):
        decoding, prefilling = await rounds_of(bare, contenders, rounds)
    compare(report, "decode", decoding, STREAMS, "answers at once")
    compare(report, "prefill", prefilling, PROMPTS, "tokens")


if __name__ == "__main__":
    main()
