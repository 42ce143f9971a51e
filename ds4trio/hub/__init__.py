"""Models from the Hugging Face Hub: which files of a repository are one (`files`), and how they come here (`model`).

huggingface-hub, the extra ``hub``, downloads them into its own cache and knows tokens, mirrors and proxies
(``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HOME``). It works in a process of its own (`fetch`): that one can be ended at once
whatever it waits for, and takes away what it has left half done. A thread could do neither.
"""

from ds4trio.hub.files import HubError
from ds4trio.hub.model import HubModel

__all__ = ["HubError", "HubModel"]
