# SPDX-License-Identifier: MIT
"""What each outcome of a request does to a drive's counters."""

from __future__ import annotations

import pytest

from blockcore.nodes.shortcut.slot import Slot
from blockcore.rules.accounting import AcctType, BlockAcctStats, Tally


@pytest.mark.parametrize("kind", AcctType)
def test_done(kind: AcctType) -> None:
    stats = BlockAcctStats()
    stats.done(kind, 512, 100, 150)
    stats.done(kind, 1024, 200, 275)
    assert stats.tallies[kind] == Tally(operations=2, bytes=1536, time_ns=125)
    assert stats.last_access_ns == 275
    assert all(tally == Tally() for other, tally in stats.tallies.items() if other is not kind)


@pytest.mark.parametrize("account_failed", [True, False])
def test_failed(account_failed: bool) -> None:
    """The count is kept anyway; `account_failed` is about times (semantics 7.2)."""
    stats = BlockAcctStats(account_failed=account_failed)
    stats.failed(AcctType.READ, 100, 150)
    time_ns = 50 if account_failed else 0
    assert stats.tallies[AcctType.READ] == Tally(failed=1, time_ns=time_ns)
    assert stats.last_access_ns == (150 if account_failed else 0)


@pytest.mark.parametrize("account_invalid", [True, False])
def test_invalid(account_invalid: bool) -> None:
    stats = BlockAcctStats(account_invalid=account_invalid)
    stats.invalid(AcctType.WRITE, 150)
    assert stats.tallies[AcctType.WRITE] == Tally(invalid=1)
    assert stats.last_access_ns == (150 if account_invalid else 0)


def test_add_a_slot() -> None:
    slot = Slot()
    slot.rd_ops, slot.rd_bytes, slot.rd_ns = 2, 1024, 30
    slot.wr_ops, slot.wr_bytes, slot.wr_ns = 3, 4096, 50
    slot.last_ns = 900
    stats = BlockAcctStats()
    stats.done(AcctType.READ, 512, 0, 10)
    for _ in range(2):
        stats.add(slot)
    assert stats.tallies[AcctType.READ] == Tally(operations=5, bytes=2560, time_ns=70)
    assert stats.tallies[AcctType.WRITE] == Tally(operations=6, bytes=8192, time_ns=100)
    assert stats.last_access_ns == 900
    stats.add(Slot())
    assert stats.last_access_ns == 900
