"""Between messages and text: what a conversation is, and how a model's template writes it down.

Pure: no HTTP, no engine, no clock. `messages` are the values that every protocol is parsed into, `template` renders
them with the model's own Jinja source.
"""

from ds4trio.chat.messages import Message
from ds4trio.chat.template import ChatTemplate, TemplateFailedError

__all__ = ["ChatTemplate", "Message", "TemplateFailedError"]
