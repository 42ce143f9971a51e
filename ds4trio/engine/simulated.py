"""An engine without a model: it keeps the rates that it was given and answers with deterministic text.

For tests under virtual time, for demos, and for people who test the timeouts of their own agents. Pure Trio: the only
waiting is ``trio.sleep``, the only state is which prefixes were seen. Prefills share the machine one chunk at a time,
as on a real one, so a prompt behind a slow one is slow too.
"""

import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import chain, count, islice
from typing import TypeVar

import trio

from ds4trio.cache import KvUse, Slot, SlotTable
from ds4trio.engine.admission import Admission, Duration, seconds_left
from ds4trio.engine.answer_text import AnswerText, guidance
from ds4trio.engine.base import (
    Finished,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    Phase,
    Progress,
    Rest,
    Suspended,
    TextDelta,
    Tokenizer,
    TokenLogprob,
    Usage,
)

__all__ = ["SimulatedEngine", "SimulatedTokenizer"]

T = TypeVar("T")

BYTES_PER_TOKEN = 4
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ("Simulated", "answers", "have", "a", "fixed", "rate", "and", "always", "the", "same", "words.")
ANSWER_TOKENS = 64


class SimulatedTokenizer:
    """Implements `Tokenizer`: four bytes of UTF-8 are one token, and nothing is special."""

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """The bytes as numbers, behind a leading 1 that keeps "\\0a" and "a" apart."""
        return [_token(piece) for piece in _pieces(text)]

    def check(self) -> None:
        """Preparing takes no time here."""

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token. Raises `ValueError` for a number that stands for none."""
        return [_bytes(token) for token in tokens]


def _pieces(text: str) -> Iterator[bytes]:
    data = text.encode(errors="replace")
    return (data[start : start + BYTES_PER_TOKEN] for start in range(0, len(data), BYTES_PER_TOKEN))


def _token(data: bytes) -> int:
    return int.from_bytes(b"\1" + data)


def _bytes(token: int) -> bytes:
    data = token.to_bytes(BYTES_PER_TOKEN + 1).lstrip(b"\0") if 0 < token < 2 << 8 * BYTES_PER_TOKEN else b""
    if data[:1] != b"\1":
        raise ValueError(f"there is no token {token}")
    return data[1:]


class SimulatedEngine:
    """Implements `Engine`.

    Rates are tokens per second; ``chunk`` is the number of prompt tokens per step; ``chunk_seconds`` may say how long
    a step takes instead: it gets the index of the chunk within its prompt and the seconds that the rate gives.
    An answer has ``answer_tokens`` words, unless the request wants fewer, or is the text ``answer``, which may depend
    on the request. It knows no grammars and no markers.
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
        answer: str | Callable[[GenerationRequest], str] | None = None,
    ) -> None:
        self._admission = Admission(parallel=parallel, max_queue=max_queue)
        self._decoding = Duration()
        self._slots = SlotTable(parallel)
        self._compute = trio.Lock()
        self._prefill_tps = prefill_tps
        self._decode_tps = decode_tps
        self._chunk = chunk
        self._chunk_seconds = chunk_seconds
        self._answer_tokens = answer_tokens
        self._answer = answer
        self._info = ModelInfo(
            name="simulated",
            description="no model: fixed rates, deterministic text",
            context_length=context_length,
            trained_context_length=context_length,
            chat_template=TEMPLATE,
            vocabulary_size=2 << 8 * BYTES_PER_TOKEN,
        )

    @property
    def info(self) -> ModelInfo:
        """A model description that says that there is none."""
        return self._info

    @property
    def kv(self) -> KvUse:
        """What its slots remember; a cell for each token of context."""
        return self._slots.use(self._info.context_length)

    @property
    def running(self) -> int:
        """Requests that are being computed."""
        return self._admission.running

    @property
    def step_seconds(self) -> None:
        """Nothing gets stuck: no thread computes."""
        return None

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._admission.waiting

    def stop_admission(self) -> None:
        """Start nothing new."""
        self._admission.close()

    async def prepare(self, build: Callable[[Tokenizer], T]) -> T:
        """Build on the event loop; a checkpoint. No thread: virtual time must not run ahead of one."""
        await trio.lowlevel.checkpoint()
        return build(SimulatedTokenizer())

    @asynccontextmanager
    async def generate(
        self,
        request: GenerationRequest,
        *,
        on_progress: Callable[[Progress], None] = lambda _: None,
        rest: Rest | None = None,
    ) -> AsyncGenerator["SimulatedGeneration", None]:
        """See `Engine.generate`."""
        assert rest is None or isinstance(rest, Writing)
        generation = SimulatedGeneration(self, request, on_progress, rest)
        try:
            yield generation
        finally:
            generation._release()

    def _tokens(self, request: GenerationRequest) -> Iterator[bytes]:
        """What the tokens of the answer stand for; without end where the model cannot end the answer itself."""
        words = (f"{WORDS[index % len(WORDS)]} ".encode() for index in count())
        if self._answer is not None:
            text = self._answer if isinstance(self._answer, str) else self._answer(request)
            return chain(_pieces(text), words) if request.ignore_eos else _pieces(text)
        return words if request.ignore_eos else islice(words, self._answer_tokens)


