"""The agent clients: which versions, how a user points each at ds4trio, and how a test makes it impatient.

Data only. `AgentClient.files` and `AgentClient.environment` are what a user needs, and ``docs/agents.md`` shows them as
they stand here; what only a measurement needs is in `Impatience`. In all texts ``$url`` stands for the server,
``$model`` for the name of its model, ``$context`` for its context in tokens, ``$question`` for the question,
``$idle_ms`` for the client's patience.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CLIENTS", "AgentClient", "Impatience"]


@dataclass(frozen=True, slots=True)
class Impatience:
    """How a client is told to give up soon.

    ``limit`` names the setting that is made small, ``by_default`` what it gives up after where nothing is set.
    """

    limit: str
    by_default: str
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentClient:
    """A client with one protocol.

    ``packages`` are npm's, the client's own first; ``files`` are below the home directory; ``aside`` is a text by
    which requests are known that the client sends on its own account beside the question.
    """

    key: str
    name: str
    protocol: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    impatience: Impatience
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    aside: str | None = None

    @property
    def package(self) -> str:
        """The client's own package, without the version."""
        return self.packages[0].rpartition("@")[0]

    @property
    def version(self) -> str:
        """The version that is installed and was tested."""
        return self.packages[0].rpartition("@")[2]


def _pi(api: str, protocol: str, base: str) -> AgentClient:
    return AgentClient(
        key=f"pi-{protocol}",
        name="Pi",
        protocol=protocol,
        # Pi needs Node 22; npm carries one.
        packages=("@earendil-works/pi-coding-agent@0.87.1", "node@22"),
        command=("pi", "--provider", "ds4trio", "--model", "$model", "-p", "$question"),
        files={
            ".pi/agent/models.json": f"""\
{{
  "providers": {{
    "ds4trio": {{
      "baseUrl": "{base}",
      "api": "{api}",
      "apiKey": "none",
      "models": [{{ "id": "$model", "contextWindow": $context, "maxTokens": 16384 }}]
    }}
  }}
}}
"""
        },
        impatience=Impatience(
            "httpIdleTimeoutMs",
            by_default="300 s",
            files={".pi/agent/settings.json": '{ "httpIdleTimeoutMs": $idle_ms }\n'},
        ),
    )


def _opencode(package: str, protocol: str) -> AgentClient:
    return AgentClient(
        key=f"opencode-{protocol}",
        name="opencode",
        protocol=protocol,
        packages=("opencode-ai@1.18.33",),
        command=("opencode", "run", "--model", "ds4trio/$model", "$question"),
        files={
            ".config/opencode/opencode.json": f"""\
{{
  "model": "ds4trio/$model",
  "provider": {{
    "ds4trio": {{
      "npm": "{package}",
      "name": "ds4trio",
      "options": {{ "baseURL": "$url/v1", "apiKey": "none" }},
      "models": {{ "$model": {{ "limit": {{ "context": $context, "output": 16384 }} }} }}
    }}
  }}
}}
"""
        },
        aside="Generate a title for this conversation",
        impatience=Impatience(
            "chunkTimeout, headerTimeout",
            by_default="300 s",
            environment={
                "OPENCODE_CONFIG_CONTENT": '{"provider": {"ds4trio": {"options": '
                '{"headerTimeout": $idle_ms, "chunkTimeout": $idle_ms}}}}'
            },
        ),
    )


CLIENTS = (
    AgentClient(
        key="codex",
        name="Codex",
        protocol="responses",
        packages=("@openai/codex@0.169.0",),
        command=("codex", "exec", "--skip-git-repo-check", "$question"),
        files={
            ".codex/config.toml": """\
model = "$model"
model_provider = "ds4trio"
model_context_window = $context

[model_providers.ds4trio]
name = "ds4trio"
base_url = "$url/v1"
wire_api = "responses"
"""
        },
        impatience=Impatience(
            "stream_idle_timeout_ms",
            by_default="its default",
            arguments=("-c", "model_providers.ds4trio.stream_idle_timeout_ms=$idle_ms"),
        ),
    ),
    AgentClient(
        key="claude",
        name="Claude Code",
        protocol="messages",
        packages=("@anthropic-ai/claude-code@2.1.330",),
        command=("claude", "-p", "$question"),
        environment={
            "ANTHROPIC_BASE_URL": "$url",
            "ANTHROPIC_AUTH_TOKEN": "none",
            "ANTHROPIC_MODEL": "$model",
            "CLAUDE_CODE_AUTO_COMPACT_WINDOW": "$context",
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": "$model",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
        # Its stream watchdog has a floor of 300 s; what can be set lower is the wait for the headers.
        impatience=Impatience(
            "API_TIMEOUT_MS", by_default="300 s (stream watchdog)", environment={"API_TIMEOUT_MS": "$idle_ms"}
        ),
    ),
    _pi("openai-completions", "chat", "$url/v1"),
    _pi("openai-responses", "responses", "$url/v1"),
    _pi("anthropic-messages", "messages", "$url"),
    _opencode("@ai-sdk/openai-compatible", "chat"),
    _opencode("@ai-sdk/openai", "responses"),
    _opencode("@ai-sdk/anthropic", "messages"),
    AgentClient(
        key="qwen",
        name="Qwen Code",
        protocol="chat",
        packages=("@qwen-code/qwen-code@0.24.4",),
        command=("qwen", "-p", "$question"),
        environment={"OPENAI_BASE_URL": "$url/v1", "OPENAI_API_KEY": "none", "OPENAI_MODEL": "$model"},
        files={
            ".qwen/settings.json": """\
{
  "security": { "auth": { "selectedType": "openai" } },
  "model": { "generationConfig": { "contextWindowSize": $context } }
}
"""
        },
        aside="managed memory extraction subagent",
        impatience=Impatience(
            "QWEN_STREAM_IDLE_TIMEOUT_MS",
            by_default="240 s",
            environment={"QWEN_STREAM_IDLE_TIMEOUT_MS": "$idle_ms", "QWEN_CODE_API_TIMEOUT_MS": "$idle_ms"},
        ),
    ),
)
