"""KV on disk: blocks of it in files that outlive the server, found again by the tokens they are the KV of.

A block is the KV of a run of tokens, behind another block (or behind nothing), or a whole state that stands alone. It
is named by a hash of everything before it and of its own tokens, so the same conversation has the same files whoever
writes them, a growing one adds files and changes none, and two servers may share a directory. The payload is opaque
here: llama.cpp, threads of the engine, Trio and HTTP are unknown in this room.

`block` says what a block is and what it is called, `format` what its file looks like, `files` which operations on
files there are (tests have others that fail, tear and crash), `index` which blocks continue a prompt and which is
missed least, `shelf` keeps the index of one model in step with its subdirectory, `store` is all models of a directory
under one budget, `thread` the one thread that touches the files of a running server, `catalogue` what there is to see
for people.

The one promise: a damaged, torn, foreign or missing file costs time, never a wrong token and never an error.
"""

from ds4trio.cache.disk.block import Block, block_id, root_id
from ds4trio.cache.disk.catalogue import Conversation, Survey, Verdict, clear, survey, verify
from ds4trio.cache.disk.files import Files, RealFiles, default_directory
from ds4trio.cache.disk.index import Match
from ds4trio.cache.disk.store import BlockStore, Counters
from ds4trio.cache.disk.thread import DiskThread

__all__ = [
    "Block",
    "BlockStore",
    "Conversation",
    "Counters",
    "DiskThread",
    "Files",
    "Match",
    "RealFiles",
    "Survey",
    "Verdict",
    "block_id",
    "clear",
    "default_directory",
    "root_id",
    "survey",
    "verify",
]
