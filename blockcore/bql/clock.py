# SPDX-License-Identifier: MIT
"""Time as the core sees it: injected, so that tests own it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks, both in nanoseconds."""

    def monotonic_ns(self) -> int:
        """For durations, deadlines and rate limits."""

    def realtime_ns(self) -> int:
        """Since the epoch, for the timestamp of an event."""


class SystemClock:
    """The machine's own clocks."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    realtime_ns = staticmethod(time.time_ns)
