"""``ds4trio trace``: what `ds4trio serve --trace` has written, for people.

Only reading and printing live here; `ds4trio.server.monitor.trace` says what the lines are. A line that cannot be read,
as the last one after a kill -9, is left out and counted.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import click
import msgspec

from ds4trio.printing import plain, table

__all__ = ["trace"]

SHOWN_CLIENT = 30
# What a line of the time line says before its text or its parts.
TEXTS = ("text", "message", "grammar")
LEFT_OUT = frozenset({"time", "event", "request", "parts", *TEXTS})

Event = Mapping[str, Any]


class _Shape(msgspec.Struct):
    """What is relied on of an event: a file may come from a stranger."""

    time: Annotated[float, msgspec.Meta(ge=0, lt=2**35)]
    """A year of four digits."""
    event: str
    request: str | None = None
    text: str | None = None
    choice: int = 0
    tokens: int | list[Any] = 0
    seconds: float | None = None
    parts: list[Any] = []


@click.group()
def trace() -> None:
    """Read what `ds4trio serve --trace FILE` has written."""


@trace.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--request", "wanted", metavar="ID", help="show this request; the beginning of its id is enough")
@click.option("--json", "as_json", is_flag=True, help="print JSON, an object a line")
def show(file: Path, wanted: str | None, *, as_json: bool) -> None:
    """List the requests in FILE, or show one of them as a time line."""
    reading = _Reading(file)
    if wanted is None:
        _list(reading, as_json=as_json)
    else:
        _show_one(reading, wanted.removeprefix("req_"), as_json=as_json)
    if reading.broken:
        lines = "line that is" if reading.broken == 1 else "lines that are"
        click.echo(f"left out {reading.broken} {lines} not whole", err=True)


class _Reading:
    """The events of a file, in order; ``broken`` lines were left out.

    Raises ``ClickException`` at the end where all of them were: then it is no trace.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.broken = 0

    def __iter__(self) -> Iterator[Event]:
        self.broken, whole = 0, False
        try:
            with self._path.open("rb") as file:
                for line in file:
                    if (event := _event(line)) is not None:
                        whole = True
                        yield event
                    elif line.strip():
                        self.broken += 1
        except OSError as error:
            raise click.ClickException(f"{self._path}: {error.strerror}") from None
        if self.broken and not whole:
            raise click.ClickException(f"{self._path} is no trace: none of its lines is an event")


def _event(line: bytes) -> Event | None:
    try:
        event: Event = json.loads(line)
        msgspec.convert(event, _Shape)
    except (ValueError, RecursionError, msgspec.ValidationError):
        return None
    return event


def _list(reading: _Reading, *, as_json: bool) -> None:
    requests: dict[str, dict[str, Any]] = {}
    for event in reading:
        if (id := event.get("request")) is None:
            continue
        request = requests.setdefault(id, {"request": id, "arrived": event["time"], "prompt_tokens": 0})
        match event["event"]:
            case "arrived":
                request |= {name: event.get(name) for name in ("protocol", "model", "client", "stream")}
            case "prompt":
                request["prompt_tokens"] += _tokens(event)
            case "refused":
                request |= {"outcome": "refused", "cause": f"{event.get('status')} {event.get('code')}"}
            case "end":
                names = ("outcome", "cause", "cached_tokens", "output_tokens", "first_token", "seconds")
                request |= {name: event.get(name) for name in names}
    if as_json:
        for request in requests.values():
            click.echo(json.dumps(request))
        return
    if not requests:
        click.echo("no requests")
        return
    header = ("ID", "ARRIVED", "PROTOCOL", "CLIENT", "PROMPT", "CACHED", "OUTPUT", "SECONDS", "END")
    click.echo(table(header, [_row(request) for request in requests.values()]))


