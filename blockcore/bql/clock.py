# SPDX-License-Identifier: MIT
"""The time as the core sees it; tests and the simulator inject clocks of their own."""

from __future__ import annotations

import time
from typing import Final, Protocol

NS_OF_MS: Final = 1_000_000


class Clock(Protocol):
    """A monotonic and a real-time clock, both in nanoseconds; any thread may ask."""

    def monotonic_ns(self) -> int:
        """Return the time for durations, deadlines and rate limits."""

    def realtime_ns(self) -> int:
        """Return the time since the epoch, for the timestamp of an event."""


class SystemClock:
    """The clocks of the operating system."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    realtime_ns = staticmethod(time.time_ns)
