# SPDX-License-Identifier: MIT
"""The traces of requests at nodes: highest offset, generation, bitmaps, events of rules.

A flush compares generations of writes, blockstats show the highest offset, a
backup copies what a bitmap has recorded, and an event may activate fault rules.
`NodeTraces` are those of one node.  `Traces` are those of all nodes that a
shortcut bypasses: with them a request leaves the state that it would have left on
the long way.
"""

from __future__ import annotations

from collections.abc import Callable

from blockcore.rules.bitmap import DirtyBitmap, NodeBitmaps

Raise = Callable[[], None]
"""A function that raises the events of one request at a node's fault rules."""

Mark = Callable[[int, int], None]
"""A function that marks a range (offset, length) in the bitmaps that record it."""


class NodeTraces:
    """The traces of writes at one node.

    `highest` is the highest offset at which a write has ended, in bytes.
    `generation` rises with each write, for flushes to compare.  `bitmaps` record
    the written ranges.
    """

    __slots__ = ("bitmaps", "generation", "highest")

    def __init__(self, bitmaps: NodeBitmaps) -> None:
        self.highest = 0
        self.generation = 0
        self.bitmaps = bitmaps

    def wrote(self, offset: int, length: int) -> None:
        """Record a write that has ended; a failed one too, as it may have written a part."""
        if offset + length > self.highest:
            self.highest = offset + length
        self.changed(offset, length)

    def changed(self, offset: int, length: int) -> None:
        """Record that a range may have changed without a write, as by a discard."""
        self.generation += 1
        self.bitmaps.mark(offset, length)

    def reached(self, highest: int) -> None:
        """Record that writes have ended at `highest` at most; bitmaps have them already."""
        if highest > self.highest:
            self.highest = highest
        self.generation += 1


class Traces:
    """The traces of requests at all nodes that they bypass.

    All come with shifts: a request's offset plus the shift is the offset at that
    node.  `bitmaps` are those that recorded when the way was found; `others` are
    those among them that are no node's.  `read_events` and `write_events` are
    called for each request, on any thread.
    """

    __slots__ = ("bitmaps", "nodes", "others", "read_events", "write_events")

    def __init__(self) -> None:
        self.nodes: list[tuple[NodeTraces, int]] = []
        self.bitmaps: list[tuple[DirtyBitmap, int]] = []
        self.others: list[tuple[DirtyBitmap, int]] = []
        self.read_events: list[Raise] = []
        self.write_events: list[Raise] = []

    def pass_by(self, node: NodeTraces) -> None:
        """Add a node that is bypassed, with the offsets of the requests."""
        self.nodes.append((node, 0))
        self.bitmaps += [(bitmap, 0) for bitmap in node.bitmaps.recording]

    def mark_in(self, bitmap: DirtyBitmap) -> None:
        """Add a bitmap that is not one of its node's."""
        self.bitmaps.append((bitmap, 0))
        self.others.append((bitmap, 0))

    def shifted(self, by: int) -> Traces:
        """Return the traces for requests whose offsets are `by` bytes lower than here."""
        moved = Traces()
        moved.nodes = [(node, shift + by) for node, shift in self.nodes]
        moved.bitmaps = [(bitmap, shift + by) for bitmap, shift in self.bitmaps]
        moved.others = [(bitmap, shift + by) for bitmap, shift in self.others]
        moved.read_events, moved.write_events = self.read_events, self.write_events
        return moved

    def read(self) -> None:
        """Leave the traces of a read."""
        for event in self.read_events:
            event()

    def wrote(self, offset: int, length: int) -> None:
        """Leave all traces of a write that has ended, whatever its outcome.

        The caller has the big lock.  The nodes' bitmaps are those of this moment, as on
        the long way: one that came while the write was under way has to have it.
        """
        for event in self.write_events:
            event()
        for bitmap, shift in self.others:
            bitmap.set(offset + shift, length)
        for node, shift in self.nodes:
            node.wrote(offset + shift, length)

    def reached(self, highest: int) -> None:
        """Record at the nodes that writes have ended at `highest` at most.

        Events and bitmaps have these writes already.  The caller has the big lock.
        """
        for node, shift in self.nodes:
            node.reached(highest + shift)

    def marker(self) -> Mark | None:
        """Return a function that marks a write in all bitmaps, on any thread, or None.

        A backup or mirror of a plain drive has one bitmap without a shift.  Its
        marking function is returned as it is, which saves a call for each write.
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
