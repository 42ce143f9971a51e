"""How agent clients are pointed at a server: the one place that knows their files and settings.

`clients` is data: for each agent, what its configuration has to say. `files` puts that into the files that somebody
has already, and loses nothing of theirs. Printing and asking are the business of `ds4trio.agent_commands`.
"""

from ds4trio.agents.clients import AGENTS, Agent, Configuration, Place, Protocol, Target
from ds4trio.agents.files import Change, UnmergeableError, dump, merged, plan

__all__ = [
    "AGENTS",
    "Agent",
    "Change",
    "Configuration",
    "Place",
    "Protocol",
    "Target",
    "UnmergeableError",
    "dump",
    "merged",
    "plan",
]
