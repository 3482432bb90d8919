# SPDX-License-Identifier: MIT
"""Counters of a drive: QEMU's BlockAcctStats (`block/accounting.c`).

A request counts when it is over.  Success adds an operation, bytes and time.
A reported error adds a failure, and time if `account_failed` is set.  An
ignored error counts as a success.  A request that stopped the machine counts
when its retry is over.  QEMU's recordings show this
(`tests/golden/7.2/guest-*`).
"""

from __future__ import annotations

from dataclasses import field, replace
from enum import StrEnum
from typing import Protocol

from blockcore.qapi.record import dataclass


class AcctType(StrEnum):
    """Kinds of request that have counters of their own; values begin the names in QAPI."""

    READ = "rd"
    WRITE = "wr"
    FLUSH = "flush"
    UNMAP = "unmap"


@dataclass(slots=True)
class Tally:
    """Totals of one kind of request; `time_ns` is the sum of latencies."""

    operations: int = 0
    bytes: int = 0
    time_ns: int = 0
    failed: int = 0
    invalid: int = 0


class Counts(Protocol):
    """Totals of successful reads and writes that took the shortcut (`nodes.shortcut.slot`).

    Bytes, and nanoseconds; `last_ns` is when the last of them ended.
    """

    rd_ops: int
    rd_bytes: int
    rd_ns: int
    wr_ops: int
    wr_bytes: int
    wr_ns: int
    last_ns: int


@dataclass(slots=True)
class BlockAcctStats:
    """The counters of one drive.

    `account_invalid` and `account_failed` decide, as QEMU's options
    stats-account-invalid and stats-account-failed do, whether such requests
    count as an access.  `last_access_ns` is the monotonic time of the last
    access, 0 before the first.  All methods need the big lock.
    """

    account_invalid: bool = True
    account_failed: bool = True
    tallies: dict[AcctType, Tally] = field(default_factory=lambda: {t: Tally() for t in AcctType})
    last_access_ns: int = 0

    def copy(self) -> BlockAcctStats:
        """Return counters that go on by themselves from where these are."""
        tallies = {kind: replace(tally) for kind, tally in self.tallies.items()}
        return replace(self, tallies=tallies)

    def done(self, kind: AcctType, nbytes: int, started_ns: int, now_ns: int) -> None:
        """Count a success of `nbytes` bytes (block_acct_done)."""
        tally = self.tallies[kind]
        tally.operations += 1
        tally.bytes += nbytes
        tally.time_ns += now_ns - started_ns
        self.last_access_ns = now_ns

    def failed(self, kind: AcctType, started_ns: int, now_ns: int) -> None:
        """Count a failure that was reported to the client (block_acct_failed)."""
        tally = self.tallies[kind]
        tally.failed += 1
        if self.account_failed:
            tally.time_ns += now_ns - started_ns
            self.last_access_ns = now_ns

    def invalid(self, kind: AcctType, now_ns: int) -> None:
        """Count a request that was refused because no device accepts it (block_acct_invalid)."""
        self.tallies[kind].invalid += 1
        if self.account_invalid:
            self.last_access_ns = now_ns

    def add(self, counts: Counts) -> None:
        """Add the totals of a worker that uses the shortcut.

        For a worker that ends, they are added to the drive's own counters; for
        a query, to a copy of these, because the worker goes on counting.
        """
        read, write = self.tallies[AcctType.READ], self.tallies[AcctType.WRITE]
        read.operations += counts.rd_ops
        read.bytes += counts.rd_bytes
        read.time_ns += counts.rd_ns
        write.operations += counts.wr_ops
        write.bytes += counts.wr_bytes
        write.time_ns += counts.wr_ns
        self.last_access_ns = max(self.last_access_ns, counts.last_ns)
