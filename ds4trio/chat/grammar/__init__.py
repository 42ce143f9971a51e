"""Constrained output: one grammar for everything that a conversation demands of its answer.

    `source`     Lark as llguidance has it: literals, free text, special tokens
    `schemas`    JSON schemas and what is wrong with them
    `strings`    strings without quotes
    `arguments`  a call's arguments in each notation
    `calls`      calls from their first marker to their last
    `answer`     reasoning, text and calls; `harmony` for gpt-oss
    `demands`    what a conversation demands, and `grammar_for`

A grammar always allows the reasoning that the prompt allows. It never lets a model write white space for ever. Whoever
asks for something that no grammar can hold a model to gets `UnenforceableError`, not an answer that only looks right.
All of it is pure: a conversation and a row of data go in, a string comes out.
"""

from ds4trio.chat.grammar.demands import grammar_for
from ds4trio.chat.grammar.errors import UnenforceableError

__all__ = ["UnenforceableError", "grammar_for"]
