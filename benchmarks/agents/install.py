"""Where the clients are on this machine: npm puts each into a folder of its own, so none sees another's packages."""

import json
import os
import subprocess
from pathlib import Path

from benchmarks.agents.clients import AgentClient

__all__ = ["FOLDER_VARIABLE", "binaries", "default_folder", "install", "is_installed"]

# Not with the prefix of ds4trio's settings: a server refuses a variable that it does not know.
FOLDER_VARIABLE = "AGENT_CLIENTS"


def default_folder() -> Path:
    """Where the clients are unless the command line says otherwise."""
    named = os.environ.get(FOLDER_VARIABLE)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(cache) / "ds4trio-agents"


def binaries(client: AgentClient, folder: Path) -> Path:
    """The directory of the client's commands."""
    return _home(client, folder) / "node_modules" / ".bin"


def is_installed(client: AgentClient, folder: Path) -> bool:
    """Whether the client is there in the version of the table."""
    try:
        manifest = json.loads((_home(client, folder) / "node_modules" / client.package / "package.json").read_text())
    except OSError:
        return False
    return bool(manifest["version"] == client.version)


def install(client: AgentClient, folder: Path) -> None:
    """Install the client unless it is there. Blocks; raises ``subprocess.CalledProcessError`` where npm fails."""
    if is_installed(client, folder):
        return
    home = _home(client, folder)
    home.mkdir(parents=True, exist_ok=True)
    quiet = ("--no-audit", "--no-fund", "--loglevel=error")
    subprocess.run(["npm", "install", "--prefix", str(home), *quiet, *client.packages], check=True)


def _home(client: AgentClient, folder: Path) -> Path:
    return folder / client.command[0]