class Writing:
    """Implements `Rest`: an answer as it is written, and the ``seconds`` that it took other generations."""

    def __init__(self, request: GenerationRequest, tokens: Iterator[bytes], limit: int) -> None:
        self.answer = AnswerText(request)
        self.seconds = 0.0
        self._guide = request.guide
        self._tokens = tokens
        self._limit = limit
        self._next: deque[bytes] = deque()

    @property
    def size_bytes(self) -> int:
        """Next to nothing: no text is kept here."""
        return sys.getsizeof(self)

    def close(self) -> None:
        """Nothing is held."""

    def ends(self) -> FinishReason | None:
        """Why nothing follows; None if something does, which is known from now on."""
        if self.answer.stopped is not None:
            return "stop"
        if not self._next:
            self._next += self._forced() or islice(self._tokens, 1)
        if not self._next:
            return "stop"
        return "length" if self.answer.sampled >= self._limit else None

    def write(self, *, logprobs: bool) -> list[TextDelta]:
        """Write what follows."""
        data = self._next.popleft()
        token = _token(data)
        return self.answer.take(token, data, logprob=TokenLogprob(token, data, 0.0) if logprobs else None)

    def _forced(self) -> list[bytes]:
        if self._guide is None:
            return []
        with guidance():
            return list(_pieces(self._guide.forced))


class SimulatedGeneration:
    """Implements `Generation`."""

    def __init__(
        self,
        engine: SimulatedEngine,
        request: GenerationRequest,
        on_progress: Callable[[Progress], None],
        rest: Writing | None = None,
    ) -> None:
        self._engine = engine
        self._ticket = engine._admission.join(priority=request.priority, remaining=self._remaining)
        self._request = request
        self._prompt = list(request.prompt)
        self._on_progress = on_progress
        self._progress = Progress(prompt_tokens=len(self._prompt))
        self._slot: Slot | None = None
        self._computed = 0
        self._prefill_seconds = 0.0
        self._decoding_since: float | None = None
        limit = min(request.max_tokens, engine.info.context_length - len(self._prompt))
        self._writing = rest or Writing(request, engine._tokens(request), limit)
        self._events: deque[TextDelta | Finished] = deque()
        self._over = False
        self._finished = False

    @property
    def progress(self) -> Progress:
        """The latest snapshot."""
        if position := self._ticket.position:
            return replace(self._progress, queue_position=position, queue_length=self._engine.waiting)
        return self._progress

    async def prefill(self) -> None:
        """Sleep for as long as the prompt takes at the engine's rate, chunk by chunk."""
        await self._ticket.turn()
        slots = self._engine._slots
        placement = slots.place(self._prompt, slots.match(self._prompt))
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
            # Others may share what is computed, also while this request still runs.
            self._engine._slots.extend(self._slot, self._prompt[self._computed - size : self._computed])
            done, elapsed = self._computed - placement.keep, trio.current_time() - started
            self._report(Phase.PREFILL, placement.keep, rate=done / elapsed if elapsed > 0 else 0.0)
        self._prefill_seconds = trio.current_time() - started

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

    def __aiter__(self) -> AsyncIterator[TextDelta | Finished]:
        """One token at a time at the engine's rate, those that the guide forces too."""
        return self

    async def __anext__(self) -> TextDelta | Finished:
        """The next event; a checkpoint where there is none yet."""
        if self._finished:
            raise StopAsyncIteration
        if self._decoding_since is None:
            self._decoding_since = trio.current_time()
        while not self._events:
            await self._continue()
        event = self._events.popleft()
        self._finished = isinstance(event, Finished)
        return event

    async def suspend(self) -> Suspended:
        """Nothing runs by itself here: the answer stays where it is. A checkpoint, never cancelled."""
        await trio.lowlevel.cancel_shielded_checkpoint()
        writing, events = self._writing, tuple(self._events)
        self._events.clear()
        if not writing.answer.sampled or self._over:
            return Suspended(events)
        writing.seconds += self._decoded()
        self._decoding_since = None
        return Suspended(events, writing)

    async def _continue(self) -> None:
        """One token more, or the end. Cancelling it changes nothing."""
        writing = self._writing
        answer = writing.answer
        if (reason := writing.ends()) is not None:
            self._events += answer.finish()
            decode_seconds = writing.seconds + self._decoded()
            self._engine._decoding.took(decode_seconds)
            self._over = True
            self._events.append(
                Finished(
                    reason,
                    Usage(len(self._prompt), self._progress.cached_tokens, answer.sampled),
                    answer.stopped,
                    prefill_seconds=self._prefill_seconds,
                    decode_seconds=decode_seconds,
                )
            )
            return
        await trio.sleep(1 / self._engine._decode_tps)
        self._events += writing.write(logprobs=self._request.top_logprobs is not None)
        first = self._progress.phase is not Phase.DECODE
        self._progress = replace(self._progress, phase=Phase.DECODE, output_tokens=answer.sampled)
        if first:
            self._on_progress(self._progress)

    def _decoded(self) -> float:
        """Seconds since this generation's first token."""
        return 0.0 if self._decoding_since is None else trio.current_time() - self._decoding_since

    def _remaining(self) -> float | None:
        return seconds_left(
            self._engine._decoding, prefill_left=self._progress.eta, decoding_since=self._decoding_since
        )

    def _release(self) -> None:
        if self._slot is not None:
            self._engine._slots.release(self._slot)
        self._ticket.leave()
