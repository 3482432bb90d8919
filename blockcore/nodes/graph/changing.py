# SPDX-License-Identifier: MIT
"""Who may change which part of the graph: one at a time in each, as in QEMU in all of it.

A part is what nodes are connected to.  A command, or the end of a job, that
waits for a server which does not answer keeps others from that part only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from blockcore.bql.effects import Until
from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevOptionsBacking
from blockcore.nodes.node import BlockNode

Wanted = Callable[[], Iterable[BlockNode]]
"""Gives nodes of the part that is to be changed, as they are at that moment."""


class Turn:
    """Somebody who wants to change a part, and what he has of it in the context of this.

    No async generator: asyncio keeps account of those that begin on its thread.
    """

    def __init__(self, changing: Changing, wanted: Wanted) -> None:
        self._changing = changing
        self._wanted = wanted
        self._held: set[BlockNode] | None = None

    async def __aenter__(self) -> Turn:
        await self._changing.come(self)
        self._held = reached(self._wanted())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._changing.leave(self)

    @property
    def has_come(self) -> bool:
        return self._held is not None

    def part(self) -> set[BlockNode]:
        """All nodes of it."""
        return reached(self._wanted()) if self._held is None else self._held

    def also(self, node: BlockNode) -> None:
        """Have a node besides that was not there before."""
        assert self._held is not None
        self._held.add(node)


class Changing:
    """All turns, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._turns: list[Turn] = []

    @property
    def taken(self) -> bool:
        """Whether anybody is changing anything."""
        return any(turn.has_come for turn in self._turns)

    def part(self, wanted: Wanted) -> Turn:
        """As a context: nobody else changes what `wanted` is connected to meanwhile."""
        return Turn(self, wanted)

    async def come(self, turn: Turn) -> None:
        """Wait until a turn has come."""
        self._turns.append(turn)
        try:
            await Until(lambda: self._may_come(turn))
        except BaseException:
            self.leave(turn)
            raise

    def leave(self, turn: Turn) -> None:
        """A turn is over."""
        self._turns.remove(turn)

    def _may_come(self, turn: Turn) -> bool:
        """Whether nobody has a piece of its part, or has asked for one before."""
        part, earlier = turn.part(), True
        for other in self._turns:
            if other is turn:
                earlier = False
            elif (earlier or other.has_come) and not part.isdisjoint(other.part()):
                return False
        return True


def reached(nodes: Iterable[BlockNode]) -> set[BlockNode]:
    """The nodes, and all that use them or are used by them, however indirectly."""
    found = set(nodes)
    left = list(found)
    while left:
        here = left.pop()
        for other in (*here.node_parents, *here.children.values()):
            if other not in found:
                found.add(other)
                left.append(other)
    return found


def references(options: BlockdevOptions) -> Iterator[str]:
    """The names of the nodes that a definition takes as children, or may take."""
    for ref in options.children().values():
        if isinstance(ref, BlockdevOptionsBacking):
            yield from (str(value) for _, value in ref.flat)
        elif isinstance(ref, BlockdevOptions):
            yield from references(ref)
        else:
            yield ref
