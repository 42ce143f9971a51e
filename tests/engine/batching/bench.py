"""A batcher on a fake memory, and the clients who ask it: everything that a test of the batcher needs to stand on.

The model is a pure function, `next_token`, of all tokens before. So `answer` knows what each client has to hear, and a
client that heard it had the right KV at every single step.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zlib import crc32

from ds4trio.cache import MemoryKind
from ds4trio.engine.base import EngineError, Finished, FinishReason, GenerationRequest, Progress, TextDelta
from ds4trio.engine.batching import Batcher, Extension, Outcome, Released, Scheduler, Update
from ds4trio.engine.batching import Sequence as Request
from ds4trio.engine.batching.keeper import Disk
from ds4trio.engine.batching.scheduler import Work
from tests.engine.batching.fake_memory import Batch, FakeMemory, History
from tests.engine.batching.machines import Machine, compute_bound

__all__ = [
    "ECHO",
    "LEAST_KEPT",
    "STALL",
    "Bench",
    "Client",
    "Plan",
    "Writer",
    "answer",
    "experience",
    "talkative",
    "tokens_of",
]

STALL = 0.25
LEAST_KEPT = 512
VOCABULARY = 32_000
END = 64
"""One token of so many ends the answer."""
FRAME = 32
"""One token of so many has a frame of `FRAME_TOKENS` after it, which nobody samples."""
FRAME_TOKENS = 20
ECHO = 1


def next_token(history: History) -> int:
    """What the model says next: anything, but always the same, and something else for any other history.

    A text that begins with `ECHO` makes it repeat itself, with some changes.
    """
    dice = crc32(array("q", history).tobytes())
    if history[0] == ECHO and dice % 16:
        follows = history[-1] + 1
        return follows if follows in history and dice % 8 else history[dice % len(history)]
    return dice % VOCABULARY


@dataclass(slots=True)
class Writer:
    """Writes an answer of at most ``most`` tokens."""

    most: int
    sampled: int = 0
    stopped: str | None = None
    rows: int = 0
    closed: bool = False

    def extend(self, row: History) -> Extension:
        assert not self.closed
        self.rows += 1
        token = next_token(row)
        if token % END == 0:
            return Extension([], [], "stop")
        tokens = [token]
        if token % FRAME == 1:
            tokens += range(token, token + FRAME_TOKENS)
        tokens = tokens[: self.most - self.sampled]
        self.sampled += len(tokens)
        text = "".join(f"{token} " for token in tokens)
        return Extension(tokens, [TextDelta(text, self.sampled)], "length" if self.sampled >= self.most else None)

    def close(self) -> None:
        self.closed = True


def answer(prompt: Sequence[int], most: int) -> tuple[list[int], FinishReason]:
    """What a model that sees all of its prompt and its answer says, and why it ends."""
    writer, history = Writer(most), [*prompt]
    while True:
        extension = writer.extend(history)
        history += extension.tokens
        if extension.reason is not None:
            return history[len(prompt) :], extension.reason


def tokens_of(seed: int, count: int) -> list[int]:
    """A text; those of two seeds have no beginning in common."""
    return [1_000_000 * (seed + 1) + index for index in range(count)]


def talkative(seed: int, count: int, most: int) -> list[int]:
    """A text of ``count`` tokens whose answer is as long as it may be, each token of it sampled."""
    for attempt in range(1000):
        prompt, writer = tokens_of(1000 * seed + attempt, count), Writer(most)
        history = [*prompt]
        while writer.sampled == writer.rows and writer.sampled < most:
            history += writer.extend(history).tokens
        if writer.sampled == writer.rows:
            return prompt
    raise AssertionError("all that is said here is short")


class Client:
    """Who asked, and all that it was told."""

    def __init__(self, prompt: list[int], *, most: int, priority: int = 0, turns: tuple[int, ...] = ()) -> None:
        self.prompt = prompt
        self.most = most
        self.updates: list[Update] = []
        self.writer = Writer(most)
        self._begun = False
        request = GenerationRequest(prompt=prompt, max_tokens=most, priority=priority, turns=turns)
        self.request: Request[History] = Request(request, self._begin, self._hear)

    def _begin(self) -> Writer:
        assert not self._begun, "one writer for each request"
        self._begun = True
        return self.writer

    def _hear(self, update: Update) -> None:
        assert not self.released, "nothing is heard after Released"
        assert self.finished is None or isinstance(update, Released), "nothing comes after the end"
        self.updates.append(update)

    @property
    def text(self) -> str:
        return "".join(update.text for update in self.updates if isinstance(update, TextDelta))

    @property
    def finished(self) -> Finished | None:
        return next((update for update in self.updates if isinstance(update, Finished)), None)

    @property
    def error(self) -> EngineError | None:
        return next((update for update in self.updates if isinstance(update, EngineError)), None)

    @property
    def released(self) -> bool:
        return bool(self.updates) and isinstance(self.updates[-1], Released)

    @property
    def progress(self) -> Progress:
        """The latest."""
        return next(update for update in reversed(self.updates) if isinstance(update, Progress))

    @property
    def cached(self) -> int:
        """How many tokens needed no prefill."""
        return self.progress.cached_tokens

    def check(self) -> None:
        """Everything it was told is what a model that computes it alone would have said, up to where it left."""
        tokens, reason = answer(self.prompt, self.most)
        expected = "".join(f"{token} " for token in tokens)
        if self.request.cancelled and self.finished is None:
            assert expected.startswith(self.text)
            return
        assert self.error is None
        assert self.text == expected
        assert self.finished is not None
        assert self.finished.reason == reason
        usage = self.finished.usage
        assert (usage.prompt_tokens, usage.output_tokens) == (len(self.prompt), len(tokens))


@dataclass(frozen=True, slots=True)
class Plan:
    """What the scheduler decided: of each sequence, whether it decodes, its position and what it gets."""

    works: tuple[tuple[bool, int, int], ...]

    @property
    def prompt_tokens(self) -> int:
        return sum(count for decodes, _, count in self.works if not decodes)


class WatchedScheduler(Scheduler):
    """A scheduler whose latest plan can be read."""

    latest: Plan | None = None

    def plan(self, works: Sequence[Work], *, reserved: float = 0.0, awaited: bool = False) -> list[int]:
        take = super().plan(works, reserved=reserved, awaited=awaited)
        self.latest = Plan(
            tuple(
                (work.answering and work.left == 1, work.computed, count)
                for work, count in zip(works, take, strict=True)
            )
        )
        return take


def experience(scheduler: Scheduler, machine: Machine, *, most: int) -> None:
    """Let a scheduler see steps of every size up to ``most`` tokens, at several positions."""
    for tokens in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512):
        for position in (0, 2000, 500, 0):
            if tokens <= most:
                work: Request[History] = Request(
                    GenerationRequest(prompt=[0] * tokens, max_tokens=1), lambda: Writer(1), print
                )
                work.computed = position
                scheduler.learn([work], [tokens], machine(tokens, tokens * (position + tokens / 2)))


class Bench:
    """A batcher as the worker has it, one step at a time."""

    def __init__(
        self,
        kind: MemoryKind,
        *,
        cells: int = 4000,
        slots: int = 4,
        ubatch: int = 128,
        machine: Machine = compute_bound,
        save_seconds: float = 0.0,
        state_bytes: int = 2**30,
        rest_bytes: int = 0,
        disk: Disk | None = None,
        draft: bool = False,
    ) -> None:
        self.kind = kind
        self.machine = machine
        self.memory = FakeMemory(
            kind, cells=cells, sequences=slots, ubatch=ubatch, machine=machine, save_seconds=save_seconds
        )
        self.scheduler = WatchedScheduler(ubatch=ubatch, max_stall=STALL, mixed=not kind.whole_only, stoppable=True)
        experience(self.scheduler, machine, most=ubatch)
        self.batcher: Batcher[History] = Batcher(
            self.memory,
            slots=slots,
            state_bytes=state_bytes,
            rest_bytes=rest_bytes,
            scheduler=self.scheduler,
            tell=lambda sequence, update: self._outbox.append((sequence, update)),
            flush=self.flush,
            text=lambda tokens: "".join(f"{token} " for token in tokens),
            disk=disk,
            least_kept=LEAST_KEPT,
            draft=draft,
            clock=lambda: self.memory.now,
        )
        self.clients: list[Client] = []
        self._outbox: list[tuple[Request[History], Update]] = []

    @property
    def batches(self) -> list[Batch]:
        return self.memory.batches

    @property
    def done(self) -> list[Batch]:
        """The batches that were computed."""
        return [batch for batch in self.batches if batch.outcome is Outcome.DONE]

    @property
    def computed(self) -> int:
        """How many tokens were computed in all."""
        return sum(batch.tokens for batch in self.done)

    def ask(self, prompt: list[int], *, most: int = 4, priority: int = 0, turns: tuple[int, ...] = ()) -> Client:
        client = Client(prompt, most=most, priority=priority, turns=turns)
        self.clients.append(client)
        self.batcher.add(client.request)
        return client

    def step(self) -> None:
        """What the worker does in one turn."""
        self.batcher.drop_cancelled()
        self.batcher.step()
        self.flush()

    def until(self, condition: Callable[[], object], *, steps: int = 1000) -> None:
        """Steps until a condition holds."""
        for _ in range(steps):
            if condition():
                return
            self.step()
        raise AssertionError(f"not so after {steps} steps")

    def run(self, *, steps: int = 2000) -> None:
        """Until nobody waits for anything."""

        def idle() -> bool:
            self.batcher.drop_cancelled()
            self.flush()
            return not self.batcher.sequences

        self.until(idle, steps=steps)

    def flush(self, _: float = 0.0) -> None:
        outbox, self._outbox = self._outbox, []
        for sequence, update in outbox:
            sequence.listener(update)
