"""What an operator sees in a terminal: a bar for each request that lives, and log lines above them.

Theory of operation. The event loop says what there is to see, a few values for the bars and the log's lines; a thread
of the terminal's own draws them, a few times a second. A terminal may take its time, or be stopped with Ctrl-S: nobody
but that thread waits for it. Bars are there only while something lives.

The cursor is never hidden, so nothing has to be restored: not after a signal, nor after a kill -9.
"""

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from types import TracebackType

import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ds4trio.api.answer import beat_text
from ds4trio.engine import Phase
from ds4trio.server.host import EngineHost
from ds4trio.server.monitor.board import Board
from ds4trio.server.monitor.log_output import PlainFormatter, Without
from ds4trio.server.monitor.record import Record

__all__ = ["Terminal"]

REFRESH_SECONDS = 0.2
MOST_BARS = 12
BAR_WIDTH = 24
SHOWN_ID = 8
"""Letters of a request's id, which is random."""
CLOSING_SECONDS = 2.0
"""How long a terminal that takes nothing may hold up the end of the server."""
MOST_LINES = 2000
"""That wait for a terminal which takes nothing."""
FLUSH_SECONDS = 1.0
"""How long the last lines of a process that leaves at once may take."""
# What the bars show, the line at a request's end sums up, or `Terminal.say` tells.
SHOWN_OTHERWISE = frozenset({"ready", "loaded", "prefill", "finished", "cancelled", "failed"})
OUTCOMES = {"failed": "red", "cancelled": "yellow", "stop": "green", "length": "green"}
LEVELS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


@dataclass(frozen=True, slots=True)
class _Bar:
    """A line of the live area. ``share`` is how much of it is done, from 0 to 1, None where nobody knows."""

    name: str
    share: float | None
    words: str
    seconds: float | None = None
    heartbeats: int = 0


@dataclass(frozen=True, slots=True)
class _Bars:
    """The live area; ``more`` is said below it."""

    bars: Sequence[_Bar]
    more: str = ""


class Terminal:
    """The terminal behind standard error, for the length of a ``with`` block; it takes the log through ``handler``."""

    def __init__(self) -> None:
        self.handler: logging.Handler = _Lines(self)
        self._console = _Console(stderr=True, highlight=False)
        self._changed = threading.Condition()
        self._lines: deque[Text] = deque(maxlen=MOST_LINES)
        self._said = self._drawn = 0
        """Lines since the start."""
        self._bars: _Bars | None = None
        self._news = False
        self._closing = threading.Event()
        self._gone = False
        self._thread = threading.Thread(target=self._draw_all, name="terminal", daemon=True)

    def __enter__(self) -> "Terminal":
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        with self._changed:
            self._bars = None
            self._closing.set()
            self._changed.notify_all()
        self._thread.join(CLOSING_SECONDS)

    def say(self, text: str, style: str = "") -> None:
        """Print lines above the bars. For any thread; not a checkpoint."""
        with self._changed:
            if not self._gone:
                self._lines.append(Text(text, style=style))
                self._said += 1
                self._changed.notify_all()

    def flush(self) -> None:
        """Block until the lines that were said are drawn, for a second at most: for who leaves the process."""
        with self._changed:
            said = self._said
            if self._thread.is_alive() and not self._closing.is_set():
                self._changed.wait_for(lambda: self._drawn >= said or self._gone, FLUSH_SECONDS)

    async def watch(self, board: Board, host: EngineHost) -> None:
        """Show what lives until cancelled. A checkpoint."""
        try:
            while True:
                news = board.news
                bars = _loading(host) if host.state == "loading" else _living(board)
                self._show(bars)
                if bars is None:
                    await news.wait()
                else:
                    await trio.sleep(REFRESH_SECONDS)
        finally:
            self._show(None)

    def _show(self, bars: _Bars | None) -> None:
        with self._changed:
            self._bars, self._news = bars, True
            self._changed.notify_all()

    def _draw_all(self) -> None:
        try:
            with suppress(OSError):  # the terminal is gone; the server is not
                self._draw_until_closed()
        finally:
            with self._changed:
                self._gone = True
                self._lines.clear()
                self._changed.notify_all()

    def _draw_until_closed(self) -> None:
        live: Live | None = None
        while not self._closing.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._news or self._closing.is_set())
                lines, said = self._take_lines()
                bars, self._news = self._bars, False
            live = self._draw(lines, bars, live)
            with self._changed:
                self._drawn = said
                self._changed.notify_all()
            self._closing.wait(REFRESH_SECONDS)
        with self._changed:
            lines, _ = self._take_lines()
        self._draw(lines, None, live)

    def _take_lines(self) -> tuple[list[Text], int]:
        """What is to be drawn, and the lines that were said until then."""
        lines = [*self._lines]
        self._lines.clear()
        if left_out := self._said - self._drawn - len(lines):
            lines.insert(0, Text(f"{left_out} lines left out", style="yellow"))
        return lines, self._said

    def _draw(self, lines: Sequence[Text], bars: _Bars | None, live: Live | None) -> Live | None:
        if bars is None and live is not None:
            live.stop()
            live = None
        if bars is not None:
            if live is None:
                live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
                live.start()
            live.update(_rendered(bars))
        if lines:
            self._console.print(Text("\n").join(lines), soft_wrap=True)
        elif live is not None:
            live.refresh()
        return live


