# SPDX-License-Identifier: MIT
"""A server that is killed at a random moment of running jobs: images are sound, nothing is lost.

`scripts/endure kills` goes on for longer.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from image_checks import backing_name
from kills import KINDS, kill_beside_jobs, make_chain
from live import Live

RUNS = 3


@pytest.mark.slow
@pytest.mark.parametrize("cluster_size", [4096, 65536])
def test_what_was_flushed_survives_a_kill(tmp_path: Path, cluster_size: int) -> None:
    names = [f"0/{cluster_size}/{run}" for run in range(RUNS)]
    completed = sum(kill_beside_jobs(tmp_path, cluster_size, name) for name in names)
    assert 0 < completed < len(KINDS) * RUNS


def test_a_stream_that_is_not_on_the_disk_keeps_the_backing_file(tmp_path: Path) -> None:
    """The header does not say that the backing file is not needed before that is so."""
    make_chain(tmp_path, "stream", 65536, random.Random(1))
    drive = "drive=id=vda,file=stream-top.qcow2,format=qcow2,file.node-name=file"
    with Live(tmp_path, drive) as live, live.qmp() as qmp:
        qmp("x-fault-add", node_name="file", iotype="flush", errno="EIO", count=1)
        for error in ("Input/output error", None):
            qmp("block-stream", device="vda", job_id="j")
            assert qmp.wait_event("BLOCK_JOB_COMPLETED").get("error") == error
            below = "" if error is None else "stream-mid.qcow2"
            assert backing_name(tmp_path / "stream-top.qcow2") == below
