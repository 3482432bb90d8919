# SPDX-License-Identifier: MIT
"""The kind of fault that carries a request out late."""

from __future__ import annotations

from enum import StrEnum
from math import cos, log, pi, sqrt
from typing import Final

from blockcore.bql.clock import NS_OF_MS
from blockcore.bql.effects import never
from blockcore.faults.dice import Dice
from blockcore.faults.options import FaultOptions, Go, R, Request
from blockcore.faults.scene import Scene
from blockcore.qapi.names import QmpError, UInt32
from blockcore.qapi.record import dataclass

PARETO_SHAPE: Final = 1.5
"""The exponent of the tail: a finite mean, no finite variance, as latencies of disks have it."""

TAIL_MAX: Final = 100
"""The longest delay of a Pareto distribution, in multiples of its jitter."""


class DelayDistribution(StrEnum):
    """How delays are spread."""

    FIXED = "fixed"
    UNIFORM = "uniform"
    NORMAL = "normal"
    PARETO = "pareto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay(FaultOptions):
    """Options of a rule that delays requests, by `delay_ms` and a jitter.

    ============  ==============================================================
    distribution  delay, in milliseconds
    ============  ==============================================================
    fixed         `delay_ms`
    uniform       from `delay_ms` - `jitter_ms` to `delay_ms` + `jitter_ms`
    normal        `delay_ms` on average, with `jitter_ms` as standard deviation
    pareto        `delay_ms` and more: a tail whose scale is `jitter_ms`
    ============  ==============================================================

    Without a `distribution`, a rule with a jitter has `uniform`.  A delay is never
    negative.  The request is carried out after it.
    """

    delay_ms: UInt32 = UInt32(0)
    jitter_ms: UInt32 = UInt32(0)
    distribution: DelayDistribution | None = None

    @property
    def draws(self) -> bool:
        return self.jitter_ms > 0

    def check(self) -> None:
        FaultOptions.check(self)
        if not self.delay_ms and not self.jitter_ms:
            raise QmpError("Parameter 'delay-ms' expects a value greater than zero")
        if self.distribution is DelayDistribution.FIXED and self.jitter_ms:
            raise QmpError("Parameter 'jitter-ms' needs another 'distribution' than 'fixed'")
        if self.distribution not in (None, DelayDistribution.FIXED) and not self.jitter_ms:
            raise QmpError(f"'distribution' value '{self.distribution}' needs 'jitter-ms'")

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> R:
        dice = scene.thrown if self.jitter_ms else None
        deadline_ns = scene.clock.monotonic_ns() + self.delay_ns(dice)
        await scene.wait(never, deadline_ns)
        return await go(request)

    def delay_ns(self, dice: Dice | None) -> int:
        """Return the delay of a request, in nanoseconds; `dice` None for one without a jitter."""
        delay = float(self.delay_ms)
        if dice is not None:
            delay += self.jitter_ms * self._spread(dice)
        return max(0, round(delay * NS_OF_MS))

    def _spread(self, dice: Dice) -> float:
        """Return what the jitter is multiplied with."""
        # 1 - fraction is in (0, 1], so that its logarithm and its powers exist.
        chance = 1 - dice.fraction()
        if self.distribution is DelayDistribution.NORMAL:  # Box and Muller's method
            return sqrt(-2 * log(chance)) * cos(2 * pi * dice.fraction())
        if self.distribution is DelayDistribution.PARETO:
            return min(float(chance ** (-1 / PARETO_SHAPE)) - 1, float(TAIL_MAX))
        return 2 * chance - 1
