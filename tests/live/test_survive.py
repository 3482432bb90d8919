# SPDX-License-Identifier: MIT
"""A client that dies in the middle of everything must not take the machine with it.

nbdkit 1.32 fails an assertion when two replies to a dead client meet
(`plugin/survive.py`); without the remedy one killed reader in two ends the process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from live import Live, make_image

READER = """
import random, sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
print("reading", flush=True)
while True:
    while h.aio_in_flight() < 64:
        h.aio_pread(bytearray(65536), random.randrange(16) * 65536, lambda error: 1)
    h.poll(1000)
"""

KILLS = 20


def test_killed_readers(tmp_path: Path) -> None:
    make_image(tmp_path / "d.img", 1 << 20, 0x11)
    with Live(tmp_path, "drive=id=vda,file=d.img,format=raw") as machine:
        with machine.qmp() as qmp:
            for _ in range(KILLS):
                _kill_a_reader(machine, qmp("query-blockstats")[0]["stats"]["rd_operations"])
                assert machine.process.poll() is None, machine.log.read_text()
            with machine.guest("vda") as guest:
                assert guest.pread(512, 0) == b"\x11" * 512
            assert qmp("query-status")["running"]
        assert machine.stop() == 0
        # A dump of all stacks, of threads that go on meanwhile, may crash itself.
        assert "Fatal Python error" not in machine.log.read_text()


def _kill_a_reader(machine: Live, operations: int) -> None:
    """Kill it once it has got answers, so that others are under way."""
    with subprocess.Popen(
        [sys.executable, "-c", READER, machine.uri("vda")], stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"reading\n"
        with machine.qmp() as qmp:
            qmp.wait_for(
                lambda: qmp("query-blockstats")[0]["stats"]["rd_operations"] > operations + 200
            )
        reader.kill()
