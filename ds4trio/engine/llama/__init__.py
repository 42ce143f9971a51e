"""llama.cpp, through llama-cpp-python's low-level functions: the only room that knows ctypes.

`engine` is the face on the event loop, `worker` the loop on the one thread that computes and `sequence` a request as
it sees it. `continuation` decides each next token, with `sampler` (llama.cpp's chains) and `grammar` (llguidance).
`context`, `model`, `adapters` and `vocabulary` wrap the C objects, `abort` is the flag that stops a batch from inside,
`kv_disk` what is kept of a model on disk.
"""

from ds4trio.engine.llama.adapters import Adapter
from ds4trio.engine.llama.engine import LlamaEngine, LlamaOptions, open_llama_engine
from ds4trio.engine.llama.kv_disk import DiskOptions

__all__ = ["Adapter", "DiskOptions", "LlamaEngine", "LlamaOptions", "open_llama_engine"]
