# SPDX-License-Identifier: MIT
"""A program must survive a disk that is full for a while.

Run it with pytest; put your own program in nbdcopy's place.
"""

import os
import subprocess

from faultline import Drive

PATIENCE_S = 30  # nothing waits longer, so that a mistake does not hang the run


def test_full_disk(faultline_factory, tmp_path):
    disk, source = tmp_path / "disk.img", tmp_path / "source.img"
    disk.write_bytes(bytes(16 << 20))
    source.write_bytes(os.urandom(16 << 20))
    drive = Drive(disk, id="vda", format="raw", rerror="stop", werror="enospc")
    machine = faultline_factory(drive, timeout=PATIENCE_S)
    with machine.fault("vda", iotype="write", errno="ENOSPC", offset="8M"):
        program = subprocess.Popen(["nbdcopy", source, machine.uri])
        machine.wait_event("STOP")
        assert machine.query_block()[0]["io-status"] == "nospace"
        assert program.poll() is None  # neither failed nor finished
    machine.cont()
    assert program.wait(PATIENCE_S) == 0
    assert disk.read_bytes() == source.read_bytes()
