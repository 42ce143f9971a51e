"""What every protocol is parsed into: what to generate, and how to answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ds4trio.api.answer import Answer, Frame
from ds4trio.chat import Conversation

__all__ = ["MOST_WARNINGS", "RawPrompt", "Task", "WireProtocol"]

MOST_WARNINGS = 16

RawPrompt = str | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A valid request.

    ``prompt`` is a conversation, or raw prompts (text or token ids) that are answered one by one, each ``n`` times.
    ``overrides`` are fields of `Sampling` that the client set. ``max_tokens`` None means up to the context.
    ``warnings`` tell the client what was left out; they go into a header, so only the first few are kept. ``kind`` is
    the protocol's name in the log, ``prompt_member`` the member of the body that holds the prompt. ``priority`` is the
    one of `GenerationRequest`, None where the body does not say it.
    """

    kind: str
    model: str | None
    prompt: Conversation | tuple[RawPrompt, ...]
    answer: Callable[[Frame], Answer]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    top_logprobs: int | None = None
    ignore_eos: bool = False
    priority: int | None = None
    warnings: tuple[str, ...] = ()
    prompt_member: str = "messages"

    def __post_init__(self) -> None:
        object.__setattr__(self, "warnings", self.warnings[:MOST_WARNINGS])


class WireProtocol(Protocol):
    """One wire format."""

    def parse(self, body: bytes) -> Task:
        """Check a request body. Blocks as long as that takes. Raises `ApiError`, never anything else."""
        ...
