# SPDX-License-Identifier: MIT
"""Mirrors to overlays, whose backing file is opened in the end: what is around a small write."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from live import Live
from qcow2_images import check_clean, create

MIB = 1 << 20
SECTOR = 512


@pytest.mark.parametrize("granularity", [4096, 65536, 131072])
@pytest.mark.parametrize("sync", ["top", "none"])
@pytest.mark.parametrize("copy_mode", ["write-blocking", "background"])
def test_what_surrounds_small_writes(
    copy_mode: str, sync: str, granularity: int, tmp_path: Path
) -> None:
    """It is what it was below, whatever a guest does before and after the mirror is ready."""
    random = Random(f"{copy_mode} {sync} {granularity}")
    base = bytes(random.getrandbits(8) or 1 for _ in range(4096)) * (MIB // 4096)
    (tmp_path / "base.raw").write_bytes(base)
    create(tmp_path / "top.qcow2", MIB, backing_file="base.raw", backing_fmt="raw")
    wanted = bytearray(base)
    drive = "drive=id=vda,file=top.qcow2,format=qcow2,discard=unmap"
    with Live(tmp_path, drive) as live, live.qmp() as qmp, live.guest() as guest:

        def write() -> None:
            offset = random.randrange(MIB // SECTOR - 300) * SECTOR
            length = random.choice([1, 3, 8, 130, 256]) * SECTOR
            if random.random() < 0.2:
                guest.zero(length, offset)
                wanted[offset : offset + length] = bytes(length)
            else:
                data = bytes([random.randrange(1, 256)]) * length
                guest.pwrite(data, offset)
                wanted[offset : offset + length] = data

        for _ in range(3):
            write()
        qmp(
            "drive-mirror",
            **{"job_id": "j", "device": "vda", "target": "m.qcow2", "format": "qcow2"},
            **{"sync": sync, "granularity": granularity, "copy_mode": copy_mode},
        )
        write()
        qmp.wait_event("BLOCK_JOB_READY")
        for _ in range(8):
            write()
        qmp("job-complete", id="j")
        assert "error" not in qmp.wait_event("BLOCK_JOB_COMPLETED").data
        write()
        assert guest.pread(MIB, 0) == wanted
    check_clean(tmp_path / "m.qcow2")
