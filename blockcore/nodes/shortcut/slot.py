# SPDX-License-Identifier: MIT
"""What workers on the shortcut have done, and whether they are in it."""

from __future__ import annotations

from collections.abc import Iterator

from blockcore.nodes.shortcut.traces import Traces


class Slot:
    """What one worker thread has done on the shortcut, and whether it is in it.

    `wr_highest` is where its writes to the drive ended at most, `wr_highest_below`
    where they did in the file of an image format.

    Only its thread writes a slot, so that no lock is needed; the drive sums
    its slots when somebody asks.  `busy` is half of "busy before look"
    (`nodes.shortcut`).
    """

    __slots__ = (
        "busy",
        "last_ns",
        "rd_bytes",
        "rd_ns",
        "rd_ops",
        "wr_bytes",
        "wr_highest",
        "wr_highest_below",
        "wr_ns",
        "wr_ops",
    )

    def __init__(self) -> None:
        self.busy = False
        self.rd_ops = self.rd_bytes = self.rd_ns = 0
        self.wr_ops = self.wr_bytes = self.wr_ns = 0
        self.wr_highest = self.wr_highest_below = 0
        self.last_ns = 0

    @property
    def ops(self) -> int:
        """How many requests have ended."""
        return self.rd_ops + self.wr_ops


class Slots:
    """The slots of one drive's workers.  Under the big lock.

    `traces` are where their writes are to be known, `traces_below` where
    those to the file of an image format are; from one way to the next they
    stay, since the last writes may not have been published.
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
        """Add a new worker's."""
        self._slots.append(slot)

    def retire(self, slot: Slot) -> None:
        """Drop an ended worker's; its requests stay in `ops`."""
        self.publish()
        self._published -= slot.wr_ops
        self._retired_ops += slot.ops
        self._slots.remove(slot)

    def idle(self) -> bool:
        """Whether no request is on the shortcut."""
        return not any(slot.busy for slot in self._slots)

    def ops(self) -> int:
        """How many requests have ended, those of workers that are gone included."""
        return self._retired_ops + sum(slot.ops for slot in self._slots)

    def publish(self) -> None:
        """Leave the traces of the writes since the last time, but for those left at once."""
        writes = sum(slot.wr_ops for slot in self._slots)
        if writes == self._published:
            return
        self._published = writes
        self.traces.reached(max(slot.wr_highest for slot in self._slots))
        self.traces_below.reached(max(slot.wr_highest_below for slot in self._slots))
