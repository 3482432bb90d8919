# SPDX-License-Identifier: MIT
"""I/O throttling: the limits, and the leaky buckets that enforce them.

The arithmetic and the messages are those of QEMU's `util/throttle.c`.  A
bucket leaks at `avg` units per second.  A request is charged when it is let
go: the level that earlier requests have left delays it, its own size does not.
All times are monotonic nanoseconds, given by the caller.
"""

from __future__ import annotations

from dataclasses import fields

from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass

VALUE_MAX = 10**15
"""The largest limit and burst rate (THROTTLE_VALUE_MAX)."""

NS_PER_S = 10**9


@dataclass(frozen=True, slots=True)
class Limit:
    """One bucket's configuration (LeakyBucket).

    `avg` and `max` are units (bytes or requests) per second, `length` is
    seconds.  avg 0 is no limit.  Without `max`, as much as `avg` allows in a
    tenth of a second may pass at once; with `max`, `max` per second may pass
    for `length` seconds.
    """

    avg: int = 0
    max: int = 0
    length: int = 1

    def validate(self) -> None:
        """Raise QmpError for what QEMU checks first and refuses (throttle_is_valid)."""
        # The order of the checks is QEMU's: the first that fails gives the message.
        if not (0 <= self.avg <= VALUE_MAX and 0 <= self.max <= VALUE_MAX):
            raise QmpError(f"bps/iops/max values must be within [0, {VALUE_MAX}]")
        if not self.length:
            raise QmpError("the burst length cannot be 0")
        if self.length > 1 and not self.max:
            raise QmpError("burst length set without burst rate")
        if self.max * self.length > VALUE_MAX:
            raise QmpError("burst length too high for this burst rate")
        if self.max and not self.avg:
            raise QmpError("bps_max/iops_max require corresponding bps/iops values")
        if self.max and self.max < self.avg:
            raise QmpError("bps_max/iops_max cannot be lower than bps/iops")


UNLIMITED = Limit()
"""A bucket that holds nothing up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleConfig:
    """The limits of a group: bps in bytes per second, iops in requests per second.

    With `iops_size` (bytes; 0 is unset), a request of more bytes counts as
    nbytes / iops_size requests.
    """

    bps_total: Limit = UNLIMITED
    bps_read: Limit = UNLIMITED
    bps_write: Limit = UNLIMITED
    iops_total: Limit = UNLIMITED
    iops_read: Limit = UNLIMITED
    iops_write: Limit = UNLIMITED
    iops_size: int = 0

    @property
    def buckets(self) -> dict[str, Limit]:
        """The buckets by name, in the order in which QEMU checks them."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "iops_size"}

    @property
    def enabled(self) -> bool:
        """Whether anything is limited (throttle_enabled); a drive without limits is in no group."""
        return any(limit.avg for limit in self.buckets.values())

    def validate(self) -> None:
        """Raise QmpError for what QEMU checks first and refuses (throttle_is_valid).

        The order is QEMU's: totals beside reads or writes, then `iops_size`,
        then each bucket.
        """
        for kind in ("bps", "iops"):
            total, read, write = (self.buckets[f"{kind}_{d}"] for d in ("total", "read", "write"))
            if total.avg and (read.avg or write.avg) or total.max and (read.max or write.max):
                raise QmpError(
                    "bps/iops/max total values and read/write values"
                    " cannot be used at the same time"
                )
        if self.iops_size and not any(
            limit.avg for name, limit in self.buckets.items() if name.startswith("iops")
        ):
            raise QmpError("iops size requires an iops value to be set")
        for limit in self.buckets.values():
            limit.validate()


class _Bucket:
    """The levels of one leaky bucket, in units.

    `burst_level` leaks at `max` per second, and so keeps a burst that is longer
    than a second at that rate; it is used only if `length` is above 1.
    """

    __slots__ = ("burst_level", "level", "limit")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.level = 0.0
        self.burst_level = 0.0

    def leak(self, delta_ns: int) -> None:
        """Lower the levels by what leaks in `delta_ns` (throttle_leak_bucket)."""
        self.level = max(self.level - self.limit.avg * delta_ns / NS_PER_S, 0.0)
        if self.limit.length > 1:
            self.burst_level = max(self.burst_level - self.limit.max * delta_ns / NS_PER_S, 0.0)

    def charge(self, units: float) -> None:
        """Add a request's units."""
        self.level += units
        if self.limit.length > 1:
            self.burst_level += units

    def wait_ns(self) -> int:
        """Return how long until the levels are down to their capacity (throttle_compute_wait)."""
        limit = self.limit
        if not limit.avg:
            return 0
        # Without a burst rate a tenth of a second's worth may pass at once, as in QEMU's code
        # (whatever its documentation says): with none, every second request would wait.
        capacity = limit.max * limit.length if limit.max else limit.avg / 10
        if self.level > capacity:
            return int((self.level - capacity) * NS_PER_S / limit.avg)
        if limit.length > 1 and self.burst_level > limit.max / 10:
            return int((self.burst_level - limit.max / 10) * NS_PER_S / limit.max)
        return 0


class ThrottleState:
    """The levels of the six buckets of a configuration, as of the last `now_ns` given."""

    def __init__(self, config: ThrottleConfig, now_ns: int) -> None:
        self.config = config
        self._leaked_ns = now_ns
        buckets = {name: _Bucket(limit) for name, limit in config.buckets.items()}
        self._bps, self._iops = (
            {
                is_write: [buckets[f"{kind}_total"], buckets[f"{kind}_{direction}"]]
                for is_write, direction in ((False, "read"), (True, "write"))
            }
            for kind in ("bps", "iops")
        )
        self._buckets = list(buckets.values())

    def _leak(self, now_ns: int) -> None:
        """Bring the levels up to date (throttle_do_leak)."""
        delta_ns = now_ns - self._leaked_ns
        if delta_ns > 0:
            self._leaked_ns = now_ns
            for bucket in self._buckets:
                bucket.leak(delta_ns)

    def wait_ns(self, now_ns: int, is_write: bool) -> int:
        """Return how many nanoseconds a request has to wait from `now_ns` on, or 0."""
        self._leak(now_ns)
        return max(b.wait_ns() for b in (*self._bps[is_write], *self._iops[is_write]))

    def account(self, now_ns: int, is_write: bool, nbytes: int) -> None:
        """Charge a request of `nbytes` bytes that is let go at `now_ns` (throttle_account)."""
        self._leak(now_ns)
        size = self.config.iops_size
        units = nbytes / size if size and nbytes > size else 1.0
        for bucket in self._bps[is_write]:
            bucket.charge(nbytes)
        for bucket in self._iops[is_write]:
            bucket.charge(units)
