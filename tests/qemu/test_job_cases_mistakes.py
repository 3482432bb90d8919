# SPDX-License-Identifier: MIT
"""Commands that start jobs with two mistakes: both tell the one that QEMU looks for first."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from beside_qemu import Shared, Side
from job_chains import target, three

Mistake = dict[str, Any]

OF_ALL: list[Mistake] = [{"speed": -1}, {"filter_node_name": "top"}, {"job_id": "9"}]

COMMANDS: dict[str, tuple[dict[str, Any], list[Mistake]]] = {
    "blockdev-backup": (
        {"device": "top", "target": "target", "sync": "full"},
        [
            *({"x_perf": {"max-workers": 0}}, {"x_perf": {"max-chunk": -1}}),
            *({"device": "none"}, {"target": "none"}, {"target": "top"}, {"target": "small"}),
            {"sync": "bitmap", "bitmap": "c", "bitmap_mode": "always"},
            *({"sync": "incremental"}, {"sync": "full", "bitmap_mode": "always"}),
        ],
    ),
    "blockdev-mirror": (
        {"device": "top", "target": "target", "sync": "full"},
        [
            *({"granularity": 3}, {"granularity": 256}, {"buf_size": -1}),
            *({"device": "none"}, {"target": "none"}, {"target": "top"}, {"device": "mid"}),
            *({"sync": "bitmap"}, {"sync": "incremental"}, {"replaces": "none"}),
            {"replaces": "base"},
        ],
    ),
    "block-commit": (
        {"device": "top", "top_node": "mid", "base_node": "base"},
        [
            *({"device": "none"}, {"device": "mid"}, {"top_node": "none"}, {"top_node": "base"}),
            *({"base_node": "none"}, {"base_node": "top"}, {"base": "none"}, {"top": "none"}),
        ],
    ),
    "block-stream": (
        {"device": "top", "base_node": "base"},
        [
            *({"device": "none"}, {"base_node": "none"}, {"base_node": "top"}, {"base": "none"}),
            *({"bottom": "none"}, {"bottom": "base"}, {"base_node": "small"}),
        ],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_two_mistakes(machines: Shared, command: str) -> None:
    right, mistakes = COMMANDS[command]

    def case(m: Side) -> None:
        three(m)
        target(m)
        m.image("small.raw", "1M")
        m.node("small", "small.raw")
        for first, second in itertools.product([*mistakes, *OF_ALL], repeat=2):
            assert m(command, **{"job_id": "j", **right, **first, **second}) is None
        m.look()

    machines.play(case)
