# SPDX-License-Identifier: MIT
"""The speed limit of jobs (`include/qemu/ratelimit.h`)."""

from __future__ import annotations

SLICE_NS = 100_000_000
"""BLOCK_JOB_SLICE_TIME: a limit is kept on the average of slices this long."""


class RateLimit:
    """Bytes per second, counted in slices; times are monotonic nanoseconds.

    More than a slice's quota may be dispatched at once: the slice then grows
    by as much, and everybody waits for its end.
    """

    __slots__ = ("_dispatched", "_end_ns", "_quota", "_start_ns", "speed")

    def __init__(self) -> None:
        self.speed = 0
        self._quota = 0.0
        self._start_ns = 0
        self._end_ns = 0
        self._dispatched = 0

    def set_speed(self, speed: int) -> None:
        """From now on `speed` bytes per second; 0 is no limit."""
        self.speed = speed
        self._quota = max(speed * SLICE_NS / 1e9, 1.0)

    def delay_ns(self, now_ns: int, nbytes: int) -> int:
        """Count `nbytes` as dispatched; how long to wait before the next ones."""
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
