# SPDX-License-Identifier: MIT
"""Some hundred connections with bytes that no client sends; `scripts/endure hostile` makes more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from hostile import ITEMS, life

CONNECTIONS = 300


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_hostile_bytes_harm_nobody_else(seed: str, tmp_path: Path) -> None:
    tally: Counter[str] = Counter()
    life(tmp_path, seed, CONNECTIONS, tally)
    assert tally.total() == CONNECTIONS
    assert set(tally) == set(ITEMS)
