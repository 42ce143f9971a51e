"""OpenAI Completions: ``POST /v1/completions``, raw text in and raw text out, no template and no dialect."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ds4trio.api.answer import Delta, Ending, Frame
from ds4trio.api.body import SamplingMembers, StopMember, StreamOptions, decode, stop_strings
from ds4trio.api.chunks import ChoicesDocument, ChunkStream
from ds4trio.api.errors import InvalidRequestError
from ds4trio.api.task import RawPrompt, Task
from ds4trio.api.transcript import Transcript
from ds4trio.chat import ContentDelta
from ds4trio.engine import Progress, TokenLogprob

__all__ = ["CompletionRequest", "Completions"]

# The API's own default, which clients of this endpoint count on.
DEFAULT_MAX_TOKENS = 16
MOST_CHOICES = 8
MOST_PROMPTS = 64

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class CompletionRequest(SamplingMembers):
    """The members that this server reads."""

    prompt: str | list[str | TokenId | list[TokenId]] | None = None
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MOST_CHOICES)] | None = None
    best_of: int | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    stop: StopMember = None
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


_decoder = msgspec.json.Decoder(CompletionRequest)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOptions:
    """What a client wants to see beside the text, and of how many choices for each prompt."""

    include_usage: bool
    logprobs: bool
    echo: bool
    n: int = 1


class Completions:
    """Implements `WireProtocol`."""

    def parse(self, body: bytes) -> Task:
        """Check a request body. Raises `InvalidRequestError`, never anything else."""
        request = decode(_decoder, body)
        _refuse_what_is_not_there(request)
        options = CompletionOptions(
            include_usage=request.stream_options is not None and bool(request.stream_options.include_usage),
            logprobs=request.logprobs is not None,
            echo=bool(request.echo),
            n=request.n or 1,
        )
        return Task(
            kind="completion",
            prompt_member="prompt",
            model=request.model,
            prompt=_prompts(request.prompt),
            answer=partial(CompletionStream if request.stream else CompletionDocument, options=options),
            overrides=request.overrides(),
            max_tokens=DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
            stop=stop_strings(request.stop),
            n=options.n,
            top_logprobs=request.logprobs,
            ignore_eos=bool(request.ignore_eos),
            priority=request.priority,
        )


def _refuse_what_is_not_there(request: CompletionRequest) -> None:
    if request.suffix:
        raise InvalidRequestError(
            "text before a suffix cannot be filled in; leave suffix out", code="unsupported", param="suffix"
        )
    if request.best_of not in (None, 1, request.n):
        raise InvalidRequestError("best_of must be 1, or equal to n", code="unsupported", param="best_of")
    if request.echo and request.logprobs is not None:
        raise InvalidRequestError(
            "the prompt's own logprobs are not computed; leave out echo or logprobs", code="unsupported", param="echo"
        )


def _prompts(prompt: str | list[Any] | None) -> tuple[RawPrompt, ...]:
    """One text, one list of token ids, or a list of either."""
    if isinstance(prompt, str):
        prompts: list[Any] = [prompt]
    elif prompt and all(isinstance(item, int) for item in prompt):
        prompts = [prompt]
    else:
        prompts = prompt or []
    if not prompts or len(prompts) > MOST_PROMPTS:
        raise InvalidRequestError(
            f"prompt must be a text, a list of token ids, or a list of 1 to {MOST_PROMPTS} of them",
            code="invalid_value",
            param="prompt",
        )
    result: list[RawPrompt] = []
    for index, item in enumerate(prompts):
        if isinstance(item, int) or item in ("", []):
            raise InvalidRequestError(
                f"$.prompt[{index}] is neither a text nor a list of token ids, or it is empty",
                code="invalid_value",
                param=f"$.prompt[{index}]",
            )
        result.append(item if isinstance(item, str) else tuple(item))
    return tuple(result)


class _TokenTexts:
    """The tokens of one choice as text. A character may be cut between two of them."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The shape of this endpoint: parallel lists. Offsets are in characters from the beginning of the choice."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.data))
        return {
            "tokens": [token.data.decode(errors="replace") for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {other.data.decode(errors="replace"): other.logprob for other in token.top} for token in tokens
            ],
            "text_offset": offsets,
        }


def _text(delta: Delta) -> str:
    return "".join(event.text for event in delta.events if isinstance(event, ContentDelta))


class CompletionStream(ChunkStream):
    """Implements `Answer` with ``text_completion`` events, ended by ``[DONE]``."""

    def __init__(self, frame: Frame, *, options: CompletionOptions) -> None:
        prompts = [prompt for prompt in frame.prompts for _ in range(options.n)]
        super().__init__(
            frame,
            prefix="cmpl",
            kind="text_completion",
            choices=len(prompts),
            empty={"text": ""},
            include_usage=options.include_usage,
        )
        self._echo = prompts if options.echo else []
        self._tokens = [_TokenTexts() for _ in prompts]

    def start(self, progress: Progress) -> bytes:
        """An empty text, or with ``echo`` the prompts."""
        echoes = (self.chunk(choice, {"text": prompt}) for choice, prompt in enumerate(self._echo))
        return b"".join(echoes) or self.chunk(0, {"text": ""})

    def beat_event(self, progress: Progress) -> bytes:
        """A chunk without text."""
        return self.aside()

    def delta(self, choice: int, delta: Delta) -> bytes:
        """A chunk of text."""
        text = _text(delta)
        if delta.logprobs:
            return self.chunk(choice, {"text": text}, logprobs=self._tokens[choice].logprobs(delta.logprobs))
        return self.chunk(choice, {"text": text}) if text else b""

    def end(self, choice: int, ending: Ending) -> bytes:
        """The finish reason."""
        return self.end_choice(choice, ending, ending.reason)


class CompletionDocument(ChoicesDocument):
    """Implements `Answer` with one ``text_completion`` object."""

    def __init__(self, frame: Frame, *, options: CompletionOptions) -> None:
        super().__init__(frame, prefix="cmpl", kind="text_completion")
        self._echo = [prompt for prompt in frame.prompts for _ in range(options.n)] if options.echo else []
        self._logprobs = options.logprobs

    def choice_object(self, index: int, transcript: Transcript, ending: Ending) -> dict[str, Any]:
        """The choice with its text, the echo before it."""
        return {
            "index": index,
            "text": (self._echo[index] if self._echo else "") + transcript.content,
            "logprobs": _TokenTexts().logprobs(transcript.logprobs) if self._logprobs else None,
            "finish_reason": ending.reason,
        }
