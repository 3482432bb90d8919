# SPDX-License-Identifier: MIT
"""Turns to change a part of the graph: one command or job at a time in each part.

A part is a set of nodes with all nodes that are connected to them.  QEMU has one
turn for the whole graph, because its commands run one after another.  Here a
command, or the end of a job, may wait for a server that does not answer; it then
keeps others from its own part only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from blockcore.bql.effects import Until
from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevOptionsBacking
from blockcore.nodes.node import BlockNode

Wanted = Callable[[], Iterable[BlockNode]]
"""A function that returns some nodes of the part to be changed.

It is called again while a turn waits, because the graph changes meanwhile.
"""


class Turn:
    """A turn to change one part of the graph, as an async context.

    Entering the context waits; inside it no other turn has a node of the part.
    The class is written out instead of an async generator, because asyncio
    registers the generators that start on its thread, and would finish them itself.
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
        """Whether the turn has begun."""
        return self._held is not None

    def part(self) -> set[BlockNode]:
        """Return all nodes of the part: those taken or, while waiting, those wanted now."""
        return reached(self._wanted()) if self._held is None else self._held

    def also(self, node: BlockNode) -> None:
        """Add a node that was made during the turn."""
        assert self._held is not None
        self._held.add(node)


class Changing:
    """All turns of a graph, waiting or begun, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._turns: list[Turn] = []

    @property
    def taken(self) -> bool:
        """Whether any turn has begun."""
        return any(turn.has_come for turn in self._turns)

    def part(self, wanted: Wanted) -> Turn:
        """Return a context in which no other turn changes what `wanted` is connected to."""
        return Turn(self, wanted)

    async def come(self, turn: Turn) -> None:
        """Wait until no other turn, begun or asked for earlier, has a node of this turn's part."""
        self._turns.append(turn)
        try:
            await Until(lambda: self._may_come(turn))
        except BaseException:
            self.leave(turn)
            raise

    def leave(self, turn: Turn) -> None:
        """Remove a turn that is over, or whose wait was given up."""
        self._turns.remove(turn)

    def _may_come(self, turn: Turn) -> bool:
        """Tell whether `turn` may begin.

        Turns asked for earlier count although they wait too: otherwise turns for
        small parts could keep one for a large part waiting for ever.
        """
        part, earlier = turn.part(), True
        for other in self._turns:
            if other is turn:
                earlier = False
            elif (earlier or other.has_come) and not part.isdisjoint(other.part()):
                return False
        return True


def reached(nodes: Iterable[BlockNode]) -> set[BlockNode]:
    """Return the nodes with all nodes that use them or are used by them, also indirectly."""
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
    """Yield the names of existing nodes that a definition takes as children, or may take."""
    for ref in options.children().values():
        if isinstance(ref, BlockdevOptionsBacking):
            # The keys have no types yet, so any value may turn out to be a node's name.
            yield from (str(value) for _, value in ref.flat)
        elif isinstance(ref, BlockdevOptions):
            yield from references(ref)
        else:
            yield ref
