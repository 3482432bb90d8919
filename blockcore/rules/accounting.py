# SPDX-License-Identifier: MIT
"""What a drive has done: QEMU's BlockAcctStats (`block/accounting.c`).

A request counts when it is over.  Success adds operations, bytes and time;
an error that is reported adds only a failure; an ignored error counts as a
success; a request that stopped the machine counts when its retry is over
(semantics as recorded from QEMU, `tests/golden/7.2/guest-*`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class AcctType(StrEnum):
    """The four kinds of request that QEMU keeps apart."""

    READ = "rd"
    WRITE = "wr"
    FLUSH = "flush"
    UNMAP = "unmap"


@dataclass(slots=True)
class Tally:
    """Totals of one kind of request; times in nanoseconds."""

    operations: int = 0
    bytes: int = 0
    time_ns: int = 0
    failed: int = 0
    invalid: int = 0


class Slot:
    """What one worker thread has done on the short path, and whether it is in it.

    `wr_highest` is where its writes to the drive ended at most, `wr_highest_below`
    where they did in the file of an image format.

    Only its thread writes a slot, so that no lock is needed; the drive sums
    its slots when somebody asks.  `busy` makes the short path safe without a
    lock: see `drive/short_path.py`.
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


@dataclass(slots=True)
class BlockAcctStats:
    """Counters of one drive, exact at any number of requests in flight."""

    account_invalid: bool = True
    account_failed: bool = True
    tallies: dict[AcctType, Tally] = field(default_factory=lambda: {t: Tally() for t in AcctType})
    last_access_ns: int = 0

    def done(self, kind: AcctType, nbytes: int, started_ns: int, now_ns: int) -> None:
        """A request of `nbytes` that began at `started_ns` has succeeded."""
        tally = self.tallies[kind]
        tally.operations += 1
        tally.bytes += nbytes
        tally.time_ns += now_ns - started_ns
        self.last_access_ns = now_ns

    def failed(self, kind: AcctType, started_ns: int, now_ns: int) -> None:
        """A request has failed and its client was told."""
        tally = self.tallies[kind]
        tally.failed += 1
        if self.account_failed:
            tally.time_ns += now_ns - started_ns
            self.last_access_ns = now_ns

    def invalid(self, kind: AcctType, now_ns: int) -> None:
        """A request that no device would accept was refused."""
        self.tallies[kind].invalid += 1
        if self.account_invalid:
            self.last_access_ns = now_ns

    def add(self, slot: Slot) -> None:
        """Count in what a slot holds: at the end of its thread, or into a copy for a query."""
        read, write = self.tallies[AcctType.READ], self.tallies[AcctType.WRITE]
        read.operations += slot.rd_ops
        read.bytes += slot.rd_bytes
        read.time_ns += slot.rd_ns
        write.operations += slot.wr_ops
        write.bytes += slot.wr_bytes
        write.time_ns += slot.wr_ns
        self.last_access_ns = max(self.last_access_ns, slot.last_ns)
