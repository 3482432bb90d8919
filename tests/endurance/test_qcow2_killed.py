# SPDX-License-Identifier: MIT
"""A server of a qcow2 overlay that is killed at a random moment: what was flushed is there.

`scripts/endure kills` goes on for longer.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kills import kill_alone

RUNS = 6
"""Of each size; what differs among them is the moment, of which there are 18 in all."""


@pytest.mark.slow
@pytest.mark.parametrize("cluster_size", [512, 4096, 65536])
def test_what_was_flushed_survives_a_kill(tmp_path: Path, cluster_size: int) -> None:
    names = [f"0/{cluster_size}/{run}" for run in range(RUNS)]
    assert sum(kill_alone(tmp_path, cluster_size, name) for name in names)
