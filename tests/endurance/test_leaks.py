# SPDX-License-Identifier: MIT
"""Thousands of errors, connections, commands and jobs leave nothing behind.

`scripts/endure leaks` runs the same loads in full.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from leaks import ALLOWED_BYTES, LOADS, measure
from live import TIMEOUT_S, Live, make_image

MIB = 1 << 20
BLOCK = 4096

SHARE = float(os.environ.get("FAULTLINE_LEAKS_SHARE", "0"))
"""Of the rounds of a full run; otherwise as many as it takes to notice a leak."""

SMALL = ALLOWED_BYTES // 2
"""Growth that counts as none after small rounds, of which a few thousand grow by up to 0.9 MiB."""

NOTICEABLE = {
    # Each notices 400 bytes per request, as twice the rounds would with twice the memory.
    **{name: (4_000, SMALL) for name in LOADS if name.startswith("errors-")},
    "refused-connections": (500, SMALL),
    "connections": (500, SMALL),
    "large-requests": (25, ALLOWED_BYTES),  # one buffer that stays is more
    "dropped-requests": (40, SMALL),
    "retried-requests": (40, SMALL),
    "qmp-commands": (3_000, SMALL),
    "control-clients": (500, SMALL),
    "rules": (2_500, SMALL),
    "nodes": (500, ALLOWED_BYTES),
    "refused-nodes": (250, SMALL),
    "snapshots": (30, ALLOWED_BYTES),
    "block-commit": (20, ALLOWED_BYTES),
    "block-stream": (40, ALLOWED_BYTES),
    "drive-mirror": (40, ALLOWED_BYTES),
    "blockdev-mirror": (40, ALLOWED_BYTES),
    "drive-backup": (40, ALLOWED_BYTES),
    "blockdev-backup": (40, ALLOWED_BYTES),
}
"""Rounds and growth by which a leak is noticed."""

QUICK = "errors-read"


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in NOTICEABLE],
)
def test_nothing_is_left_behind(name: str, tmp_path: Path) -> None:
    number, allowed = NOTICEABLE[name]
    if SHARE:
        number, allowed = round(LOADS[name][1] * SHARE), ALLOWED_BYTES
    assert measure(name, number, tmp_path, allowed).wrong() == []


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
