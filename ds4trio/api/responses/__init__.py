"""OpenAI Responses: ``POST /v1/responses`` and the paths below it.

``request`` turns a body into a `Task`; it leaves the items of the conversation to ``items`` and the tools to ``tools``.
``output`` folds the model's events into output items, ``answer`` puts the response object around them, as a stream or
as a document. ``store`` keeps responses for those who come back, ``listing`` shows their input. `Responses` is the
face of all this; the server needs nothing else.
"""

from ds4trio.api.responses.protocol import Responses, UnknownResponseError
from ds4trio.api.responses.store import ResponseStore

__all__ = ["ResponseStore", "Responses", "UnknownResponseError"]
