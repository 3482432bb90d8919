# SPDX-License-Identifier: MIT
"""Thousands of errors, connections, commands and jobs leave nothing behind.

`scripts/endure leaks` runs the same loads in full.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from leaks import LOADS, measure
from live import TIMEOUT_S, Live, make_image

MIB = 1 << 20
BLOCK = 4096

SHARE = float(os.environ.get("FAULTLINE_LEAKS_SHARE", "0"))
"""Of the rounds of a full run; otherwise as many as it takes to notice a leak."""

ROUNDS = {
    "refused-connections": 1_000,
    "connections": 1_000,
    "large-requests": 50,
    "dropped-requests": 40,
    "retried-requests": 40,
    "qmp-commands": 6_000,
    "control-clients": 1_000,
    "rules": 5_000,
    "nodes": 500,
    "refused-nodes": 500,
    "snapshots": 30,
    "block-commit": 20,
    "block-stream": 40,
    "drive-mirror": 40,
    "blockdev-mirror": 40,
    "drive-backup": 40,
    "blockdev-backup": 40,
}

NOTICEABLE = {
    **{name: 20_000 for name in LOADS if name.startswith("errors-")},
    **ROUNDS,
}


def test_reported_errors_are_forgotten(tmp_path: Path) -> None:
    assert measure("errors-read", 8_000, tmp_path).wrong() == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTICEABLE)
def test_nothing_is_left_behind(name: str, tmp_path: Path) -> None:
    number = round(LOADS[name][1] * SHARE) or NOTICEABLE[name]
    assert measure(name, number, tmp_path).wrong() == []


@pytest.mark.slow
def test_interrupted_copies(tmp_path: Path) -> None:
    """A client that is killed while replies are on their way takes nobody with it."""
    make_image(tmp_path / "d.img", 64 * MIB, pattern=1)
    with Live(tmp_path, "drive=id=vda,file=d.img,format=raw") as live, live.qmp() as qmp:

        def reads() -> int:
            return int(qmp("query-blockstats")[0]["stats"]["rd_operations"])

        for _ in range(20):
            before = reads()
            with subprocess.Popen(
                ["nbdcopy", live.uri(), "null:"], stderr=subprocess.DEVNULL
            ) as copy:
                qmp.wait_for(lambda: reads() > before + 10)
                copy.kill()
                copy.wait(TIMEOUT_S)
        with live.guest() as guest:
            assert guest.pread(BLOCK, 0) == b"\1" * BLOCK
