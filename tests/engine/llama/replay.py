"""What a context was told, replayed on a fresh one: an answer must not depend on how its prefix came to be there.

`Recorder` listens to every `Context` of a process and keeps, for each sequence, the batches that led to its present
state: chunk by chunk, however often it was copied, cut, saved and restored since. `Recorder.check` computes the same
chunks in a context that has seen nothing else and compares each sampled token with what is likeliest there. Equal
chunk borders matter: on the CPU other borders move the logits.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ds4trio.cache import State
from ds4trio.engine.batching import Cancellable, Outcome, Span
from ds4trio.engine.llama.abort import AbortFlag
from ds4trio.engine.llama.context import Context, ContextOptions, Logits, open_context
from ds4trio.engine.llama.model import load_model

__all__ = ["Fresh", "Recorder", "open_fresh"]

# The same numbers summed up in another order, as cells lie elsewhere, move logits by less than this: flash attention
# sums values up as f16 on some CPUs (0.22 was seen, where others differed by less than 0.03).
ROUNDING = 0.3


@dataclass(frozen=True)
class Chunk:
    """Tokens computed together, of which the first ``kept`` are still there."""

    start: int
    tokens: tuple[int, ...]
    kept: int

    @property
    def end(self) -> int:
        return self.start + self.kept


# Begins a history that cannot be replayed: the same tokens were computed twice, in other chunks, and some of their KV
# is of the first time and some of the second.
MIXED = Chunk(-1, (), 0)

History = tuple[Chunk, ...]


def up_to(history: History, length: int) -> History:
    """The history of a sequence of which ``length`` tokens are kept."""
    return tuple(
        Chunk(chunk.start, chunk.tokens, min(chunk.kept, length - chunk.start))
        for chunk in history
        if chunk.start < length
    )


def content(state: State) -> bytes:
    return blake2b(state).digest()


class Recorder:
    """Keeps the histories of one context's sequences from its opening on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.histories: dict[int, History] = {}
        self.answered: History = ()
        """The history of the sequence that computed last."""
        self.prefilled = 0
        """Tokens that were computed in chunks of more than one."""
        self.calls: dict[str, int] = {}
        self._saved: dict[bytes, History] = {}
        """By what was saved, since states come back from a disk as well."""
        self._unheard: Context | None = None
        for name in ("decode", "copy", "truncate", "clear", "save", "restore", "save_range", "append"):
            self._listen(monkeypatch, name, getattr(Context, name), getattr(self, name))

    def _listen(
        self, monkeypatch: pytest.MonkeyPatch, name: str, method: Callable[..., Any], hear: Callable[..., None]
    ) -> None:
        def both(context: Context, *args: Any, **kwargs: Any) -> Any:
            result = method(context, *args, **kwargs)
            if context is not self._unheard:
                self.calls[name] = self.calls.get(name, 0) + 1
                hear(result, *args, **kwargs)
            return result

        monkeypatch.setattr(Context, name, both)

    def decode(
        self,
        result: tuple[Outcome, list[list[Logits]]],
        spans: Sequence[Span],
        owners: Collection[Cancellable],
        *,
        may_abort: bool,
        gives_way: float,
    ) -> None:
        if result[0] is Outcome.DONE:
            for span in spans:
                chunk = Chunk(span.position, tuple(span.tokens), len(span.tokens))
                history = (*self.histories.get(span.sequence_id, ()), chunk)
                self.histories[span.sequence_id] = self.answered = history
                self.prefilled += len(span.tokens) if len(span.tokens) > 1 else 0

    def copy(self, _: None, source: int, target: int, tokens: int) -> None:
        self.histories[target] = self.histories[source]  # where only whole sequences are copied, a restore follows
        self.truncate(None, target, tokens)

    def truncate(self, _: None, sequence_id: int, tokens: int) -> None:
        self.histories[sequence_id] = up_to(self.histories.get(sequence_id, ()), tokens)

    def clear(self, _: None, sequence_id: int) -> None:
        self.histories[sequence_id] = ()

    def save(self, result: State, sequence_id: int, *, whole: bool) -> None:
        self._saved[content(result)] = self.histories.get(sequence_id, ())

    def restore(self, result: bool, sequence_id: int, data: State, *, whole: bool) -> None:
        assert result
        self.histories[sequence_id] = self._saved[content(data)]

    def save_range(self, result: State, sequence_id: int, start: int, end: int) -> None:
        self._saved[content(result)] = up_to(self.histories[sequence_id], end)

    def append(self, result: bool, sequence_id: int, start: int, end: int, data: State) -> None:
        assert result
        saved = up_to(self._saved[content(data)], end)
        mixed = () if up_to(saved, start) == self.histories.get(sequence_id, ()) else (MIXED,)
        self.histories[sequence_id] = (*mixed, *saved)

    def forget(self) -> None:
        """The context is closed; another one follows. What was saved may come back."""
        self.histories.clear()

    def check(self, fresh: "Fresh", prompt_tokens: int) -> int:
        """Compare the latest answer with that of a fresh context; how many tokens were compared. Blocks."""
        self._unheard = fresh.context  # the other one may be at work meanwhile
        return fresh.compare(self.answered, prompt_tokens)


class Fresh:
    """A context for one conversation at a time, computed from its first token on: no copies, no saved states."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._history: History = ()

    def compare(self, history: History, prompt_tokens: int) -> int:
        """Compute the chunks and compare what comes after the prompt with the likeliest tokens; how many did."""
        if history[:1] == (MIXED,):
            return 0
        known = len(self._history)
        if history[: known + 1] != (*self._history, *history[known : known + 1]) or known >= len(history):
            self.context.clear(0)
            known = 0
        self._history = history
        compared = 0
        for chunk, following in zip(history[known:], (*history[known + 1 :], None), strict=True):
            outcome, ((row,),) = self.context.decode([Span(0, chunk.start, chunk.tokens, 1)], (), may_abort=False)
            assert outcome is Outcome.DONE
            if chunk.end >= prompt_tokens and following is not None:
                assert following.start == chunk.end
                logits, sampled = row.array(), following.tokens[0]
                assert logits.max() - logits[sampled] <= ROUNDING, (
                    f"token {following.start - prompt_tokens} of the answer is {sampled}, a fresh engine says "
                    f"{int(np.argmax(logits))}, which is {logits.max() - logits[sampled]:.3f} above it"
                )
                compared += 1
            if chunk.kept < len(chunk.tokens):
                self.context.truncate(0, chunk.end)
        return compared


@contextmanager
def open_fresh(path: Path, *, ubatch: int) -> Iterator[Fresh]:
    """A context that has seen nothing, on the processor."""
    options = ContextOptions(
        context_length=4096,
        sequences=1,
        ubatch=ubatch,
        threads=1,
        flash_attention="auto",
        kv_type_k="f16",
        kv_type_v="f16",
    )
    with (
        load_model(str(path), n_gpu_layers=0, on_progress=lambda _: True) as model,
        open_context(model, options, AbortFlag()) as context,
    ):
        yield Fresh(context)
