"""Exact replay: what the model has sampled stands in the next prompt as the very tokens that it was.

Clients send an answer back as JSON: keys in another order, numbers written anew, white space gone, the reasoning
dropped. Rendered and tokenized again that is almost what the model has written, and at the first token that differs
the cached prefix ends. So each answer is remembered as token ids (`memory`, on disk in `journal`), and where a prompt
holds it again its ids take the place of the template's text (`splice`, which looks for the `marks` that go through
the template with the message).

Three rules keep a prompt honest:

- An answer is known by all that a client can see of it, the arguments of calls compared as values, and by everything
  that stood before it when it was sampled, as text and tokens. So nobody gets another one's words, an edited message
  is what its editor made of it, and the ids fit where they are put, to the byte.
- Reasoning is replayed where the template keeps it, and only there.
- Whatever cannot be told for certain is rendered the ordinary way. Nothing here fails a request.

Pure, but for `journal`: no engine, no clock.
"""

from ds4trio.chat.replay.endings import Endings, find_endings
from ds4trio.chat.replay.journal import Journal
from ds4trio.chat.replay.memory import Place, Remembered, ReplayMemory
from ds4trio.chat.replay.splice import Piece, Spliced, spliced

__all__ = [
    "Endings",
    "Journal",
    "Piece",
    "Place",
    "Remembered",
    "ReplayMemory",
    "Spliced",
    "find_endings",
    "spliced",
]
