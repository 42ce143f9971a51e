"""llama.cpp, through llama-cpp-python's low-level functions: the only room that knows ctypes.

`engine` is the face on the event loop, `worker` the loop on the one thread that computes, `context` and `model` wrap
the C objects, `sampler` its sampling chains, `abort` the flag that stops a batch from inside.
"""

from ds4trio.engine.llama.engine import LlamaEngine, LlamaOptions, open_llama_engine

__all__ = ["LlamaEngine", "LlamaOptions", "open_llama_engine"]
