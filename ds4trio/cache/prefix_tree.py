"""A radix tree of token ids: which sequence holds which tokens, and what any of them have in common.

Every sequence of a context, idle or running, is known by a small number, its key, and holds the tokens whose KV it
has, from position 0 on. The tree stores each distinct prefix once. It knows what is held and nothing else: which
sequence a prompt goes into, who is given up and what llama.cpp is told are decided elsewhere.

A node is a run of tokens, its edge, from one position to another. The rules:

- Nodes part only where sequences part. A key may end in the middle of an edge, so a node with children has at least
  two, and there are fewer than two nodes for each key, however long the conversations live.
- A key ends in the node that has its last token, and the edge of a leaf ends with the longest of the keys in it.
- Only `_Node.split` and `_Node.merge` move a border between nodes. Neither changes what is held.

Two questions are easily confused:

- `PrefixTree.own` goes by content: keys that came to the same tokens each on its own share them.
- `PrefixTree.cells` and `PrefixTree.own_cells` count cells of a unified KV cache, which are shared only where one
  sequence was copied from another. What two keys share that way is always a prefix: a copy begins it, a cut shortens
  it, nothing makes it longer. So one number for each pair of keys accounts for all cells exactly.

Edges are arrays, not lists: 8 bytes a token where a list takes up to 36, compared and copied in C without touching a
single object, and of no interest to the garbage collector.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = ["PrefixTree", "common_prefix"]

BLOCK = 512
TOKEN = "q"
"""The item type of edges: 64 bits, since a tokenizer that is not llama.cpp's may need more than its 32."""


Tokens = TypeVar("Tokens", list[int], "array[int]")


def common_prefix(a: Tokens, b: Tokens, *, a_from: int = 0, b_from: int = 0) -> int:
    """How many tokens of ``a`` from ``a_from`` on equal those of ``b`` from ``b_from`` on.

    Compares in C, block by block, so 100,000 tokens of two lists take about 2 ms.
    """
    length = min(len(a) - a_from, len(b) - b_from)
    for done in range(0, length, BLOCK):
        size = min(BLOCK, length - done)
        left = a[a_from + done : a_from + done + size]
        right = b[b_from + done : b_from + done + size]
        if left != right:
            return done + next(index for index, token in enumerate(left) if token != right[index])
    return length


class PrefixTree:
    """Which key holds which tokens. A key that holds none is unknown: nothing is stored for it.

    Positions beyond what a key holds mean its end, as in a slice; they are never negative. A token id of more
    than 64 bits raises `OverflowError`, and nothing is changed.
    """

    def __init__(self) -> None:
        self._root = _Node(parent=None, start=0, edge=array(TOKEN))
        self._holders: dict[int, _Holder] = {}

    def hold(self, key: int, tokens: Sequence[int]) -> None:
        """Let ``key`` hold exactly these tokens, all in new cells; where it only goes on, `extend` it instead."""
        new = array(TOKEN, tokens)
        self.cut(key, 0)
        self._append(key, new)

    def extend(self, key: int, tokens: Sequence[int]) -> None:
        """Append tokens in new cells.

        However many are held, one token costs the same, but for the one that parts from another key: its edge is cut
        in two, and the rest of it copied.
        """
        self._append(key, array(TOKEN, tokens))

    def cut(self, key: int, length: int) -> None:
        """Keep the first ``length`` tokens; with 0 the key is forgotten."""
        holder = self._holders.get(key)
        if holder is None or length >= holder.length:
            return
        left = holder.node
        left.ends.remove(holder)
        if length > 0:
            holder.node, holder.length = left.at(length), length
            holder.node.ends.add(holder)
            for other, cells in holder.copies.items():
                holder.copies[other] = other.copies[holder] = min(cells, length)
        else:
            del self._holders[key]
            for other in holder.copies:
                del other.copies[holder]
        self._trim(left)

    def fork(self, source: int, target: int, length: int) -> None:
        """Let ``target`` hold the first ``length`` tokens of ``source`` and nothing else, in the same cells."""
        if source == target:
            self.cut(target, length)
            return
        self.cut(target, 0)
        origin = self._holders.get(source)
        if origin is None or length <= 0:
            return
        length = min(length, origin.length)
        copy = self._holders[target] = _Holder(target, node=origin.node.at(length), length=length)
        copy.node.ends.add(copy)
        copy.copies = {other: min(cells, length) for other, cells in origin.copies.items()}
        copy.copies[origin] = length
        for other, cells in copy.copies.items():
            other.copies[copy] = cells

    def length(self, key: int) -> int:
        """How many tokens ``key`` holds."""
        holder = self._holders.get(key)
        return holder.length if holder else 0

    def tokens(self, key: int, start: int = 0, end: int | None = None) -> list[int]:
        """The tokens of ``key`` from position ``start`` on, up to but not including ``end``."""
        holder = self._holders.get(key)
        if holder is None:
            return []
        end = holder.length if end is None else min(end, holder.length)
        runs: list[array[int]] = []
        node: _Node | None = holder.node
        while node is not None and node.end > start:
            runs.append(node.edge[max(0, start - node.start) : max(0, end - node.start)])
            node = node.parent
        return [token for run in reversed(runs) for token in run]

    def match(self, tokens: Sequence[int]) -> dict[int, int]:
        """For each key that begins as ``tokens`` do: how many leading tokens they share."""
        wanted = array(TOKEN, tokens)
        shared: dict[int, int] = {}
        waiting = [(self._root, 0)]  # nodes, each with how many tokens match on the way to it
        while waiting:
            node, depth = waiting.pop()
            if depth == node.start:
                depth += common_prefix(node.edge, wanted, b_from=depth)
            if depth:
                shared.update((holder.key, min(depth, holder.length)) for holder in node.ends)
            waiting.extend((child, depth) for child in node.children.values())
        return shared

    def own(self, key: int) -> int:
        """How many tokens at the end of ``key`` no other key holds: what would be lost with it."""
        holder = self._holders.get(key)
        if holder is None or holder.node.children:
            return 0
        node = holder.node
        others = max((other.length for other in node.ends if other is not holder), default=node.start)
        return max(0, holder.length - others)

    def own_cells(self, key: int) -> int:
        """How many cells ``key`` shares with no other: what would be free without it, never less than `own`."""
        holder = self._holders.get(key)
        return holder.length - holder.shared_cells if holder else 0

    def cells(self, keys: Iterable[int]) -> int:
        """How many cells of a unified KV cache some keys have: a token counts once for all that `fork` gave it to."""
        counted: list[_Holder] = []
        cells = 0
        for holder in (self._holders[key] for key in keys if key in self._holders):
            # Each copy shares a prefix, so the longest covers the others.
            cells += holder.length - max((holder.copies.get(other, 0) for other in counted), default=0)
            counted.append(holder)
        return cells

    def _append(self, key: int, new: "array[int]") -> None:
        if not new:
            return
        holder = self._holders.get(key)
        if holder is None:
            holder = self._holders[key] = _Holder(key, node=self._root, length=0)
        node = self._way_down(holder, new)
        holder.node.ends.discard(holder)
        holder.node = node
        holder.length += len(new)
        node.ends.add(holder)

    def _way_down(self, holder: "_Holder", new: "array[int]") -> "_Node":
        """The node that has the last of the new tokens, once the tree has them all."""
        node, known = holder.node, 0
        while True:
            position = holder.length + known
            step = common_prefix(node.edge, new, a_from=position - node.start, b_from=known)
            known, position = known + step, position + step
            if known == len(new):
                return node
            if position < node.end:
                node.split(position)
            child = node.children.get(new[known])
            if child is None:
                return node.grow(new[known:])
            node = child

    def _trim(self, node: "_Node") -> None:
        """Drop from a node what no key holds any more, after one of its keys has left it or become shorter."""
        if node.children:
            return
        end = max((holder.length for holder in node.ends), default=node.start)
        if node.ends or node.parent is None:
            del node.edge[end - node.start :]
            return
        del node.parent.children[node.edge[0]]
        if len(node.parent.children) == 1:
            node.parent.merge()


