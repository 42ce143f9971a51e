"""What is in a directory of blocks, for people: one conversation per leaf, what is damaged, and how to be rid of it.

It reads the files as the store does, but knows no model: every subdirectory is shown. It may run beside servers.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ds4trio.cache.disk.block import Block
from ds4trio.cache.disk.files import Files
from ds4trio.cache.disk.format import DamagedError, Header, OtherVersionError
from ds4trio.cache.disk.index import Index, hits
from ds4trio.cache.disk.shelf import TEMPORARY, id_of_name, read_block, read_header
from ds4trio.cache.disk.store import LOCK_NAME, shelf_directories

__all__ = ["Conversation", "Survey", "Verdict", "clear", "survey", "verify"]

ANSWERS = (".answers", ".answers.new")
"""Files of `ds4trio.chat.replay`: what models said, private like the blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A leaf and all blocks before it. Blocks that conversations share are in each of them."""

    model: str
    blocks: tuple[Block, ...]
    created: float
    """When its last block was written; seconds since 1970."""
    used: float
    hits: float
    """Uses of its last block, decayed."""
    words: str

    @property
    def id(self) -> str:
        """The last block's id, in hex."""
        return self.blocks[-1].id.hex()

    @property
    def tokens(self) -> int:
        """From 0 to its end."""
        return self.blocks[-1].end

    @property
    def size(self) -> int:
        """Bytes of all its blocks."""
        return sum(block.size for block in self.blocks)

    @property
    def complete(self) -> bool:
        """Whether it can be used: its first blocks are there."""
        return self.blocks[0].start == 0


@dataclass(frozen=True, slots=True)
class Survey:
    """What a directory holds."""

    conversations: tuple[Conversation, ...]
    blocks: int
    size: int
    """Bytes of their files."""
    unusable: int
    """Files that are damaged or of another version."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of reading a file; ``problem`` is empty where every byte is as it was written."""

    path: Path
    size: int
    problem: str = ""
    damaged: bool = False


def survey(directory: Path, *, files: Files, now: float) -> Survey:
    """What there is, the last used first. Blocks; raises `OSError` where the directory cannot be read."""
    conversations: list[Conversation] = []
    blocks = size = unusable = 0
    for root, paths in _shelves(directory, files):
        index, headers = Index(root), dict[bytes, Header]()
        for id, path in paths:
            try:
                header, rank, used = read_header(files, path, root=root, id=id)
            except FileNotFoundError:
                continue
            except (OSError, DamagedError, OtherVersionError):
                unusable += 1
                continue
            headers[id] = header
            index.add(header.block, rank=rank, used=used)
        blocks, size = blocks + len(index), size + index.size
        for leaf in index.leaves:
            chain = index.chain(leaf.block)
            last = headers[leaf.block.id]
            conversations.append(
                Conversation(
                    model=last.model,
                    blocks=chain,
                    created=last.created,
                    used=leaf.used,
                    hits=hits(leaf.rank, now),
                    words=headers[chain[0].id].words,
                )
            )
    conversations.sort(key=lambda conversation: conversation.used, reverse=True)
    return Survey(tuple(conversations), blocks, size, unusable)


def verify(directory: Path, *, files: Files) -> Iterator[Verdict]:
    """Read every byte of every block. Blocks; raises `OSError` where the directory cannot be read."""
    for root, paths in _shelves(directory, files):
        for id, path in paths:
            try:
                header, _ = read_block(files, path, root=root, id=id)
            except FileNotFoundError:
                continue
            except OtherVersionError as error:
                yield Verdict(path, 0, f"not checked: {error}")
            except (OSError, DamagedError) as error:
                yield Verdict(path, 0, str(error), damaged=True)
            else:
                yield Verdict(path, header.block.size)


def clear(directory: Path, *, files: Files) -> int:
    """Remove all blocks, what dead writers left and the answers that are kept beside: how many blocks.

    A running server just misses them.

    Blocks; raises `OSError`, and `BlockingIOError` while another process writes and does not come to an end.
    """
    handle = files.lock(directory / LOCK_NAME)
    try:
        removed = 0
        for name in files.names(directory):
            if name.endswith(ANSWERS):
                with suppress(FileNotFoundError):
                    files.remove(directory / name)
        for name in shelf_directories(files, directory):
            shelf = directory / name
            for file in files.names(shelf):
                ours = id_of_name(file) is not None
                if ours or file.endswith(TEMPORARY):
                    with suppress(FileNotFoundError):
                        files.remove(shelf / file)
                        removed += ours
        return removed
    finally:
        files.close(handle)


def _shelves(directory: Path, files: Files) -> Iterator[tuple[bytes, list[tuple[bytes, Path]]]]:
    """Each model's root and its blocks' ids and files."""
    for name in shelf_directories(files, directory):
        shelf = directory / name
        named = ((id_of_name(file), shelf / file) for file in sorted(files.names(shelf)))
        yield bytes.fromhex(name), [(id, path) for id, path in named if id is not None]
