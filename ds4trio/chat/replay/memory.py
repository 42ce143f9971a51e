"""What was answered: the token ids of each answer, found again by what a client sends back of it.

`ReplayMemory` is a bounded map, least recently used first out. Prompts are made in threads, so a lock guards it; it is
never held while anything is read or written. What is new goes to disk when `ReplayMemory.flush` is called.
"""

import hashlib
import json
import struct
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

from ds4trio.chat.messages import Message
from ds4trio.chat.replay.journal import Journal, Record

__all__ = ["Place", "Remembered", "ReplayMemory", "visible"]

# Most of what Python needs to keep one answer, beside its text and its ids.
_OVERHEAD = 400

_Key = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer begins: a digest of all that stands before it, and how many characters of that are text.

    ``head`` stands in between: marks of reasoning with which the prompt has begun the answer.
    """

    digest: bytes
    characters: int
    head: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """An answer: how it looks to a client, where it was sampled, its reasoning, and its ids, four bytes each.

    The token that ended it is none of them.
    """

    visible: bytes
    place: Place
    reasoning: str
    data: bytes

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids."""
        return struct.unpack(f"<{len(self.data) // 4}I", self.data)

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return _OVERHEAD + len(self.data) + len(self.reasoning)

    @property
    def key(self) -> _Key:
        """What there is one answer of."""
        return self.visible, self.place.digest


class ReplayMemory:
    """At most ``max_answers`` answers and about ``max_bytes`` of them. Thread-safe.

    ``journal`` keeps them over restarts. `load` and `flush` read and write it, so they block and belong in a thread.
    """

    def __init__(
        self, *, max_answers: int = 100_000, max_bytes: int = 64 * 2**20, journal: Journal | None = None
    ) -> None:
        self._max_answers = max_answers
        self._max_bytes = max_bytes
        self._journal = journal
        self._lock = Lock()
        self._answers: OrderedDict[_Key, Remembered] = OrderedDict()
        self._places: dict[bytes, dict[bytes, None]] = {}
        self._bytes = 0
        self._unwritten: dict[_Key, None] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, place: Place, answer: Message, tokens: Sequence[int]) -> None:
        """Remember ``answer`` as what was sampled at ``place``, the token that ended it left out. Takes microseconds.

        Arguments that are no JSON object are not worth it: their client cannot send them back.
        """
        seen = visible(answer)
        if seen is None or not tokens:
            return
        data = struct.pack(f"<{len(tokens)}I", *tokens)
        remembered = Remembered(seen, place, answer.reasoning.strip(), data)
        with self._lock:
            self._put(remembered)
            if self._journal is not None:
                self._unwritten[remembered.key] = None

    def known(self, answer: Message) -> tuple[Remembered, ...]:
        """All answers that look like this one to a client, wherever they were given; the latest is the last one.

        Reasoning counts if ``answer`` has any: clients may leave it out, but not change it.
        """
        if not self._answers or (seen := visible(answer)) is None:
            return ()
        reasoning = answer.reasoning.strip()
        with self._lock:
            found = [self._answers[seen, digest] for digest in self._places.get(seen, ())]
        return tuple(each for each in found if reasoning in ("", each.reasoning))

    def use(self, answers: Iterable[Remembered]) -> None:
        """Count these answers of one conversation as used, the first one most recently.

        Without it the later ones are worth nothing, so it has to be forgotten last.
        """
        keys = [answer.key for answer in answers]
        with self._lock:
            for key in reversed(keys):
                if key in self._answers:
                    self._answers.move_to_end(key)

    def load(self) -> None:
        """Remember what the journal holds. Blocks. Never raises."""
        if self._journal is None:
            return
        for record in self._journal.read():
            place = Place(record.digest, record.characters, record.head)
            with self._lock:
                self._put(Remembered(record.visible, place, record.reasoning, record.tokens))

    def flush(self, *, last: bool = False) -> None:
        """Write down what is new, for the ``last`` time even if the disk has failed a moment ago.

        Blocks; any number of threads may call it at any time. Never raises.
        """
        if self._journal is None:
            return
        with self._lock:
            keys, self._unwritten = self._unwritten, {}
            new = [_record(self._answers[key]) for key in keys if key in self._answers]
        self._journal.append(new, everything=self._records, last=last)

    def _records(self) -> list[Record]:
        with self._lock:
            answers = list(self._answers.values())
        return list(map(_record, answers))  # the event loop may want the lock

    def _put(self, remembered: Remembered) -> None:
        key = remembered.key
        self._remove(key)
        self._answers[key] = remembered
        self._places.setdefault(key[0], {})[key[1]] = None
        self._bytes += remembered.size
        while self._answers and (len(self._answers) > self._max_answers or self._bytes > self._max_bytes):
            self._remove(next(iter(self._answers)))

    def _remove(self, key: _Key) -> None:
        remembered = self._answers.pop(key, None)
        if remembered is None:
            return
        self._bytes -= remembered.size
        places = self._places[key[0]]
        del places[key[1]]
        if not places:
            del self._places[key[0]]


def _record(remembered: Remembered) -> Record:
    place = remembered.place
    return Record(remembered.visible, place.digest, place.characters, place.head, remembered.reasoning, remembered.data)


def visible(answer: Message) -> bytes | None:
    """A digest of what every client sends back; None where arguments are no JSON object."""
    try:
        calls = [(call.name, _arguments(call.arguments)) for call in answer.tool_calls]
        text = json.dumps((answer.role, answer.content.strip(), calls), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _arguments(text: str) -> object:
    """The value; JavaScript writes 1.0 as 1."""
    value = json.loads(text, parse_float=_number) if text.strip() else {}
    if not isinstance(value, dict):
        raise ValueError("arguments are an object")
    return value


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value
