# SPDX-License-Identifier: MIT
"""Guest reads and writes that nothing concerns, without lock or coroutine.

Most requests of most drives need no decision: the machine runs, no rule can
hit them, nothing is throttled or watched.  They go straight to the file
descriptor.

It is safe without a lock because of the order of two steps on each side.  A
worker sets `slot.busy` and then looks at the drive's `short_path`; whoever
needs the drive quiet takes `short_path` away and then waits until no slot is
busy (`BlockBackend.quiet`).  The interpreter runs these steps in one order for
all threads, so that one of the two always sees the other.  A worker that finds
the path gone when it is done pokes the lock, since somebody may be waiting.

Whatever concerns requests (a rule, a bitmap, a limit, a link, the run state)
takes the path away itself when it comes or goes; the next request, which has to
take the long way, decides whether there may be a path (`renew_short_path`).

What needs a decision after all takes the lock for it and no longer
(`qcow2.short_write`): never to wait for anything, since others may wait for
this very slot under it.
"""

from __future__ import annotations

import os

from blockcore.bql.clock import Clock
from blockcore.nodes.direct import Direct, watch
from blockcore.rules.accounting import Slot


class ShortPath:
    """Where a drive's plain requests go; immutable, replaced as a whole."""

    __slots__ = (
        *("bitmaps", "fd", "nodes", "now_ns"),
        *("read_touches", "shift", "size", "translation", "write_touches"),
    )

    def __init__(self, direct: Direct, size: int, clock: Clock) -> None:
        self.fd = direct.fd
        self.shift = direct.shift
        self.size = size
        self.translation = direct.translation
        self.nodes = tuple(direct.nodes)
        self.bitmaps = tuple(direct.bitmaps)
        self.now_ns = clock.monotonic_ns
        self.read_touches = watch(direct.read_gate, direct.read_passes)
        self.write_touches = watch(direct.write_gate, direct.write_passes)

    def pread(self, slot: Slot, buf: memoryview, offset: int) -> bool:
        """Read, and count it in `slot`; False if the long path has to do it.

        Raises OSError if the read itself failed.
        """
        length = len(buf)
        touches = self.read_touches
        if offset + length > self.size or (touches is not None and touches(offset, length)):
            return False
        start_ns = self.now_ns()
        if self.translation is not None:
            if not self.translation.pread(buf, offset + self.shift):
                return False
        elif os.preadv(self.fd, (buf,), offset + self.shift) != length:
            return False
        slot.last_ns = end_ns = self.now_ns()
        slot.rd_ops += 1
        slot.rd_bytes += length
        slot.rd_ns += end_ns - start_ns
        return True

    def pwrite(self, slot: Slot, buf: memoryview, offset: int) -> bool:
        """Write, and count it in `slot`; False and OSError as for `pread`."""
        length = len(buf)
        end = offset + length
        touches = self.write_touches
        if end > self.size or (touches is not None and touches(offset, length)):
            return False
        start_ns = self.now_ns()
        try:
            if self.translation is not None:
                done = length if self.translation.pwrite(slot, buf, offset + self.shift) else 0
            else:
                done = os.pwrite(self.fd, buf, offset + self.shift)
        finally:
            for bitmap, shift in self.bitmaps:
                bitmap.set_unlocked(offset + shift, length)
        if done != length:
            return False
        if end > slot.wr_highest:
            slot.wr_highest = end
        slot.last_ns = end_ns = self.now_ns()
        slot.wr_ops += 1
        slot.wr_bytes += length
        slot.wr_ns += end_ns - start_ns
        return True
