"""One choice of an answer: the engine's text on its way to the protocol. No waiting, no bytes.

A `Choice` has what to compute, and the reader that says what the text is. It counts what was reasoning, and ends the
visible text before the client's stop strings: a client cannot know how a model writes its tool calls, so a line break
in one must not end the answer. An answer that the model itself has ended, and that its client has seen all of, is
remembered with its ids for the next prompt. `Tally` adds the choices' usage up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ds4trio.api.answer import AnswerUsage, Delta, Ending
from ds4trio.api.transcript import Transcript
from ds4trio.chat import ContentDelta, Message, OutputEvent, Reader, ReasoningDelta, ToolCall, ToolCallEnd
from ds4trio.engine import Finished, GenerationRequest, Progress, TextDelta, Usage
from ds4trio.engine.text import Piece, StopFilter

__all__ = ["Choice", "Tally"]


class Choice:
    """``reader`` makes what reads the text, once there is some: in a long queue, readers would be most of what waits.

    ``stop`` are looked for in the content only; the request's own, in all of the text, are the engine's business.

    ``engine_stop`` says that those are the client's, so that the ending names them. ``single_call`` ends the choice
    after one tool call. ``remember`` takes the answer and its ids.
    """

    def __init__(
        self,
        request: GenerationRequest,
        reader: Callable[[], Reader],
        *,
        stop: tuple[str, ...] = (),
        engine_stop: bool = False,
        single_call: bool = False,
        remember: Callable[[Message, Sequence[int]], None] | None = None,
    ) -> None:
        self.request = request
        self.complete = False
        """Nothing more is wanted, although the engine would go on."""
        self._make_reader = reader
        self._stop = StopFilter(stop)
        self._engine_stop = engine_stop
        self._single_call = single_call
        self._seen_tokens = 0
        self._reasoning_tokens = 0
        self._remember = remember
        self._transcript = Transcript()
        self._tokens: list[int] = []
        self._cut = False
        """Some of what was sampled is not part of the answer."""

    @cached_property
    def _reader(self) -> Reader:
        return self._make_reader()

    def read(self, event: TextDelta) -> Delta | None:
        """What is certain now; None if nothing is."""
        before = self._reader.reasoning
        events = self._reader.feed(event.text, special=event.special)
        self._reasoning_tokens += self._reasoned(event, events, before=before)
        self._seen_tokens = event.output_tokens
        events = self._wanted(events)
        if self._remember is not None:
            self._tokens += event.tokens
            self._transcript.add(events)
        # The tokens that complete a stop string are not part of the answer.
        logprobs = event.logprobs if self._stop.stopped is None else ()
        return Delta(tuple(events), event.output_tokens, logprobs) if events or logprobs else None

    def _reasoned(self, event: TextDelta, events: list[OutputEvent], *, before: bool) -> int:
        """How many of an event's tokens are reasoning: where it begins or ends in them, those that are not content."""
        tokens, after = event.output_tokens - self._seen_tokens, self._reader.reasoning
        if before and after:
            return tokens
        if not (before or after or any(isinstance(part, ReasoningDelta) for part in events)):
            return 0
        content = sum(len(part.text) for part in events if isinstance(part, ContentDelta))
        return max(1, round(tokens * (1 - content / max(content, len(event.text), 1))))

    def finish(self, event: Finished) -> tuple[Delta | None, Ending]:
        """The rest of the text, if any, and the end."""
        events = [] if self.complete else self._wanted(self._reader.finish())
        if not self.complete:
            events += _contents(self._stop.finish())
        self._memorize(events, event)
        stop_sequence = event.stop_sequence if self._engine_stop else self._stop.stopped
        # Half a call is no call: whoever sees the reason must not take what was streamed for a whole one.
        cut_off = any(isinstance(part, ToolCallEnd) and not part.complete for part in events)
        usage = AnswerUsage(
            prompt_tokens=event.usage.prompt_tokens,
            cached_tokens=event.usage.cached_tokens,
            output_tokens=event.usage.output_tokens,
            reasoning_tokens=self._reasoning_tokens,
        )
        ending = Ending(
            reason="length" if cut_off and stop_sequence is None else event.reason,
            usage=usage,
            stop_sequence=stop_sequence,
            prefill_seconds=event.prefill_seconds,
            decode_seconds=event.decode_seconds,
            drafted=event.drafted,
            accepted=event.accepted,
        )
        return (Delta(tuple(events), event.usage.output_tokens) if events else None), ending

    def _memorize(self, events: list[OutputEvent], event: Finished) -> None:
        """Have the answer remembered, ``events`` being the rest of it."""
        if self._remember is None or self._cut or (event.reason, event.stop_sequence) != ("stop", None):
            return
        self._transcript.add(events)
        # The token with which the model has ended the answer is counted and not told.
        whole = event.usage.output_tokens - len(self._tokens) in (0, 1)
        if whole and (answer := _answer(self._transcript)) is not None:
            self._remember(answer, self._tokens)

    def cut_short(self, progress: Progress, decode_seconds: float) -> Finished:
        """The end of a choice that is `complete` before the engine says so."""
        computed = progress.prompt_tokens - progress.cached_tokens
        return Finished(
            "stop",
            Usage(progress.prompt_tokens, min(progress.cached_tokens, progress.prompt_tokens), self._seen_tokens),
            prefill_seconds=computed / progress.rate if progress.rate > 0 else 0.0,
            decode_seconds=decode_seconds,
        )

    def _wanted(self, events: list[OutputEvent]) -> list[OutputEvent]:
        visible = self._up_to_stop(events)
        return self._up_to_one_call(visible) if self._single_call else visible

    def _up_to_stop(self, events: list[OutputEvent]) -> list[OutputEvent]:
        visible: list[OutputEvent] = []
        for event in events:
            if not isinstance(event, ContentDelta):
                # No stop string reaches over reasoning or a call.
                visible += [*_contents(self._stop.finish()), event]
                continue
            visible += _contents(self._stop.feed(event.text))
            if self._stop.stopped is not None:
                self.complete = self._cut = True
                break
        return visible

    def _up_to_one_call(self, events: list[OutputEvent]) -> list[OutputEvent]:
        for number, event in enumerate(events, 1):
            if isinstance(event, ToolCallEnd):
                self.complete = True
                self._cut = number < len(events)
                return events[:number]
        return events


def _contents(pieces: list[Piece]) -> list[OutputEvent]:
    return [ContentDelta(piece.text) for piece in pieces]


def _answer(transcript: Transcript) -> Message | None:
    """The answer as its client may send it back; None if that is no whole one."""
    content, whole = transcript.content, transcript.calls_whole
    # Bytes that are no text are not what the client has.
    if whole is False or "\N{REPLACEMENT CHARACTER}" in content or not (whole or content.strip()):
        return None
    calls = tuple(ToolCall("", call.name, call.arguments) for call in transcript.calls)
    return Message("assistant", content, transcript.reasoning, calls)


@dataclass(slots=True)
class Tally:
    """The usage of all choices so far. A prompt that several choices share counts once."""

    usage: AnswerUsage = field(default_factory=lambda: AnswerUsage(0, 0, 0))

    def add(self, usage: AnswerUsage, *, shared: bool) -> None:
        """One more choice; ``shared``: its prompt was counted with another one."""
        prompt, cached = (0, 0) if shared else (usage.prompt_tokens, usage.cached_tokens)
        self.usage = AnswerUsage(
            self.usage.prompt_tokens + prompt,
            self.usage.cached_tokens + cached,
            self.usage.output_tokens + usage.output_tokens,
            self.usage.reasoning_tokens + usage.reasoning_tokens,
        )
