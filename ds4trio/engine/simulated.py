"""An engine without a model: it keeps the rates that it was given and answers with deterministic text.

For tests under virtual time, for demos, and for people who test the timeouts of their own agents. Pure Trio: the only
waiting is ``trio.sleep``, the only state is which prefixes were seen. Prefills share the machine one chunk at a time,
as on a real one, so a prompt behind a slow one is slow too.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from ds4trio.cache import Slot, SlotTable
from ds4trio.engine.admission import Admission, Ticket
from ds4trio.engine.base import Finished, GenerationRequest, ModelInfo, Phase, Progress, TextDelta, Usage
from ds4trio.engine.text import StopFilter

__all__ = ["SimulatedEngine"]

BYTES_PER_TOKEN = 4
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ("Simulated", "answers", "have", "a", "fixed", "rate", "and", "always", "the", "same", "words.")
ANSWER_TOKENS = 64


def _no_progress(_: Progress) -> None:
    pass


class SimulatedEngine:
    """Implements `Engine`.

    Rates are tokens per second; ``chunk`` is the number of prompt tokens per step; ``chunk_seconds`` may say how long
    a step takes instead: it gets the index of the chunk within its prompt and the seconds that the rate gives.
    An answer has ``answer_tokens`` unless the request wants fewer.
    """

    def __init__(
        self,
        *,
        context_length: int = 131_072,
        parallel: int = 4,
        max_queue: int = 64,
        prefill_tps: float = 270.0,
        decode_tps: float = 20.0,
        chunk: int = 512,
        chunk_seconds: Callable[[int, float], float] = lambda _, seconds: seconds,
        answer_tokens: int = ANSWER_TOKENS,
    ) -> None:
        self._admission = Admission(parallel=parallel, max_queue=max_queue)
        self._slots = SlotTable(parallel)
        self._compute = trio.Lock()
        self._prefill_tps = prefill_tps
        self._decode_tps = decode_tps
        self._chunk = chunk
        self._chunk_seconds = chunk_seconds
        self._answer_tokens = answer_tokens
        self._info = ModelInfo(
            name="simulated",
            description="no model: fixed rates, deterministic text",
            context_length=context_length,
            trained_context_length=context_length,
            chat_template=TEMPLATE,
        )

    @property
    def info(self) -> ModelInfo:
        """A model description that says that there is none."""
        return self._info

    @property
    def running(self) -> int:
        """Requests that are being computed."""
        return self._admission.running

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._admission.waiting

    def stop_admission(self) -> None:
        """Start nothing new."""
        self._admission.close()

    async def tokenize(self, render: Callable[[], str]) -> list[int]:
        """Four bytes of UTF-8 are one token; a checkpoint. No thread: virtual time must not run ahead of one."""
        await trio.lowlevel.checkpoint()
        data = render().encode(errors="replace")
        # A leading 1 keeps "\\0a" and "a" apart.
        return [
            int.from_bytes(b"\1" + data[start : start + BYTES_PER_TOKEN])
            for start in range(0, len(data), BYTES_PER_TOKEN)
        ]

    @asynccontextmanager
    async def generate(
        self, request: GenerationRequest, *, on_progress: Callable[[Progress], None] = _no_progress
    ) -> AsyncGenerator["SimulatedGeneration", None]:
        """See `Engine.generate`."""
        generation = SimulatedGeneration(self, self._admission.join(), request, on_progress)
        try:
            yield generation
        finally:
            generation._release()


class SimulatedGeneration:
    """Implements `Generation`."""

    def __init__(
        self,
        engine: SimulatedEngine,
        ticket: Ticket,
        request: GenerationRequest,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._engine = engine
        self._ticket = ticket
        self._request = request
        self._prompt = list(request.prompt)
        self._on_progress = on_progress
        self._progress = Progress(prompt_tokens=len(self._prompt))
        self._slot: Slot | None = None
        self._computed = 0

    @property
    def progress(self) -> Progress:
        """The latest snapshot."""
        if position := self._ticket.position:
            return replace(self._progress, queue_position=position, queue_length=self._engine.waiting)
        return self._progress

    async def prefill(self) -> None:
        """Sleep for as long as the prompt takes at the engine's rate, chunk by chunk."""
        await self._ticket.turn()
        placement = self._engine._slots.place(self._prompt)
        assert placement is not None, "admission lets in as many as there are slots"
        self._slot = placement.slot
        self._computed = placement.keep
        self._report(Phase.PREFILL, placement.keep)
        started = trio.current_time()
        for index, size in enumerate(self._chunks(placement.keep)):
            async with self._engine._compute:
                seconds = size / self._engine._prefill_tps
                await trio.sleep(self._engine._chunk_seconds(index, seconds))
            self._computed += size
            done, elapsed = self._computed - placement.keep, trio.current_time() - started
            self._report(Phase.PREFILL, placement.keep, rate=done / elapsed if elapsed > 0 else 0.0)

    def _chunks(self, start: int) -> Iterator[int]:
        left = len(self._prompt) - start
        while left:
            size = min(left, self._engine._chunk)
            yield size
            left -= size

    def _report(self, phase: Phase, cached: int, rate: float = 0.0) -> None:
        self._progress = Progress(
            phase=phase,
            prompt_tokens=len(self._prompt),
            cached_tokens=cached,
            prefilled_tokens=self._computed,
            rate=rate,
        )
        self._on_progress(self._progress)

    async def __aiter__(self) -> AsyncIterator[TextDelta | Finished]:
        """One word per token at the engine's rate."""
        text = StopFilter(self._request.stop)
        room = self._engine.info.context_length - len(self._prompt)
        limit = min(self._request.max_tokens, room)
        wanted = min(limit, self._engine._answer_tokens)
        sampled = 0
        while sampled < wanted and text.stopped is None:
            await trio.sleep(1 / self._engine._decode_tps)
            word = WORDS[sampled % len(WORDS)]
            sampled += 1
            self._progress = replace(self._progress, phase=Phase.DECODE, output_tokens=sampled)
            if delta := text.feed(f"{word} ".encode()):
                yield TextDelta(delta, sampled)
        if rest := text.finish():
            yield TextDelta(rest, sampled)
        cut_short = text.stopped is None and limit < self._engine._answer_tokens
        usage = Usage(len(self._prompt), self._progress.cached_tokens, sampled)
        yield Finished("length" if cut_short else "stop", usage, text.stopped)

    def _release(self) -> None:
        if self._slot is not None:
            self._engine._slots.release(self._slot, self._prompt[: self._computed])
        self._ticket.leave()
