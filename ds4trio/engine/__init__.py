"""What computes: the `Engine` protocol, its two implementations, and the logic that both share.

Theory of operation. A server holds one engine. `Engine.generate` is an async context manager: inside the block a
sequence may be queued, prefilled and decoded; leaving the block, for whatever reason, guarantees that no thread
works for it any more and that its KV is either cached or freed. Requests wait in `admission`; the engine computes at
most ``parallel`` of them at once. `llama` does so with llama.cpp on one pinned OS thread, `simulated` with
``trio.sleep`` and no model at all, so everything above the engine can be tested under virtual time. In both,
`answer_text` makes text of what was sampled and `text` ends it before a stop string.

This room knows tokens and bytes of text. It does not know HTTP, protocols, messages or templates.
"""

from ds4trio.cache import KvSlot, KvUse
from ds4trio.engine.base import (
    Divergence,
    Engine,
    EngineError,
    EngineStoppedError,
    Finished,
    FinishReason,
    Generation,
    GenerationRequest,
    GrammarError,
    Guide,
    ModelInfo,
    Phase,
    Progress,
    QueueFullError,
    Rest,
    Sampling,
    Suspended,
    TextDelta,
    Tokenizer,
    TokenLogprob,
    UnusableModelError,
    Usage,
)

__all__ = [
    "Divergence",
    "Engine",
    "EngineError",
    "EngineStoppedError",
    "FinishReason",
    "Finished",
    "Generation",
    "GenerationRequest",
    "GrammarError",
    "Guide",
    "KvSlot",
    "KvUse",
    "ModelInfo",
    "Phase",
    "Progress",
    "QueueFullError",
    "Rest",
    "Sampling",
    "Suspended",
    "TextDelta",
    "Tokenizer",
    "TokenLogprob",
    "UnusableModelError",
    "Usage",
]
