"""The agents: which files they read, and what has to stand there for a server. Data only.

No timeout is raised where heartbeats keep a client alive. What is set here is what no server can do for its client: the
size of the context, and limits that run on whatever comes (Qwen Code's total, Crush's minute).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["AGENTS", "Agent", "Configuration", "Place", "Protocol", "Target"]

Protocol = Literal["chat", "responses", "messages"]
Values = Mapping[str, Any]

PROVIDER = "ds4trio"
MOST_OUTPUT = 16_384
"""Tokens of one answer, where a client wants to know that: it keeps them free when it measures a conversation."""
CRUSH_SILENCE = 600
"""Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The server that a client is pointed at: its address without ``/v1``, a name of its model, its context in tokens.

    ``api_key`` is empty where the server asks for none; clients insist on having one, and get ``none``.
    """

    url: str
    model: str
    context: int
    api_key: str = ""

    @property
    def key(self) -> str:
        """What stands where a client wants a key."""
        return self.api_key or "none"

    @property
    def output(self) -> int:
        """The most tokens that a client should ask for: half of a small context."""
        return min(MOST_OUTPUT, max(1, self.context // 2))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client looks for a file: ``name`` in ``folder`` below the home directory.

    If the environment has ``variable``, that names the folder instead.
    """

    folder: str
    name: str
    variable: str = ""

    def path(self, home: Path, environment: Mapping[str, str]) -> Path:
        """The file of one user."""
        named = environment.get(self.variable) if self.variable else None
        return (Path(named) if named else home / self.folder) / self.name

    def __str__(self) -> str:
        return str(Path("~") / self.folder / self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What has to stand in which file, and which environment variables have to be set."""

    files: Mapping[Place, Values] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An agent client.

    ``protocols`` are those that it can speak to this server, the first one unless somebody asks for another. ``start``
    is the command that uses the configuration; it may hold ``{model}``. ``environment_file`` is one whose table ``env``
    does what environment variables do, for those who want them kept.
    """

    key: str
    name: str
    protocols: tuple[Protocol, ...]
    start: str
    configure: Callable[[Target, Protocol], Configuration]
    environment_file: Place | None = None

    def lasting(self, target: Target, protocol: Protocol) -> Configuration:
        """The same, with the environment kept in a file where the client can do that."""
        asked = self.configure(target, protocol)
        if self.environment_file is None or not asked.environment:
            return asked
        files = dict(asked.files)
        files[self.environment_file] = {"env": asked.environment, **files.get(self.environment_file, {})}
        return Configuration(files=files)


CODEX_FILE = Place(".codex", "config.toml", "CODEX_HOME")
CLAUDE_FILE = Place(".claude", "settings.json", "CLAUDE_CONFIG_DIR")
PI_FILE = Place(".pi/agent", "models.json", "PI_CODING_AGENT_DIR")
OPENCODE_FILE = Place(".config", "opencode/opencode.json", "XDG_CONFIG_HOME")
QWEN_FILE = Place(".qwen", "settings.json", "QWEN_HOME")
CRUSH_FILE = Place(".config", "crush/crush.json", "XDG_CONFIG_HOME")
AIDER_FILE = Place(".", ".aider.conf.yml")
AIDER_MODELS = Place(".", ".aider.model.metadata.json")

PI_PROTOCOLS: Mapping[Protocol, tuple[str, str]] = {
    "chat": ("openai-completions", "/v1"),
    "responses": ("openai-responses", "/v1"),
    "messages": ("anthropic-messages", ""),
}
OPENCODE_PACKAGES: Mapping[Protocol, str] = {
    "chat": "@ai-sdk/openai-compatible",
    "responses": "@ai-sdk/openai",
    "messages": "@ai-sdk/anthropic",
}


def _codex(target: Target, _: Protocol) -> Configuration:
    provider = {"name": PROVIDER, "base_url": f"{target.url}/v1", "wire_api": "responses"}
    if target.api_key:
        provider["experimental_bearer_token"] = target.api_key
    values = {
        "model": target.model,
        "model_provider": PROVIDER,
        "model_context_window": target.context,
        "model_providers": {PROVIDER: provider},
    }
    return Configuration(files={CODEX_FILE: values})


def _claude_code(target: Target, _: Protocol) -> Configuration:
    environment = {
        "ANTHROPIC_BASE_URL": target.url,
        "ANTHROPIC_AUTH_TOKEN": target.key,
        "ANTHROPIC_MODEL": target.model,
        # It takes a model that it does not know for one with a million tokens of context.
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(target.context),
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": target.model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    return Configuration(environment=environment)


def _pi(target: Target, protocol: Protocol) -> Configuration:
    api, path = PI_PROTOCOLS[protocol]
    provider = {
        "baseUrl": f"{target.url}{path}",
        "api": api,
        "apiKey": target.key,
        "models": [{"id": target.model, "contextWindow": target.context, "maxTokens": target.output}],
    }
    return Configuration(files={PI_FILE: {"providers": {PROVIDER: provider}}})


def _opencode(target: Target, protocol: Protocol) -> Configuration:
    provider = {
        "npm": OPENCODE_PACKAGES[protocol],
        "name": PROVIDER,
        "options": {"baseURL": f"{target.url}/v1", "apiKey": target.key},
        "models": {target.model: {"limit": {"context": target.context, "output": target.output}}},
    }
    return Configuration(
        files={OPENCODE_FILE: {"model": f"{PROVIDER}/{target.model}", "provider": {PROVIDER: provider}}}
    )


def _qwen_code(target: Target, _: Protocol) -> Configuration:
    values = {
        "security": {"auth": {"selectedType": "openai"}},
        "model": {"generationConfig": {"contextWindowSize": target.context}},
    }
    environment = {
        "OPENAI_BASE_URL": f"{target.url}/v1",
        "OPENAI_API_KEY": target.key,
        "OPENAI_MODEL": target.model,
        # After 900 s it gives up a stream however alive it is; 0 is never. Its settings file has a name for this, which
        # 0.24.4 does not heed.
        "QWEN_STREAM_MAX_LIFETIME_MS": "0",
    }
    return Configuration(files={QWEN_FILE: values}, environment=environment)


def _crush(target: Target, _: Protocol) -> Configuration:
    model = {
        "id": target.model,
        "name": target.model,
        "context_window": target.context,
        "default_max_tokens": target.output,
    }
    provider = {
        "type": "openai-compat",
        "name": PROVIDER,
        "base_url": f"{target.url}/v1",
        "api_key": target.key,
        "models": [model],
    }
    selected = {"provider": PROVIDER, "model": target.model}
    values = {
        "providers": {PROVIDER: provider},
        "models": {"large": selected, "small": selected},
        "options": {"request_timeout": CRUSH_SILENCE},
    }
    return Configuration(files={CRUSH_FILE: values})


def _aider(target: Target, _: Protocol) -> Configuration:
    name = f"openai/{target.model}"
    settings = {
        "openai-api-base": f"{target.url}/v1",
        "openai-api-key": target.key,
        "model": name,
        "weak-model": name,
    }
    model = {
        "max_input_tokens": target.context,
        "max_output_tokens": target.output,
        "litellm_provider": "openai",
        "mode": "chat",
    }
    return Configuration(files={AIDER_FILE: settings, AIDER_MODELS: {name: model}})


AGENTS = (
    Agent(
        key="claude-code",
        name="Claude Code",
        protocols=("messages",),
        start="claude",
        configure=_claude_code,
        environment_file=CLAUDE_FILE,
    ),
    Agent(key="codex", name="Codex", protocols=("responses",), start="codex", configure=_codex),
    Agent(
        key="opencode",
        name="opencode",
        protocols=("chat", "responses", "messages"),
        start="opencode",
        configure=_opencode,
    ),
    Agent(
        key="pi",
        name="Pi",
        protocols=("chat", "responses", "messages"),
        start="pi --provider ds4trio --model {model}",
        configure=_pi,
    ),
    Agent(
        key="qwen-code",
        name="Qwen Code",
        protocols=("chat",),
        start="qwen",
        configure=_qwen_code,
        environment_file=QWEN_FILE,
    ),
    Agent(key="crush", name="Crush", protocols=("chat",), start="crush", configure=_crush),
    Agent(key="aider", name="aider", protocols=("chat",), start="aider", configure=_aider),
)