@dataclass(slots=True, eq=False)
class _Holder:
    """A key that holds tokens: where its way down the tree ends, and whose copy it is."""

    key: int
    node: "_Node"
    length: int
    copies: "dict[_Holder, int]" = field(default_factory=dict)
    """For each key that shares cells with this one, how many: the same number on both sides, never 0."""

    @property
    def shared_cells(self) -> int:
        """How many of its cells are not its alone. Each copy shares a prefix, so the longest covers the others."""
        return max(self.copies.values(), default=0)


@dataclass(slots=True, eq=False)
class _Node:
    """The tokens from position ``start`` to before ``end``, common to all keys below. Only a root may be empty."""

    parent: "_Node | None"
    start: int
    edge: "array[int]"
    children: "dict[int, _Node]" = field(default_factory=dict)
    """By the first token of their edges."""
    ends: set[_Holder] = field(default_factory=set)
    """The keys whose last token is in this edge."""

    @property
    def end(self) -> int:
        return self.start + len(self.edge)

    def at(self, length: int) -> "_Node":
        """The node that has the last of the first ``length`` tokens on the way down to the end of this one."""
        node = self
        while node.parent is not None and length <= node.start:
            node = node.parent
        return node

    def grow(self, tokens: "array[int]") -> "_Node":
        """Put tokens behind the edge that no child begins with; a leaf just becomes longer."""
        if not self.children:
            self.edge += tokens
            return self
        child = self.children[tokens[0]] = _Node(parent=self, start=self.end, edge=tokens)
        return child

    def split(self, position: int) -> None:
        """End the edge at ``position``: the rest, and all below, become the only child, which then gets a sibling."""
        edge = self.edge[position - self.start :]
        rest = _Node(parent=self, start=position, edge=edge, children=self.children)
        del self.edge[position - self.start :]
        self.children = {edge[0]: rest}
        for child in rest.children.values():
            child.parent = rest
        rest.ends = {holder for holder in self.ends if holder.length > position}
        self.ends -= rest.ends
        for holder in rest.ends:
            holder.node = rest

    def merge(self) -> None:
        """Take the place of the only child, whose sibling is gone."""
        (rest,) = self.children.values()
        self.edge += rest.edge
        self.children = rest.children
        for child in self.children.values():
            child.parent = self
        self.ends |= rest.ends
        for holder in rest.ends:
            holder.node = self
