"""The agent clients that are run: which versions, with which protocol, and how a test makes them impatient.

Data only. How each is pointed at a server is said in `ds4trio.agents` and nowhere else. In all texts ``$model`` stands
for the name of the server's model, ``$question`` for the question, ``$idle_ms`` for the client's patience.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ds4trio.agents import AGENTS, Agent, Protocol

__all__ = ["CLIENTS", "AgentClient", "Impatience"]

_AGENTS = {agent.key: agent for agent in AGENTS}


@dataclass(frozen=True, slots=True)
class Impatience:
    """How a client is told to give up soon.

    ``limit`` names the setting that is made small, ``by_default`` what it gives up after where nothing is set;
    ``files`` are below the home directory.
    """

    limit: str
    by_default: str
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentClient:
    """A client with one protocol.

    ``packages`` are npm's, the client's own first; ``command`` asks one question and ends; ``aside`` is a text by which
    requests are known that the client sends on its own account beside the question.
    """

    key: str
    agent: Agent
    protocol: Protocol
    packages: tuple[str, ...]
    command: tuple[str, ...]
    impatience: Impatience
    aside: str | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.agent.name

    @property
    def package(self) -> str:
        """The client's own package, without the version."""
        return self.packages[0].rpartition("@")[0]

    @property
    def version(self) -> str:
        """The version that is installed and was tested."""
        return self.packages[0].rpartition("@")[2]


def _pi(protocol: Protocol) -> AgentClient:
    return AgentClient(
        key=f"pi-{protocol}",
        agent=_AGENTS["pi"],
        protocol=protocol,
        # Pi needs Node 22; npm carries one.
        packages=("@earendil-works/pi-coding-agent@0.87.1", "node@22"),
        command=("pi", "--provider", "ds4trio", "--model", "$model", "-p", "$question"),
        impatience=Impatience(
            "httpIdleTimeoutMs",
            by_default="300 s",
            files={".pi/agent/settings.json": '{ "httpIdleTimeoutMs": $idle_ms }\n'},
        ),
    )


def _opencode(protocol: Protocol) -> AgentClient:
    return AgentClient(
        key=f"opencode-{protocol}",
        agent=_AGENTS["opencode"],
        protocol=protocol,
        packages=("opencode-ai@1.18.33",),
        command=("opencode", "run", "--model", "ds4trio/$model", "$question"),
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
        agent=_AGENTS["codex"],
        protocol="responses",
        packages=("@openai/codex@0.169.0",),
        command=("codex", "exec", "--skip-git-repo-check", "$question"),
        impatience=Impatience(
            "stream_idle_timeout_ms",
            by_default="its default",
            arguments=("-c", "model_providers.ds4trio.stream_idle_timeout_ms=$idle_ms"),
        ),
    ),
    AgentClient(
        key="claude",
        agent=_AGENTS["claude-code"],
        protocol="messages",
        packages=("@anthropic-ai/claude-code@2.1.330",),
        command=("claude", "-p", "$question"),
        # Its stream watchdog has a floor of 300 s; what can be set lower is the wait for the headers.
        impatience=Impatience(
            "API_TIMEOUT_MS", by_default="300 s (stream watchdog)", environment={"API_TIMEOUT_MS": "$idle_ms"}
        ),
    ),
    _pi("chat"),
    _pi("responses"),
    _pi("messages"),
    _opencode("chat"),
    _opencode("responses"),
    _opencode("messages"),
    AgentClient(
        key="qwen",
        agent=_AGENTS["qwen-code"],
        protocol="chat",
        packages=("@qwen-code/qwen-code@0.24.4",),
        command=("qwen", "-p", "$question"),
        aside="managed memory extraction subagent",
        impatience=Impatience(
            "QWEN_STREAM_IDLE_TIMEOUT_MS",
            by_default="240 s",
            environment={"QWEN_STREAM_IDLE_TIMEOUT_MS": "$idle_ms", "QWEN_CODE_API_TIMEOUT_MS": "$idle_ms"},
        ),
    ),
)