def _row(request: Mapping[str, Any]) -> tuple[str, ...]:
    def said(name: str) -> str:
        return "" if (value := request.get(name)) is None else plain(str(value))

    end = said("outcome") or "none in this file"
    seconds = request.get("seconds")
    return (
        said("request"),
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(request["arrived"])),
        said("protocol"),
        said("client")[:SHOWN_CLIENT],
        said("prompt_tokens"),
        said("cached_tokens"),
        said("output_tokens"),
        "" if seconds is None else f"{seconds:.2f}",
        f"{end}: {said('cause')}" if request.get("cause") else end,
    )


def _show_one(reading: _Reading, wanted: str, *, as_json: bool) -> None:
    found: dict[str, list[Event]] = {}
    for event in reading:
        id = event.get("request") or ""
        if id.removeprefix("req_").startswith(wanted):
            found.setdefault(id, []).append(event)
    if len(found) != 1 or not wanted:
        problem = "begins the id of more than one request" if found else "is the id of no request"
        raise click.ClickException(f"{wanted!r} {problem}; without --request all are listed")
    ((id, events),) = found.items()
    if as_json:
        for event in events:
            click.echo(json.dumps(event))
        return
    began = events[0]["time"]
    click.echo(f"{plain(id)}, {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(began))}")
    for moment in _moments(events):
        click.echo(moment.shown(began))


@dataclass(slots=True)
class _Moment:
    """One line of the time line, and the texts that are set in below it."""

    at: float
    event: str
    words: str
    texts: Sequence[str] = ()

    def shown(self, began: float) -> str:
        lines = [f"{self.at - began:+10.3f}s  {plain(self.event):<9} {self.words}".rstrip()]
        for text in self.texts:
            lines += [f"{'':13}| {plain(line, keep_spaces=True)}" for line in text.rstrip("\n").split("\n")]
        return "\n".join(lines)


def _moments(events: Sequence[Event]) -> Iterator[_Moment]:
    """An answer's text comes in many pieces: those between two other events are one moment."""
    for decoded, group in groupby(events, _is_decoded):
        run = list(group)
        if decoded and any(event["event"] == "output" for event in run):
            yield _decoded(run)
        else:
            yield from map(_moment, run)


def _is_decoded(event: Event) -> bool:
    return event["event"] == "output" or (event["event"] == "sent" and not event.get("beat"))


def _decoded(run: Sequence[Event]) -> _Moment:
    outputs = [event for event in run if event["event"] == "output"]
    sent = [event for event in run if event["event"] == "sent"]
    texts: dict[int, str] = {}
    for event in outputs:
        texts[event.get("choice", 0)] = texts.get(event.get("choice", 0), "") + (event.get("text") or "")
    tokens = sum(_tokens(event) for event in outputs)
    size = sum(len((event.get("text") or "").encode(errors="replace")) for event in sent)
    seconds = run[-1]["time"] - run[0]["time"]
    words = f"{tokens} tokens in {seconds:.3f} s; sent {size} bytes in {len(sent)} writes"
    return _Moment(run[0]["time"], "output", words, [texts[choice] for choice in sorted(texts)])


def _tokens(event: Event) -> int:
    """How many: a prompt has their number, output their ids."""
    tokens: int | list[Any] = event.get("tokens", 0)
    return tokens if isinstance(tokens, int) else len(tokens)


def _moment(event: Event) -> _Moment:
    fields = ((name, value) for name, value in event.items() if name not in LEFT_OUT and _tells(value))
    words = ", ".join(f"{plain(name)} {_value(value)}" for name, value in fields)
    texts = [str(event[name]) for name in TEXTS if event.get(name)]
    parts = [part for part in event.get("parts", ()) if isinstance(part, dict)]
    texts += [f"{name}: {text}" for part in parts for name, text in part.items()]
    return _Moment(event["time"], str(event["event"]), words, texts)


def _tells(value: object) -> bool:
    return value is not None and value is not False and value not in ("", [], {})


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{plain(name)} {_value(part)}" for name, part in value.items() if _tells(part)) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    return plain(str(value))
