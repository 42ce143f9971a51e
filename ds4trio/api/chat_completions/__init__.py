"""OpenAI Chat Completions: ``POST /v1/chat/completions``.

Shapes follow the API reference of 2026 and the types of the ``openai`` SDK, and llama-server's where OpenAI has none
(``reasoning_content``, ``timings``, ``prompt_progress``). `request` holds what clients send, `answer` what they get.
"""

from ds4trio.api.chat_completions.request import parse
from ds4trio.api.task import Task

__all__ = ["ChatCompletions"]


class ChatCompletions:
    """Implements `WireProtocol`."""

    def parse(self, body: bytes) -> Task:
        """Check a request body. Raises `InvalidRequestError`, never anything else."""
        return parse(body)
