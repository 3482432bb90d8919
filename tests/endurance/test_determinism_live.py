# SPDX-License-Identifier: MIT
"""The same faults at any queue depth, live; `scripts/endure determinism` does it often."""

from __future__ import annotations

from determinism import KINDS, outcomes

SEED = 20
REQUESTS = 250


def test_the_same_faults_at_any_depth() -> None:
    first, *others = outcomes(SEED, 1, [1, 32], REQUESTS)
    assert {touch.kind for touch in first.failed} == {*KINDS.values(), "flush"}
    assert all(hits > 0 for _, hits in first.hits), first.hits
    assert others == [first]
