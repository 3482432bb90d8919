# SPDX-License-Identifier: MIT
"""The speed limit of jobs (`include/qemu/ratelimit.h`)."""

from __future__ import annotations

SLICE_NS = 100_000_000
"""Length of a slice, 100 ms (BLOCK_JOB_SLICE_TIME): a job may exceed its speed within one."""


class RateLimit:
    """A limit in bytes per second, kept on the average of each slice.

    A slice has a quota of bytes.  The request that reaches or exceeds the quota
    is let go at once, however large it is: the slice becomes longer in
    proportion, and the next request waits for the end of the slice.  Times are
    monotonic nanoseconds.
    """

    __slots__ = ("_dispatched", "_end_ns", "_quota", "_start_ns", "speed")

    def __init__(self) -> None:
        self.speed = 0
        self._quota = 0.0
        self._start_ns = 0
        self._end_ns = 0
        self._dispatched = 0

    def set_speed(self, speed: int) -> None:
        """Set the limit in bytes per second; 0 is no limit (ratelimit_set_speed)."""
        self.speed = speed
        self._quota = max(speed * SLICE_NS / 1e9, 1.0)

    def delay_ns(self, now_ns: int, nbytes: int) -> int:
        """Charge `nbytes` bytes; return how long to wait before the next request, in nanoseconds.

        QEMU's ratelimit_calculate_delay.
        """
        if not self.speed:
            return 0
        if self._end_ns < now_ns:
            self._start_ns, self._end_ns = now_ns, now_ns + SLICE_NS
            self._dispatched = 0
        self._dispatched += nbytes
        if self._dispatched < self._quota:
            return 0
        self._end_ns = self._start_ns + int(self._dispatched / self._quota * SLICE_NS)
        return self._end_ns - now_ns
