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
from typing import Protocol


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


class Counts(Protocol):
    """Successful reads and writes that were counted elsewhere, as on the shortcut."""

    rd_ops: int
    rd_bytes: int
    rd_ns: int
    wr_ops: int
    wr_bytes: int
    wr_ns: int
    last_ns: int


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

    def add(self, counts: Counts) -> None:
        """Count in what was counted elsewhere, for good or into a copy for a query."""
        read, write = self.tallies[AcctType.READ], self.tallies[AcctType.WRITE]
        read.operations += counts.rd_ops
        read.bytes += counts.rd_bytes
        read.time_ns += counts.rd_ns
        write.operations += counts.wr_ops
        write.bytes += counts.wr_bytes
        write.time_ns += counts.wr_ns
        self.last_access_ns = max(self.last_access_ns, counts.last_ns)
