# SPDX-License-Identifier: MIT
"""Ways: how plain I/O of a node can go straight to a file descriptor (`BlockNode.way`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field, replace
from typing import Protocol, Self

from blockcore.bql.effects import Lane
from blockcore.faults.gate import Gate
from blockcore.faults.injector import FaultInjector
from blockcore.nodes.shortcut.slot import Slot
from blockcore.nodes.shortcut.traces import Raise, Traces
from blockcore.qapi.names import BlkdebugEvent, FaultIOType
from blockcore.qapi.record import dataclass

Guard = Callable[[int, int], bool]
"""A function that tells whether a request (offset, length) needs the long way."""


class FileSystem(Protocol):
    """The file system of a file (`nodes.file_calls`)."""

    def copying_to(self, other: Self) -> Lane:
        """Return the lane of copies from this file system to files of `other`."""


class Translation(Protocol):
    """A format's translation of guest offsets to places in a file.

    Workers call it without the big lock.
    """

    traces: Traces
    """The traces of its requests at nodes below the format's."""

    def pread(self, offset: int, buf: memoryview) -> bool:
        """Fill `buf`; False if the read needs the long way.  Raises OSError if it fails."""

    def pwrite(self, slot: Slot, offset: int, buf: memoryview) -> bool:
        """Write `buf`, and note its end in the slot; False if the write needs the long way.

        Raises OSError if the write fails.
        """


@dataclass(slots=True)
class Way:
    """The file descriptor `fd`, of a file in `system`, that a node's I/O may use directly.

    `shift` is added to the node's offsets.  The gates hold the ranges, in the
    node's own offsets, whose requests need the long way.  `traces` are left at the
    bypassed nodes.  `has_rules` tells that some bypassed node has fault rules, which
    may depend on any event.

    With a `translation`, the shifted offsets are guest offsets of a format's node,
    and the translation does the I/O at that node's file.
    """

    fd: int
    system: FileSystem
    read_gate: Gate
    write_gate: Gate
    shift: int = 0
    traces: Traces = field(default_factory=Traces)
    has_rules: bool = False
    translation: Translation | None = None

    def shifted(self, by: int) -> Way:
        """Return the way of a parent whose offset 0 is this node's offset `by` (bytes)."""
        return replace(
            self,
            read_gate=Gate().union(self.read_gate, -by),
            write_gate=Gate().union(self.write_gate, -by),
            shift=self.shift + by,
            traces=self.traces.shifted(by),
        )

    def keep_to(
        self,
        faults: FaultInjector,
        reads: Sequence[BlkdebugEvent],
        writes: Sequence[BlkdebugEvent],
    ) -> bool:
        """Add a node's fault rules: its ranges to the gates, its events to the traces.

        `reads` and `writes` are the events that requests raise at that node.  Returns
        False if the rules may hit a request anywhere, or change the state: then the
        node cannot be bypassed.
        """
        read, written = faults.gate(FaultIOType.READ), faults.gate(FaultIOType.WRITE)
        if faults.changes_state or read is None or written is None:
            return False
        self.has_rules |= bool(faults.rules)
        self.read_gate = self.read_gate.union(read)
        self.write_gate = self.write_gate.union(written)
        self.traces.read_events += filter(None, [faults.trace(reads)])
        self.traces.write_events += filter(None, [faults.trace(writes)])
        return True

    def read_guard(self) -> Guard | None:
        """Return the guard that each read has to call first, or None."""
        return _guard(self.read_gate, self.traces.read_events)

    def write_guard(self) -> Guard | None:
        """Return the guard that each write has to call first, or None."""
        return _guard(self.write_gate, self.traces.write_events)


def _guard(gate: Gate, events: list[Raise]) -> Guard | None:
    """Return a guard for a gate, which raises the events of each request that passes."""
    if not events:
        return gate.touches if gate else None

    def guard(offset: int, nbytes: int) -> bool:
        if gate.touches(offset, nbytes):
            return True
        for event in events:
            event()
        return False

    return guard
