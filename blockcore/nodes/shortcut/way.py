# SPDX-License-Identifier: MIT
"""How plain I/O of a node may go straight to a file descriptor (`BlockNode.way`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from blockcore.bql.effects import Lane
from blockcore.faults.gate import Gate
from blockcore.faults.injector import FaultInjector
from blockcore.nodes.shortcut.slot import Slot
from blockcore.nodes.shortcut.traces import Raise, Traces
from blockcore.qapi.names import BlkdebugEvent, BlkdebugIOType

Guard = Callable[[int, int], bool]
"""Whether the long way has to do a request; gets its offset and length."""


class FileSystem(Protocol):
    """What a file is of (`nodes.file_calls`)."""

    def copying_to(self, other: Self) -> Lane:
        """The lane of what is copied to files of another file system, or of this one."""


class Translation(Protocol):
    """A format's way from its offsets to places in a file.

    Called by workers, without the big lock.
    """

    traces: Traces
    """What its requests leave below the format's node."""

    def pread(self, offset: int, buf: memoryview) -> bool:
        """Fill `buf`; False if the long way has to do it.  OSError if the read failed."""

    def pwrite(self, slot: Slot, offset: int, buf: memoryview) -> bool:
        """Write `buf`, and note its end in the slot; False and OSError as for `pread`."""


@dataclass(slots=True)
class Way:
    """A file descriptor that a node's I/O may go straight to; of a file of `system`.

    `shift` is added to the node's offsets.  The gates hold the ranges that a
    fault rule may concern, in the node's own offsets.  `traces` are left at
    the nodes on the way.  `has_rules` says that some node has fault rules,
    which may wait for any event.

    With a `translation`, the shifted offsets are those of a node that maps
    them to places in the file; what is below that node is the translation's.
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
        """Return the way of a parent whose offset 0 is this node's offset `by`."""
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
        """Leave to a node's fault rules what they may hit; False if that is everything.

        `reads` and `writes` are the events of such requests at that node.
        """
        read, written = faults.gate(BlkdebugIOType.READ), faults.gate(BlkdebugIOType.WRITE)
        if faults.changes_state or read is None or written is None:
            return False
        self.has_rules |= bool(faults.rules)
        self.read_gate = self.read_gate.union(read)
        self.write_gate = self.write_gate.union(written)
        self.traces.read_events += filter(None, [faults.trace(reads)])
        self.traces.write_events += filter(None, [faults.trace(writes)])
        return True

    def read_guard(self) -> Guard | None:
        """Return what each read has to ask first; None if there is nothing to ask."""
        return _guard(self.read_gate, self.traces.read_events)

    def write_guard(self) -> Guard | None:
        """Return what each write has to ask first; None if there is nothing to ask."""
        return _guard(self.write_gate, self.traces.write_events)


def _guard(gate: Gate, events: list[Raise]) -> Guard | None:
    if not events:
        return gate.touches if gate else None

    def guard(offset: int, nbytes: int) -> bool:
        if gate.touches(offset, nbytes):
            return True
        for event in events:
            event()
        return False

    return guard
