"""Objects that several of OpenAI's protocols have in common; errors have a file of their own."""

from typing import Any

from ds4trio.api.answer import AnswerUsage
from ds4trio.engine import TokenLogprob

__all__ = ["logprob_object", "usage_object"]


def usage_object(usage: AnswerUsage) -> dict[str, Any]:
    """The ``usage`` of Chat Completions and of Completions."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def logprob_object(token: TokenLogprob) -> dict[str, Any]:
    """A token with its alternatives, as Chat Completions and Responses tell of it."""
    return {**_alternative(token), "top_logprobs": [_alternative(other) for other in token.top]}


def _alternative(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.data.decode(errors="replace"), "logprob": token.logprob, "bytes": list(token.data)}
