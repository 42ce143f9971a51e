"""A model on the Hub by its name, and the process that downloads it."""

import importlib.util
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import trio

from ds4trio.config import ConfigError
from ds4trio.hub.files import HubError
from ds4trio.hub.messages import Failed, Found, Got, Message

__all__ = ["HubModel"]

log = logging.getLogger("ds4trio.hub")

REFERENCE = re.compile(r"([\w.-]+/[\w.-]+)(?::([^:]+))?")
# Seconds between two lines of the log.
LOG_EVERY = 5.0
MIB = 2**20


@dataclass(frozen=True, slots=True)
class HubModel:
    """``wanted`` is a file in the repository, or a quantization; empty: the usual one."""

    repo: str
    wanted: str = ""

    @classmethod
    def parse(cls, text: str) -> "HubModel":
        """Read ``REPO``, ``REPO:QUANT`` or ``REPO:FILE``. Raises `ConfigError`, also where the extra is missing."""
        if not (match := REFERENCE.fullmatch(text)):
            raise ConfigError(
                f"hf = {text!r}: give REPO, REPO:QUANT or REPO:FILE, as in ggml-org/gemma-3-4b-it-GGUF:Q8_0"
            )
        if importlib.util.find_spec("huggingface_hub") is None:
            raise ConfigError("hf needs the package huggingface-hub: pip install 'ds4trio[hub]'")
        return cls(match[1], match[2] or "")

    def __str__(self) -> str:
        return f"{self.repo}:{self.wanted}" if self.wanted else self.repo

    async def download(self, on_progress: Callable[[float], None]) -> Path:
        """The model's file on this machine, or the first of its parts; downloads what is not in the cache.

        A checkpoint. ``on_progress`` gets the fraction of the bytes that are here. Cancelling it ends the download at
        once; whole files stay. Raises `HubError`.
        """
        outcome: Found | Failed | None = None
        report = _Report(str(self))
        command = [sys.executable, "-m", "ds4trio.hub.fetch", self.repo, self.wanted]
        # What is downloaded is told to the Hub by doing so, and nothing else of this machine.
        environment = {"HF_HUB_DISABLE_TELEMETRY": "1", **os.environ}
        # A group of its own: Ctrl-C comes to it through this process only, and not twice.
        options = {"stdout": subprocess.PIPE, "check": False, "env": environment, "start_new_session": True}
        run = partial(trio.run_process, command, **options)
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(run)
            assert process.stdout is not None
            rest = b""
            async for data in process.stdout:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    match msgspec.json.decode(line, type=Message):
                        case Got() as got:
                            on_progress(min(1.0, got.done / max(1, got.total)))
                            report.tell(got)
                        case message:
                            outcome = message
        match outcome:
            case Found(path, note):
                if note:
                    log.warning("%s; what is in the cache is used", note)
                log.info("%s is %s", self, path)
                return Path(path)
            case Failed(reason):
                raise HubError(reason)
            case None:
                raise HubError(f"the download of {self} broke down with status {process.returncode}; see above")


class _Report:
    """Says now and then in the log how far a download is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since: float | None = None
        self._before = 0
        self._next = 0.0

    def tell(self, got: Got) -> None:
        """Log it, unless that was done lately."""
        now, size = trio.current_time(), got.total / MIB
        if self._since is None:
            self._since, self._before, self._next = now, got.done, now + LOG_EVERY
            log.info("downloading %s: %.0f MiB", self._name, size - got.done / MIB)
        elif now >= self._next:
            self._next = now + LOG_EVERY
            rate = (got.done - self._before) / (now - self._since)
            log.info(
                "downloading %s: %.0f of %.0f MiB, %.1f MiB/s, eta %.0f s",
                self._name,
                got.done / MIB,
                size,
                rate / MIB,
                (got.total - got.done) / max(1.0, rate),
            )
