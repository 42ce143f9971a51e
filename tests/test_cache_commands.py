"""``ds4trio cache``: what it shows, what it finds, what it removes."""

import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ds4trio.cache.disk import BlockStore
from ds4trio.cache_commands import cache
from tests.cache.disk.blocks import blocks_of, path_of


def run(directory: Path, *arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(cache, [*arguments, "--kv-disk-dir", str(directory)], input=answer)


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    """Two conversations that share their first block."""
    store = BlockStore(tmp_path, fingerprint=b"model", space_bytes=1 << 20, model="tiny-chat")
    store.open()
    for tokens in (range(10), [*range(4), 99]):
        for block in blocks_of(store.root, tokens):
            assert store.write(block, bytes(1000), words="You are\n\x1b[31ma \x07helpful assistant. " + "x" * 90)
    return store


def test_ls_shows_a_conversation_per_leaf(store: BlockStore, tmp_path: Path) -> None:
    result = run(tmp_path, "ls")
    assert result.exit_code == 0
    header, *rows, total = result.output.splitlines()
    assert header.split()[:3] == ["ID", "MODEL", "TOKENS"]
    leaves = {row.split()[0]: row for row in rows}
    long, short = blocks_of(store.root, range(10))[-1], blocks_of(store.root, [*range(4), 99])[-1]
    assert leaves.keys() == {long.id.hex()[:12], short.id.hex()[:12]}
    assert leaves[long.id.hex()[:12]].split()[1:4] == ["tiny-chat", "10", "3"]
    assert leaves[short.id.hex()[:12]].split()[1:4] == ["tiny-chat", "5", "2"]
    assert all("You are [31ma helpful assistant. xxx" in row and row.endswith("…") for row in rows)
    assert total.startswith("4 blocks, ")
    assert "\x1b" not in result.output


def test_show_takes_the_beginning_of_an_id(store: BlockStore, tmp_path: Path) -> None:
    blocks = blocks_of(store.root, range(10))
    result = run(tmp_path, "show", blocks[-1].id.hex()[:8])
    assert result.exit_code == 0
    rows = [line.split()[:3] for line in result.output.splitlines()[-3:]]
    assert rows == [[block.id.hex(), str(block.start), str(block.end)] for block in blocks]
    assert "tiny-chat" in result.output
    assert "of no conversation" in run(tmp_path, "show", "zz").output
    assert "more than one" in run(tmp_path, "show", "").output


def test_show_says_when_the_beginning_is_gone(store: BlockStore, tmp_path: Path) -> None:
    blocks = blocks_of(store.root, range(10))
    path_of(tmp_path, store, blocks[0]).unlink()
    assert "first blocks are gone" in run(tmp_path, "show", blocks[-1].id.hex()).output
    assert "first blocks are gone" in run(tmp_path, "ls").output


def test_verify_finds_every_damage(store: BlockStore, tmp_path: Path) -> None:
    result = run(tmp_path, "verify")
    assert result.exit_code == 0
    assert result.output.startswith("4 blocks read")
    path = path_of(tmp_path, store, blocks_of(store.root, range(4))[0])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = run(tmp_path, "verify")
    assert result.exit_code == 1
    assert f"{path}: the checksum of the payload does not fit" in result.output
    assert result.output.endswith("1 damaged\n")
    assert path.exists()
    path.write_bytes(data[:20])
    assert "1 files that cannot be used" in run(tmp_path, "ls").output


def test_clear_asks_first(store: BlockStore, tmp_path: Path) -> None:
    foreign = tmp_path / store.root.hex() / "notes.txt"
    foreign.write_text("not ours")
    assert run(tmp_path, "clear", answer="n\n").exit_code == 1
    assert store.match(range(10)).length == 10
    result = run(tmp_path, "clear", "--yes")
    assert (result.exit_code, result.output) == (0, "4 blocks removed\n")
    assert store.match(range(10)).length == 0
    assert foreign.exists()
    assert run(tmp_path, "ls").output == f"0 blocks, 0 B in {tmp_path}\n"


@pytest.mark.parametrize("command", ["ls", "verify", "clear"])
def test_a_directory_that_is_not_there_is_empty(command: str, tmp_path: Path) -> None:
    result = run(tmp_path / "none", command, *(["--yes"] if command == "clear" else []))
    assert result.exit_code == 0, result.output
    assert result.output.startswith("0 blocks")
    assert not (tmp_path / "none").exists()


def test_looking_is_not_using(store: BlockStore, tmp_path: Path) -> None:
    path = path_of(tmp_path, store, blocks_of(store.root, range(10))[0])
    now = time.time()
    os.utime(path, (now - 7200, now + 60))  # as the last use has left them
    before = path.stat().st_atime
    for command in ("ls", "verify", "ls"):
        run(tmp_path, command)
    assert path.stat().st_atime == before
