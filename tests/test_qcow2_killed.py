"""A server of a qcow2 overlay that is killed at a random moment: what was flushed is there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import nbd
import pytest
from killed import LEAKS_ONLY, SIZE, Guest
from live import Flight, Live

RUNS = int(os.environ.get("FAULTLINE_QCOW2_KILLS", "30"))
SEED = int(os.environ.get("FAULTLINE_QCOW2_KILLS_SEED", "0"))

BASE = b"\x5a"
"""What every byte of the backing image is."""


def work(live: Live, guest: Guest, answers: int) -> int:
    """Kill the server after that many answers, with more requests under way; gives the flushes."""
    flight, flushes = Flight(), 0
    while True:
        guest.write(flight, 8)
        while flight.pending:
            answers -= len(flight.poll(1.0))
            if answers <= 0:
                live.stop(signal.SIGKILL)
                return flushes
        flight.land(flight.send(guest.handle, "flush"))
        guest.has_flushed()
        flushes += 1


@pytest.mark.slow
@pytest.mark.parametrize("cluster_size", [512, 4096, 65536])
def test_what_was_flushed_survives_a_kill(tmp_path: Path, cluster_size: int) -> None:
    flushes = 0
    for run in range(RUNS // 3):
        rng = random.Random(f"{SEED}/{cluster_size}/{run}")
        make_overlay(tmp_path, cluster_size)
        with Live(tmp_path, "drive=id=vda,file=top.qcow2,format=qcow2") as live:
            handle = nbd.NBD()
            handle.connect_uri(live.uri())
            guest = Guest(rng, handle, BASE * SIZE)
            flushes += work(live, guest, rng.randrange(1, 80))
        check(tmp_path, guest, f"seed {SEED}, run {run}")
    assert flushes


def make_overlay(directory: Path, cluster_size: int) -> None:
    (directory / "base.img").write_bytes(BASE * SIZE)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw"]
    command += ["-o", f"cluster_size={cluster_size}", "top.qcow2"]
    subprocess.run(command, cwd=directory, check=True)


def check(directory: Path, guest: Guest, run: str) -> None:
    command = ["qemu-img", "check", "top.qcow2"]
    judged = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert judged.returncode in (0, LEAKS_ONLY), (run, judged.stdout, judged.stderr)
    convert = ["qemu-img", "convert", "-O", "raw", "top.qcow2", "content"]
    subprocess.run(convert, cwd=directory, check=True)
    lost = guest.lost((directory / "content").read_bytes())
    assert not lost, (run, lost[:20])
