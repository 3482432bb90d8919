# SPDX-License-Identifier: MIT
"""What users do to a drive while a job has put a filter over its node."""

from __future__ import annotations

from pathlib import Path

import pytest

from live import Live, make_image

MIB = 1 << 20


@pytest.fixture
def live(tmp_path: Path) -> Live:
    make_image(tmp_path / "src", 2 * MIB, 0x11)
    make_image(tmp_path / "dst", 2 * MIB)
    return Live(
        tmp_path,
        "drive=id=vda,file=src,format=raw,node-name=src,file.x-physical-size=4M,werror=report",
        "blockdev=driver=raw,node-name=dst,file.driver=file,file.filename=dst",
    )


@pytest.mark.parametrize("command", ["blockdev-mirror", "blockdev-backup"])
def test_a_drive_is_the_node_under_the_filter(live: Live, command: str) -> None:
    with live, live.qmp() as qmp, live.guest() as guest:
        qmp(command, job_id="j", device="vda", target="dst", sync="none")
        assert qmp("x-fault-add", node_name="vda", iotype="flush", id="f") == {"id": "f"}
        assert [rule["node-name"] for rule in qmp("x-query-faults")] == ["src"]
        qmp("x-volume-extend", node_name="vda", size=8 * MIB)
        qmp("job-cancel", id="j")
        qmp.wait_for(lambda: not qmp("query-jobs"))
        assert [rule["id"] for rule in qmp("x-query-faults")] == ["f"]
        guest.pwrite(b"x" * 512, 0)
        with pytest.raises(Exception, match="Input/output error"):
            guest.flush()