class _Console(Console):
    def show_cursor(self, show: bool = True) -> bool:
        """It stays as it is, see above."""
        return False


class _Lines(logging.Handler):
    """Hands the log to the terminal."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal
        self.setFormatter(PlainFormatter())
        self.addFilter(Without(SHOWN_OTHERWISE))

    def emit(self, record: logging.LogRecord) -> None:
        """Not a checkpoint."""
        outcome = record.args.get("outcome") if isinstance(record.args, Mapping) else None
        style = OUTCOMES.get(str(outcome)) or LEVELS.get(record.levelno, "")
        try:
            self._terminal.say(self.format(record), style)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait for the terminal, a second at most. Of all there is only `logging.shutdown` calls it."""
        self._terminal.flush()


def _loading(host: EngineHost) -> _Bars:
    words = f"the model is being {host.doing} {host.load_fraction:.0%}"
    return _Bars([_Bar(host.names[0], host.load_fraction, words)])


def _living(board: Board) -> _Bars | None:
    """Those that run, then those that came first; None where nobody lives."""
    records = board.records
    if not records:
        return None
    running = [record for record in records if record.stage != "queued"]
    waiting = (record for record in records if record.stage == "queued")
    shown = [*running[:MOST_BARS], *islice(waiting, max(0, MOST_BARS - len(running)))]
    left = len(records) - len(shown)
    more = f"… and {left} more: {len(running)} run, {len(records) - len(running)} wait" if left else ""
    return _Bars([_bar(record) for record in shown], more)


def _bar(record: Record) -> _Bar:
    progress = record.progress
    words = beat_text(progress)
    share = progress.prefilled_tokens / max(1, progress.prompt_tokens) if record.stage != "queued" else None
    if progress.phase is Phase.DECODE:
        share = 1.0
        words += f" {record.decode_rate:.1f} t/s" if record.decode_rate else ""
        words += " withheld" if record.stage == "withheld" else ""
    name = f"{record.kind} {record.id.removeprefix('req_')[:SHOWN_ID]}"
    return _Bar(name, share, words, record.now, record.heartbeats)


def _rendered(bars: _Bars) -> Text:
    """One text: rich's own tables and bars took ten times as long , which the event loop feels."""
    names = max(len(bar.name) for bar in bars.bars)
    words = max(len(bar.words) for bar in bars.bars)
    text = Text(no_wrap=True, overflow="crop", end="")
    for bar in bars.bars:
        done = 0 if bar.share is None else round(BAR_WIDTH * bar.share)
        text.append(f"{bar.name:<{names}} ", "cyan")
        text.append("━" * done, "green")
        text.append(("━" if bar.share is not None else " ") * (BAR_WIDTH - done), "bright_black")
        text.append(f" {bar.words:<{words}}")
        seconds = "" if bar.seconds is None else f"{bar.seconds:.0f}s"
        heartbeats = f" ♥ {bar.heartbeats}" if bar.heartbeats else ""
        text.append(f" {seconds:>5}{heartbeats}\n", "bright_black")
    text.append(bars.more, "bright_black")
    if not bars.more:
        text.right_crop()
    return text
