"""One choice of an answer: the engine's text on its way to the protocol. No waiting, no bytes.

A `Choice` has what to compute, and the reader that says what the text is. It counts what was reasoning and knows which
stop strings were the client's own. `Tally` adds the choices' usage up.
"""

from dataclasses import dataclass, field

from ds4trio.api.answer import AnswerUsage, Delta, Ending
from ds4trio.chat import OutputEvent, Reader, ToolCallEnd
from ds4trio.engine import Finished, GenerationRequest, Progress, TextDelta, Usage

__all__ = ["Choice", "Tally"]


class Choice:
    """``client_stop`` are the stop strings that the client asked for; ``single_call`` ends it after one tool call."""

    def __init__(
        self,
        request: GenerationRequest,
        reader: Reader,
        *,
        client_stop: tuple[str, ...] = (),
        single_call: bool = False,
    ) -> None:
        self.request = request
        self.complete = False
        """Nothing more is wanted, although the engine would go on."""
        self._reader = reader
        self._client_stop = client_stop
        self._single_call = single_call
        self._seen_tokens = 0
        self._reasoning_tokens = 0

    def read(self, event: TextDelta) -> Delta | None:
        """What is certain now; None if nothing is."""
        reasoning = self._reader.reasoning
        events = self._reader.feed(event.text, special=event.special)
        if reasoning or self._reader.reasoning:
            self._reasoning_tokens += event.output_tokens - self._seen_tokens
        self._seen_tokens = event.output_tokens
        if self._single_call:
            events = self._up_to_one_call(events)
        if not events and not event.logprobs:
            return None
        return Delta(tuple(events), event.output_tokens, event.logprobs)

    def finish(self, event: Finished) -> tuple[Delta | None, Ending]:
        """The rest of the text, if any, and the end."""
        events = [] if self.complete else self._reader.finish()
        if self._single_call:
            events = self._up_to_one_call(events)
        stop_sequence = event.stop_sequence if event.stop_sequence in self._client_stop else None
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
        )
        return (Delta(tuple(events), event.usage.output_tokens) if events else None), ending

    def cut_short(self, progress: Progress, decode_seconds: float) -> Finished:
        """The end of a choice that is `complete` before the engine says so."""
        computed = progress.prompt_tokens - progress.cached_tokens
        return Finished(
            "stop",
            Usage(progress.prompt_tokens, min(progress.cached_tokens, progress.prompt_tokens), self._seen_tokens),
            prefill_seconds=computed / progress.rate if progress.rate > 0 else 0.0,
            decode_seconds=decode_seconds,
        )

    def _up_to_one_call(self, events: list[OutputEvent]) -> list[OutputEvent]:
        for number, event in enumerate(events, 1):
            if isinstance(event, ToolCallEnd):
                self.complete = True
                return events[:number]
        return events


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
