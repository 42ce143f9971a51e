"""llama-server's ``timings`` object, which its clients show to people."""

from ds4trio.api.answer import Ending

__all__ = ["timings"]


def timings(ending: Ending) -> dict[str, int | float]:
    """What one choice took, in llama-server's names: ``prompt`` is prefill without what was cached,
    ``draft_n_accepted`` of the ``draft_n`` tokens that were guessed were right."""
    usage = ending.usage
    drafts = {"draft_n": ending.drafted, "draft_n_accepted": ending.accepted} if ending.drafted else {}
    prompt, predicted = usage.prompt_tokens - usage.cached_tokens, usage.output_tokens
    return {
        "cache_n": usage.cached_tokens,
        **_phase("prompt", prompt, ending.prefill_seconds),
        **_phase("predicted", predicted, ending.decode_seconds),
        **drafts,
    }


def _phase(name: str, tokens: int, seconds: float) -> dict[str, int | float]:
    return {
        f"{name}_n": tokens,
        f"{name}_ms": round(1000 * seconds, 3),
        f"{name}_per_token_ms": round(1000 * seconds / tokens, 3) if tokens else 0.0,
        f"{name}_per_second": round(tokens / seconds, 3) if seconds > 0 else 0.0,
    }
