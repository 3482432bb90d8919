# SPDX-License-Identifier: MIT
"""What requests leave behind at the nodes: how far writes reached, bitmaps, events of rules.

A flush compares generations of writes, blockstats show the highest offset, a
backup copies what a bitmap has, and an event may make other fault rules
active.  `NodeTraces` are one node's own; `Traces` are those of all nodes that
a shortcut goes past, so that nobody can tell which way a request went.
"""

from __future__ import annotations

from collections.abc import Callable

from blockcore.rules.bitmap import DirtyBitmap, NodeBitmaps

Raise = Callable[[], None]
"""Lets a node's fault rules see the events of one request."""

Mark = Callable[[int, int], None]
"""Marks a range, offset and length, in whatever records it."""


class NodeTraces:
    """What writes leave at one node.

    `highest` is where they ended at most, in bytes; `generation` changes with
    each, for flushes to compare; `bitmaps` say where they were.
    """

    __slots__ = ("bitmaps", "generation", "highest")

    def __init__(self, bitmaps: NodeBitmaps) -> None:
        self.highest = 0
        self.generation = 0
        self.bitmaps = bitmaps

    def wrote(self, offset: int, length: int) -> None:
        """A write has ended, whatever its outcome: it may have done a part."""
        if offset + length > self.highest:
            self.highest = offset + length
        self.changed(offset, length)

    def changed(self, offset: int, length: int) -> None:
        """A range may be other than before, but nothing was written there."""
        self.generation += 1
        self.bitmaps.mark(offset, length)

    def reached(self, highest: int) -> None:
        """Writes have ended at `highest` at most, which the bitmaps have already."""
        if highest > self.highest:
            self.highest = highest
        self.generation += 1


class Traces:
    """What requests leave at all nodes that they go past.

    `nodes` and `bitmaps` have shifts: what is to be added to the offsets of
    requests to have that node's.  `read_events` and `write_events` are to be
    called for each request that no rule can hit, on any thread.
    """

    __slots__ = ("bitmaps", "nodes", "read_events", "write_events")

    def __init__(self) -> None:
        self.nodes: list[tuple[NodeTraces, int]] = []
        self.bitmaps: list[tuple[DirtyBitmap, int]] = []
        self.read_events: list[Raise] = []
        self.write_events: list[Raise] = []

    def pass_by(self, node: NodeTraces) -> None:
        """Leave traces at one more node, whose offsets are those of the requests."""
        self.nodes.append((node, 0))
        self.bitmaps += [(bitmap, 0) for bitmap in node.bitmaps.recording]

    def shifted(self, by: int) -> Traces:
        """Return what requests leave `by` bytes further down."""
        moved = Traces()
        moved.nodes = [(node, shift + by) for node, shift in self.nodes]
        moved.bitmaps = [(bitmap, shift + by) for bitmap, shift in self.bitmaps]
        moved.read_events, moved.write_events = self.read_events, self.write_events
        return moved

    def read(self) -> None:
        """A read goes past the nodes."""
        for event in self.read_events:
            event()

    def wrote(self, offset: int, length: int) -> None:
        """A write has ended, whatever its outcome: leave all of its traces.  Under the big lock."""
        for event in self.write_events:
            event()
        for bitmap, shift in self.bitmaps:
            bitmap.set(offset + shift, length)
        self.reached(offset + length)

    def reached(self, highest: int) -> None:
        """Writes whose other traces are there have ended at `highest` at most.

        Under the big lock.
        """
        for node, shift in self.nodes:
            node.reached(highest + shift)

    def marker(self) -> Mark | None:
        """Return what marks a write in the bitmaps, on any thread; None if there are none.

        One bitmap, not shifted, is what a backup or mirror of a plain drive
        has: nothing is to stand between its writes and the bits.
        """
        marks = [(bitmap.set_unlocked, shift) for bitmap, shift in self.bitmaps]
        if not marks:
            return None
        if len(marks) == 1 and not marks[0][1]:
            return marks[0][0]

        def mark(offset: int, length: int) -> None:
            for set_unlocked, shift in marks:
                set_unlocked(offset + shift, length)

        return mark
