"""Agents as their clients are: each keeps a conversation in its protocol's shape and sends it back normalised.

An `Agent` says what its next request is and takes the answer's document. Keys of arguments come back in another order
and without white space, reasoning if it is to be ``thinking`` aloud.
"""

import json
from abc import ABC, abstractmethod
from typing import Any

from ds4trio.api.chat_completions import ChatCompletions
from ds4trio.api.messages import Messages
from ds4trio.api.responses import Responses, ResponseStore
from ds4trio.api.task import WireProtocol

__all__ = ["AGENTS", "Agent"]

SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "line": {"type": "number"}, "more": {"type": "object"}},
}
TOOLS = {"read": "Reads a file.", "write": "Writes a file."}


def normalised(arguments: Any) -> Any:
    """As a client's JSON library may write it: sorted backwards."""
    if isinstance(arguments, dict):
        return {key: normalised(arguments[key]) for key in sorted(arguments, reverse=True)}
    return [normalised(item) for item in arguments] if isinstance(arguments, list) else arguments


class Agent(ABC):
    protocol: WireProtocol

    def __init__(self, *, thinking: bool) -> None:
        self.thinking = thinking
        self.system = "You are a coding agent."
        self.turns: list[Any] = []

    @abstractmethod
    def request(self) -> bytes: ...

    @abstractmethod
    def ask(self, text: str) -> None: ...

    @abstractmethod
    def take(self, document: Any, results: dict[str, str]) -> list[str]:
        """Append the answer and the results of its calls, by tool; returns the names of the tools."""

    @abstractmethod
    def edit_answer(self, text: str) -> None:
        """Make the last answer another one."""


class ChatAgent(Agent):
    protocol = ChatCompletions()

    def request(self) -> bytes:
        tools = [
            {"type": "function", "function": {"name": name, "description": said, "parameters": SCHEMA}}
            for name, said in TOOLS.items()
        ]
        messages = [{"role": "system", "content": self.system}, *self.turns]
        return json.dumps({"messages": messages, "tools": tools}).encode()

    def ask(self, text: str) -> None:
        self.turns.append({"role": "user", "content": [{"type": "text", "text": text}]})

    def take(self, document: Any, results: dict[str, str]) -> list[str]:
        message = document["choices"][0]["message"]
        calls = message.get("tool_calls") or []
        for call in calls:
            arguments = normalised(json.loads(call["function"]["arguments"]))
            call["function"]["arguments"] = json.dumps(arguments, separators=(",", ":"))
        kept = ("role", "content", "tool_calls", *(["reasoning_content"] if self.thinking else []))
        self.turns.append({name: message[name] for name in kept if message.get(name)})
        names = [call["function"]["name"] for call in calls]
        for call, name in zip(calls, names, strict=True):
            self.turns.append({"role": "tool", "tool_call_id": call["id"], "content": results[name]})
        return names

    def edit_answer(self, text: str) -> None:
        self.turns[-1] = {"role": "assistant", "content": text}


class MessagesAgent(Agent):
    protocol = Messages()

    def request(self) -> bytes:
        tools = [{"name": name, "description": said, "input_schema": SCHEMA} for name, said in TOOLS.items()]
        # A header that is another one each time.
        billing = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2; cch={len(self.turns)};"}
        system = [billing, {"type": "text", "text": self.system, "cache_control": {"type": "ephemeral"}}]
        thinking = {"type": "adaptive"}
        body = {
            "model": "m",
            "system": system,
            "messages": self.turns,
            "tools": tools,
            "max_tokens": 1000,
            "thinking": thinking,
        }
        return json.dumps(body).encode()

    def ask(self, text: str) -> None:
        self.turns.append({"role": "user", "content": [{"type": "text", "text": text}]})

    def take(self, document: Any, results: dict[str, str]) -> list[str]:
        blocks = [block for block in document["content"] if self.thinking or block["type"] != "thinking"]
        calls = [block for block in blocks if block["type"] == "tool_use"]
        for call in calls:
            call["input"] = normalised(call["input"])
        self.turns.append({"role": "assistant", "content": blocks})
        if calls:
            told = [
                {"type": "tool_result", "tool_use_id": call["id"], "content": results[call["name"]]} for call in calls
            ]
            self.turns.append({"role": "user", "content": told})
        return [call["name"] for call in calls]

    def edit_answer(self, text: str) -> None:
        self.turns[-1] = {"role": "assistant", "content": text}


class ResponsesAgent(Agent):
    protocol = Responses(ResponseStore())

    def request(self) -> bytes:
        tools = [
            {"type": "function", "name": name, "description": said, "parameters": SCHEMA, "strict": False}
            for name, said in TOOLS.items()
        ]
        body = {"instructions": self.system, "input": self.turns, "tools": tools, "store": False}
        return json.dumps({**body, "include": ["reasoning.encrypted_content"]}).encode()

    def ask(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        self.turns.append({"type": "message", "role": "user", "content": content})

    def take(self, document: Any, results: dict[str, str]) -> list[str]:
        items = [item for item in document["output"] if self.thinking or item["type"] != "reasoning"]
        calls = [item for item in items if item["type"] == "function_call"]
        for call in calls:
            call["arguments"] = json.dumps(normalised(json.loads(call["arguments"])), separators=(",", ":"))
        self.turns += items
        for call in calls:
            output = results[call["name"]]
            self.turns.append({"type": "function_call_output", "call_id": call["call_id"], "output": output})
        return [call["name"] for call in calls]

    def edit_answer(self, text: str) -> None:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        self.turns[-1] = {"type": "message", "role": "assistant", "content": content}


AGENTS: dict[str, type[Agent]] = {"chat": ChatAgent, "messages": MessagesAgent, "responses": ResponsesAgent}
