"""One client asks one question, and the server takes its time.

The prompt of a client is its own business and changes with its version. So each client asks twice: a server without
delay tells how many tokens the question has, and the next one gets the rate that makes them last as long as wanted.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

import trio

from benchmarks.agents.clients import AgentClient
from benchmarks.agents.install import binaries
from benchmarks.agents.tap import Exchange, open_tap
from ds4trio.testing import ServerProcess, chat_body, open_client, run_server

__all__ = ["Ending", "Patience", "Play", "play"]

MODEL = "simulated"
QUESTION = "Say something."
KEY = "sk-local-0123456789"
"""The server asks for one, so that it shows whether the client has it."""
AT_ONCE = 1e9
PROMPT_TOKENS = re.compile(r" stop: prompt=(\d+) ")
STARTING_AND_RETRYING = 90.0
BEATS_WITHIN_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: how long the question's prefill lasts, and after how long a client gives up; None leaves its default.

    ``flags`` are further ones of ``ds4trio serve``.
    """

    prefill: float
    idle: float | None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a client ended: ``status`` is None if that had to be by force, ``complaints`` are its standard error."""

    status: int | None
    output: str
    complaints: str


@dataclass(frozen=True, slots=True)
class Play:
    """What happened.

    ``expected`` is what the server answers to everything.
    """

    client: AgentClient
    patience: Patience
    ending: Ending
    expected: str
    exchanges: tuple[Exchange, ...]
    prompt_tokens: int

    @property
    def questions(self) -> list[Exchange]:
        """The requests that ask the question: one, if the client never had to ask again."""
        posts = [exchange for exchange in self.exchanges if exchange.method == "POST"]
        return [post for post in posts if not self._is_aside(post)]

    @property
    def asides(self) -> int:
        """How many requests the client sent on its own account."""
        return sum(exchange.method == "POST" for exchange in self.exchanges) - len(self.questions)

    @property
    def disconnects(self) -> int:
        """How many answers the client did not hear to their end."""
        return sum(not exchange.whole for exchange in self.exchanges)

    @property
    def complete(self) -> bool:
        """Whether the client printed the whole answer, once, and nothing else."""
        return self.ending.output.split() == self.expected.split()

    @property
    def first_word(self) -> float:
        """Seconds from the first question to the first word of an answer to it, infinite if none came."""
        word = self.expected.split()[0].encode()
        begun = self.questions[0].begun if self.questions else 0.0
        heard = [at + post.begun - begun for post in self.questions if (at := post.first(word)) is not None]
        return min(heard, default=float("inf"))

    @property
    def warnings(self) -> list[str]:
        """What the server said that it does not do, each once."""
        told = (exchange.answer_headers.get("x-ds4trio-warning") for exchange in self.exchanges)
        return list(dict.fromkeys(warning for warning in told if warning))

    @property
    def holds(self) -> bool:
        """Whether the client asked once, stayed, and got its answer, and really had to wait for it."""
        waited = self.first_word >= 0.9 * self.patience.prefill
        return (
            self.ending.status == 0 and self.complete and len(self.questions) == 1 and not self.disconnects and waited
        )

    def _is_aside(self, exchange: Exchange) -> bool:
        return self.client.aside is not None and self.client.aside.encode() in exchange.body


async def play(client: AgentClient, folder: Path, patience: Patience) -> Play:
    """Let the client ask, once without delay and once with it; what the second time brought.

    A checkpoint; cancelling it ends the client and the server.
    """
    quick = await _ask(client, folder, Patience(0, None), rate=AT_ONCE)
    if not quick.holds:
        return quick
    return await _ask(client, folder, patience, rate=quick.prompt_tokens / patience.prefill)


async def _ask(client: AgentClient, folder: Path, patience: Patience, *, rate: float) -> Play:
    flags = ["--engine", "simulated", "--prefill-tps", f"{rate:.3f}", "--decode-tps", "200", *patience.flags]
    flags += ["--api-key", KEY]
    if patience.idle is not None:
        flags += ["--heartbeat-interval", f"{patience.idle / BEATS_WITHIN_PATIENCE}"]
    async with run_server(*flags) as server, open_tap(server.port) as tap:
        expected = await _answer(server)
        ending = Ending(None, "", "")
        with trio.move_on_after(4 * patience.prefill + STARTING_AND_RETRYING):
            ending = await _run_client(client, folder, f"http://127.0.0.1:{tap.port}", patience.idle)
        tokens = [int(match[1]) for line in server.log if (match := PROMPT_TOKENS.search(line.text))]
    return Play(client, patience, ending, expected, tuple(tap.exchanges), max(tokens, default=0))


async def _answer(server: ServerProcess) -> str:
    """The text that this server gives as an answer to everything."""
    headers = {"authorization": f"Bearer {KEY}"}
    async with open_client(server.port, chat_body("", stream=False), headers=headers) as client:
        return str(json.loads(await client.read_all())["choices"][0]["message"]["content"])


async def _run_client(client: AgentClient, folder: Path, url: str, idle: float | None) -> Ending:
    """With an empty home, and nothing of this process's environment but where its commands are."""
    values = {"model": MODEL, "question": QUESTION}
    files: Mapping[str, str] = {}
    environment: Mapping[str, str] = {}
    arguments = client.command
    if idle is not None:
        values["idle_ms"] = f"{1000 * idle:.0f}"
        files, environment = client.impatience.files, client.impatience.environment
        arguments += client.impatience.arguments

    def filled(text: str) -> str:
        return Template(text).substitute(values)

    # A client may leave a process behind that still writes.
    with TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        home, project = _furnish(Path(directory), {name: filled(text) for name, text in files.items()})
        await _configure(client, url, home)
        commands = os.pathsep.join((str(binaries(client, folder)), os.environ["PATH"]))
        process = await trio.run_process(
            [str(binaries(client, folder) / arguments[0]), *map(filled, arguments[1:])],
            env={"HOME": str(home), "PATH": commands, **{name: filled(text) for name, text in environment.items()}},
            cwd=project,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return Ending(process.returncode, process.stdout.decode(errors="replace"), process.stderr.decode(errors="replace"))


async def _configure(client: AgentClient, url: str, home: Path) -> None:
    """As a user does it, into a home that may have other files of the client already."""
    options = ("--url", url, "--api-key", KEY, "--protocol", client.protocol, "--write", "--yes")
    command = [sys.executable, "-m", "ds4trio", "agent-config", client.agent.key, *options]
    here = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    await trio.run_process(command, env={**here, "HOME": str(home)}, capture_stdout=True)


def _furnish(directory: Path, files: Mapping[str, str]) -> tuple[Path, Path]:
    """A home with nothing but ``files``, and an empty project."""
    home, project = directory / "home", directory / "project"
    project.mkdir()
    for name, text in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return home, project
