# SPDX-License-Identifier: MIT
"""The rounds of a row, in which contenders take turns; their medians, ratios and verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Samples:
    """The figures of one contender, one per round."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.samples), max(self.samples)


@dataclass(frozen=True, slots=True)
class Budget:
    """The bound of a ratio: not below `least`, or not above `most`; one of them is given."""

    least: float | None = None
    most: float | None = None

    def met(self, ratio: float) -> bool:
        return (self.least is None or ratio >= self.least) and (
            self.most is None or ratio <= self.most
        )

    def __str__(self) -> str:
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of `ours` to `theirs`, round by round; without a budget it is only reported."""

    ours: str
    theirs: str
    values: Samples
    budget: Budget | None = None

    @property
    def met(self) -> bool | None:
        return None if self.budget is None else self.budget.met(self.values.median)


@dataclass(slots=True)
class Row:
    """One line of the budget, measured; all figures are in `unit`, by contender."""

    name: str
    what: str
    unit: str
    figures: dict[str, Samples]
    ratios: list[Ratio] = field(default_factory=list)

    def compare(self, ours: str, theirs: str, budget: Budget | None = None) -> None:
        """Add the ratio of two contenders that were measured in the same rounds."""
        pairs = zip(self.figures[ours].samples, self.figures[theirs].samples, strict=True)
        values = Samples(tuple(mine / other for mine, other in pairs))
        self.ratios.append(Ratio(ours, theirs, values, budget))


def take_turns(
    contenders: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, Samples]:
    """Measure A, B, ..., A, B, ...: `rounds` figures of each, in the order given."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            figures[name].append(measure())
    return {name: Samples(tuple(values)) for name, values in figures.items()}
