"""Tool calls and reasoning in the dialects of many model families.

`Dialect` is one row of data (`rows`), found for a template by `derive` (`probe`). `DialectReader` reads an answer by
it, piece by piece (`reader`, which leaves calls to `calls`, `tagged`, `harmony` and `minimax_m3`).
Pure: text and rows in, events out; no tokenizer, no engine, no clock.
"""

from ds4trio.chat.dialects.probe import derive
from ds4trio.chat.dialects.reader import DialectReader
from ds4trio.chat.dialects.rows import HERMES, Codec, Dialect

__all__ = ["HERMES", "Codec", "Dialect", "DialectReader", "derive"]
