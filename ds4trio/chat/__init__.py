"""Between messages and text: what a conversation is, how a model's template writes it down, and what its answer means.

Pure: no HTTP, no engine, no clock. `messages` are the values that every protocol is parsed into, `template` renders
them with the model's own Jinja source, `spelling` keeps what they say from being special tokens, `events` are what the
model's raw text turns out to be.
"""

from ds4trio.chat.events import (
    ContentDelta,
    OutputEvent,
    Reader,
    ReasoningDelta,
    TextReader,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from ds4trio.chat.grammar import UnenforceableError
from ds4trio.chat.messages import (
    Conversation,
    Message,
    OutputFormat,
    Role,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)
from ds4trio.chat.model import ChatModel, Prompt
from ds4trio.chat.template import TemplateFailedError
from ds4trio.chat.thinking import thinking_of

__all__ = [
    "ChatModel",
    "ContentDelta",
    "Conversation",
    "Message",
    "OutputEvent",
    "OutputFormat",
    "Prompt",
    "Reader",
    "ReasoningDelta",
    "Role",
    "TemplateFailedError",
    "TextReader",
    "Thinking",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallEnd",
    "ToolCallStart",
    "ToolChoice",
    "UnenforceableError",
    "thinking_of",
]
