# SPDX-License-Identifier: MIT
"""The report of a run: its rows as a table for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.rounds import Ratio, Row, Samples


def table(rows: Sequence[Row]) -> str:
    """Return a table: for each row its ratios with budget and verdict, then its figures."""
    return "\n".join(line for row in rows for line in _row(row))


def _row(row: Row) -> Iterator[str]:
    yield f"{row.name}: {row.what}"
    for ratio in row.ratios:
        verdict = {None: "", True: "met", False: "MISSED"}[ratio.met]
        budget = "" if ratio.budget is None else str(ratio.budget)
        line = f"  {_ratio(ratio.values):24} {budget:8} {verdict:7}"
        yield f"{line} {ratio.ours} : {ratio.theirs}"
    for who, samples in row.figures.items():
        yield f"    {_figure(samples, row.unit):34} {who}"
    yield ""


def _ratio(values: Samples) -> str:
    low, high = values.spread
    return f"{values.median:.2f} ({low:.2f} - {high:.2f})"


def _figure(samples: Samples, unit: str) -> str:
    low, high = samples.spread
    spread = "" if low == high else f" ({low:.0f} - {high:.0f})"
    return f"{samples.median:.0f}{spread} {unit}".rstrip()


def as_json(
    rows: Sequence[Row], environment: dict[str, Any], parameters: dict[str, Any]
) -> dict[str, Any]:
    """Return a run as JSON objects, with every sample; without a budget `met` is null."""
    return {
        "environment": environment,
        "parameters": parameters,
        "rows": [
            {
                "name": row.name,
                "what": row.what,
                "unit": row.unit,
                "figures": {who: _samples(samples) for who, samples in row.figures.items()},
                "ratios": [_ratio_json(ratio) for ratio in row.ratios],
            }
            for row in rows
        ],
    }


def _samples(samples: Samples) -> dict[str, Any]:
    low, high = samples.spread
    return {
        "median": samples.median,
        "min": low,
        "max": high,
        "samples": list(samples.samples),
    }


def _ratio_json(ratio: Ratio) -> dict[str, Any]:
    budget = ratio.budget
    return {
        "ours": ratio.ours,
        "theirs": ratio.theirs,
        **_samples(ratio.values),
        "at_least": None if budget is None else budget.least,
        "at_most": None if budget is None else budget.most,
        "met": ratio.met,
    }
