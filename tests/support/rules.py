# SPDX-License-Identifier: MIT
"""Fault rules for tests of one node, whose name nobody asks for."""

from __future__ import annotations

from typing import Any

from blockcore.faults.fail import Fail


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.ns = 0

    def monotonic_ns(self) -> int:
        return self.ns

    realtime_ns = monotonic_ns


def fail(**members: Any) -> Fail:
    """Return a rule that fails requests; members are those of `x-fault-add`, or None."""
    given = {name: value for name, value in members.items() if value is not None}
    return Fail(**{"id": "f", "node_name": "n", **given})
