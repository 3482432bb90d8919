# SPDX-License-Identifier: MIT
"""A share of `scripts/endure starts`, in a process of its own, whose descriptors are counted."""

from __future__ import annotations

import subprocess
import sys

from runs import RUN_S
from tree import TREE


def test_nothing_is_left_of_machines() -> None:
    done = subprocess.run(
        [sys.executable, str(TREE / "tests" / "endurance" / "starts.py")]
        + ["--number=10", "--at-once=4", "--crashes=7"],
        env={"PYTHONPATH": f"{TREE}:{TREE}/tests/support", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
