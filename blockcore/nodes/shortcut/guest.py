# SPDX-License-Identifier: MIT
"""Guest reads and writes that need no decision, without lock or coroutine.

They go straight to the file descriptor, on the worker's thread.  Every step here
costs measurable throughput.
"""

from __future__ import annotations

import os

from blockcore.bql.clock import Clock
from blockcore.nodes.shortcut.slot import Slot
from blockcore.nodes.shortcut.way import Way

Tried = bool | OSError
"""The result of trying the shortcut: True if the request is done, False for the long way.

An OSError is the outcome of the attempt, about which the drive's policy decides.
"""


class GuestShortcut:
    """The shortcut of one drive: never changed, but replaced as a whole.

    Workers call `pread` and `pwrite` without the big lock, each with its own slot,
    whose `busy` is set before they look for the shortcut.  So a request may still
    use a shortcut that was replaced; code that cannot allow that waits until no
    slot is busy.
    """

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
        """Fill `buf`, and count the read in `slot`; False if it needs the long way.

        Raises OSError if the read fails.  A short read, at the end of the file, is
        left to the long way, which fills up with zeroes.
        """
        length = len(buf)
        guard = self.read_guard
        if offset + length > self.size or (guard is not None and guard(offset, length)):
            return False
        return self.do_pread(slot, offset, buf)

    def do_pread(self, slot: Slot, offset: int, buf: memoryview) -> bool:
        """Do what `pread` does, for a read that nothing keeps off the shortcut."""
        length = len(buf)
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
        """Write `buf`, and count the write in `slot`; False if it needs the long way.

        Raises OSError if the write fails.  The long way repeats a short write from its
        beginning.
        """
        length = len(buf)
        guard = self.write_guard
        if offset + length > self.size or (guard is not None and guard(offset, length)):
            return False
        return self.do_pwrite(slot, offset, buf)

    def do_pwrite(self, slot: Slot, offset: int, buf: memoryview) -> bool:
        """Do what `pwrite` does, for a write that nothing keeps off the shortcut."""
        length, mark = len(buf), self.mark
        end = offset + length
        start_ns = self.now_ns()
        try:
            if self.translation is not None:
                done = length if self.translation.pwrite(slot, offset + self.shift, buf) else 0
            else:
                done = os.pwrite(self.fd, buf, offset + self.shift)
        finally:
            # A write that fails may have written a part.  The mark is superfluous for a write
            # that is left to the long way, which marks it again.
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
