"""llama.cpp's native sampling chains for one sequence. Used by the worker thread only."""

import ctypes
import secrets
from collections.abc import Mapping, Sequence

import llama_cpp

from ds4trio.engine.base import Sampling

__all__ = ["Sampler"]


class Sampler:
    """A chain in llama.cpp's own order: bias, penalties, top-k, typical, top-p, min-p, temperature, draw.

    ``prompt`` feeds the repeat penalty, which counts the prompt's end; presence and frequency count the answer only,
    over its whole length, as OpenAI defines them. ``bias`` comes on top of the sampling's own. `close` frees the
    chain.
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        vocabulary_size: int,
        prompt: Sequence[int],
        max_tokens: int,
        bias: Mapping[int, float],
    ) -> None:
        self._vocabulary_size = vocabulary_size
        self._bias = {**sampling.logit_bias, **bias}
        self._greedy: llama_cpp.llama_sampler_p | None = None
        self._chain: llama_cpp.llama_sampler_p | None = self._new_chain()
        if sampling.repeat_penalty != 1.0 and sampling.repeat_last_n > 0:
            repeat = llama_cpp.llama_sampler_init_penalties(
                vocabulary_size, sampling.repeat_last_n, sampling.repeat_penalty, 0.0, 0.0
            )
            for token in prompt[-sampling.repeat_last_n :]:
                llama_cpp.llama_sampler_accept(repeat, token)
            self._add(repeat)
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._add(
                llama_cpp.llama_sampler_init_penalties(
                    vocabulary_size, max_tokens, 1.0, sampling.frequency_penalty, sampling.presence_penalty
                )
            )
        if sampling.temperature <= 0:
            self._add(llama_cpp.llama_sampler_init_greedy())
            return
        if sampling.top_k > 0:
            self._add(llama_cpp.llama_sampler_init_top_k(sampling.top_k))
        if sampling.typical_p < 1:
            self._add(llama_cpp.llama_sampler_init_typical(sampling.typical_p, 1))
        if sampling.top_p < 1:
            self._add(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            self._add(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1))
        self._add(llama_cpp.llama_sampler_init_temp(sampling.temperature))
        seed = secrets.randbits(31) if sampling.seed is None else sampling.seed & 0xFFFFFFFF
        self._add(llama_cpp.llama_sampler_init_dist(seed))

    def sample(self, context: llama_cpp.llama_context_p, row: int) -> int:
        """Draw the next token from the logits of batch row ``row`` and remember it for the penalties."""
        return int(llama_cpp.llama_sampler_sample(self._chain, context, row))

    def likeliest(self, context: llama_cpp.llama_context_p, row: int) -> int:
        """The likeliest next token, of all settings only the bias counted; the penalties remember it."""
        if self._greedy is None:
            self._greedy = self._new_chain()
            llama_cpp.llama_sampler_chain_add(self._greedy, llama_cpp.llama_sampler_init_greedy())
        token = int(llama_cpp.llama_sampler_sample(self._greedy, context, row))
        self.accept(token)
        return token

    def accept(self, token: int) -> None:
        """Remember a token that was not drawn here for the penalties."""
        llama_cpp.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Free the chains; safe to call twice."""
        for chain in (self._chain, self._greedy):
            if chain:
                llama_cpp.llama_sampler_free(chain)
        self._chain = self._greedy = None

    def _new_chain(self) -> "llama_cpp.llama_sampler_p":
        chain: llama_cpp.llama_sampler_p = llama_cpp.llama_sampler_chain_init(
            llama_cpp.llama_sampler_chain_default_params()
        )
        known = [(token, bias) for token, bias in self._bias.items() if 0 <= token < self._vocabulary_size]
        if known:
            biases = (llama_cpp.llama_logit_bias * len(known))()
            for entry, (token, bias) in zip(biases, known, strict=True):
                entry.token, entry.bias = token, bias
            logit_bias = llama_cpp.llama_sampler_init_logit_bias(
                self._vocabulary_size, len(known), ctypes.cast(biases, llama_cpp.llama_logit_bias_p)
            )
            llama_cpp.llama_sampler_chain_add(chain, logit_bias)
        return chain

    def _add(self, sampler: "llama_cpp.llama_sampler_p") -> None:
        llama_cpp.llama_sampler_chain_add(self._chain, sampler)
