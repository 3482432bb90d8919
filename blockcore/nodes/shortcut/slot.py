# SPDX-License-Identifier: MIT
"""Slots: each worker's counters on the shortcut, and whether the worker is on it."""

from __future__ import annotations

from collections.abc import Iterator

from blockcore.nodes.shortcut.traces import Traces


class Slot:
    """The counters of one worker thread on the shortcut, and whether it is on it.

    `connection` is the number of the guest's connection that the thread serves, and
    `until_look` how many requests there are until its processor is looked at
    (`process.gathering`).

    Times are in ns.  `wr_highest` is the highest offset at which a write to the
    drive has ended, `wr_highest_below` the highest offset in the file of an image.

    Only its thread writes a slot, so no lock is needed; the drive adds its slots up
    on demand.  A sum taken during a request may lack a part of that request's
    numbers.  `busy` is half of "busy before look" (`nodes.shortcut`).
    """

    __slots__ = (
        "busy",
        "connection",
        "last_ns",
        "rd_bytes",
        "rd_ns",
        "rd_ops",
        "until_look",
        "wr_bytes",
        "wr_highest",
        "wr_highest_below",
        "wr_ns",
        "wr_ops",
    )

    def __init__(self, connection: int = 0, until_look: int = 0) -> None:
        self.busy = False
        self.connection = connection
        self.until_look = until_look
        self.rd_ops = self.rd_bytes = self.rd_ns = 0
        self.wr_ops = self.wr_bytes = self.wr_ns = 0
        self.wr_highest = self.wr_highest_below = 0
        self.last_ns = 0

    @property
    def ops(self) -> int:
        """The number of requests that have ended."""
        return self.rd_ops + self.wr_ops


class Slots:
    """The slots of one drive's workers; used under the big lock.

    `traces` has the nodes that learn of the writes, `traces_below` those that learn
    of writes to an image's file.  Both stay until the next way is set, because the
    last writes may not have been published when a shortcut is taken away.
    """

    def __init__(self) -> None:
        self.traces = Traces()
        self.traces_below = Traces()
        self._slots: list[Slot] = []
        self._retired_ops = 0
        self._published = 0

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def append(self, slot: Slot) -> None:
        """Add the slot of a new worker."""
        self._slots.append(slot)

    def retire(self, slot: Slot) -> None:
        """Remove the slot of an ended worker; its requests stay in `ops`."""
        self.publish()
        self._published -= slot.wr_ops
        self._retired_ops += slot.ops
        self._slots.remove(slot)

    def lead_to(self, traces: Traces, traces_below: Traces) -> None:
        """Leave the traces of the writes from now on at other nodes, or at the same ones anew.

        How far writes have reached counts for the nodes that they have reached:
        an overlay that takes the place of a longer image begins at nothing.
        Workers may be on their way still, and write their slots, only while the
        nodes are the same as before: others come in drained sections.
        """
        self.publish()
        self.traces, self.traces_below = traces, traces_below
        if self.idle():
            for slot in self._slots:
                slot.wr_highest = slot.wr_highest_below = 0

    def idle(self) -> bool:
        """Tell whether no request is on the shortcut."""
        return not any(slot.busy for slot in self._slots)

    def ops(self) -> int:
        """Return how many requests have ended, including those of ended workers."""
        return self._retired_ops + sum(slot.ops for slot in self._slots)

    def publish(self) -> None:
        """Leave the traces of writes since the last call at the nodes that they bypassed.

        Bitmaps and events are not published: they were marked and raised at once.
        """
        writes = sum(slot.wr_ops for slot in self._slots)
        if writes == self._published:
            return
        self._published = writes
        self.traces.reached(max(slot.wr_highest for slot in self._slots))
        self.traces_below.reached(max(slot.wr_highest_below for slot in self._slots))
