# SPDX-License-Identifier: MIT
"""Guest reads and writes that nothing concerns, without lock or coroutine.

Most requests of most drives need no decision: the machine runs, no rule can
hit them, nothing is throttled or watched.  They go straight to the file
descriptor, on the worker's thread.
"""

from __future__ import annotations

import os

from blockcore.bql.clock import Clock
from blockcore.nodes.shortcut.slot import Slot
from blockcore.nodes.shortcut.way import Way

Tried = bool | OSError
"""What came of trying the shortcut: True, the request is done; False, it is for the long way.

An OSError is the outcome of a first attempt, which the drive's policy has to see.
"""


class GuestShortcut:
    """Where a drive's plain requests go; immutable, replaced as a whole."""

    __slots__ = (
        *("fd", "mark", "now_ns", "read_guard", "shift", "size"),
        *("translation", "write_guard"),
    )

    def __init__(self, way: Way, size: int, clock: Clock) -> None:
        self.fd = way.fd
        self.shift = way.shift
        self.size = size
        self.translation = way.translation
        self.mark = way.traces.marker()
        self.now_ns = clock.monotonic_ns
        self.read_guard = way.read_guard()
        self.write_guard = way.write_guard()

    def pread(self, slot: Slot, offset: int, buf: memoryview) -> bool:
        """Fill `buf`, and count that in `slot`; False if the long way has to do it.

        Raises OSError if the read itself failed.
        """
        length = len(buf)
        guard = self.read_guard
        if offset + length > self.size or (guard is not None and guard(offset, length)):
            return False
        start_ns = self.now_ns()
        if self.translation is not None:
            if not self.translation.pread(offset + self.shift, buf):
                return False
        elif os.preadv(self.fd, (buf,), offset + self.shift) != length:
            return False
        slot.last_ns = end_ns = self.now_ns()
        slot.rd_ops += 1
        slot.rd_bytes += length
        slot.rd_ns += end_ns - start_ns
        return True

    def pwrite(self, slot: Slot, offset: int, buf: memoryview) -> bool:
        """Write `buf`, and count that in `slot`; False and OSError as for `pread`."""
        length = len(buf)
        end = offset + length
        guard, mark = self.write_guard, self.mark
        if end > self.size or (guard is not None and guard(offset, length)):
            return False
        start_ns = self.now_ns()
        try:
            if self.translation is not None:
                done = length if self.translation.pwrite(slot, offset + self.shift, buf) else 0
            else:
                done = os.pwrite(self.fd, buf, offset + self.shift)
        finally:
            # A write that fails may have done a part, and one that the long way has to do is
            # marked there as well.
            if mark is not None:
                mark(offset, length)
        if done != length:
            return False
        if end > slot.wr_highest:
            slot.wr_highest = end
        slot.last_ns = end_ns = self.now_ns()
        slot.wr_ops += 1
        slot.wr_bytes += length
        slot.wr_ns += end_ns - start_ns
        return True
