# SPDX-License-Identifier: MIT
"""Some lives of a machine to which everything happens; `scripts/endure chaos` leads more."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos import World

LIVES = 4


@pytest.mark.slow
def test_nothing_is_lost_whatever_happens(tmp_path: Path) -> None:
    world = World(tmp_path, "0")
    for number in range(LIVES):
        assert world.life(number) == []
