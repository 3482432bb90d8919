"""A server of a qcow2 overlay that is killed at a random moment: what was flushed is there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import nbd
import pytest
from live import Flight, Live

RUNS = int(os.environ.get("FAULTLINE_QCOW2_KILLS", "30"))
SEED = int(os.environ.get("FAULTLINE_QCOW2_KILLS_SEED", "0"))

SECTOR = 512
SIZE = 4 << 20
LEAKS_ONLY = 3
"""The exit status of `qemu-img check` that has found nothing worse."""


class Guest:
    """Writes, discards and flushes at random, many requests at a time, until it kills the server.

    `flushed` is the content at the last flush that was answered; `since` are
    the sectors touched after it, which may have any content.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = bytearray(b"\x5a" * SIZE)
        self.flushed = bytes(self.now)
        self.since: set[int] = set()
        self.flushes = 0

    def work(self, live: Live, guest: nbd.NBD, answers: int) -> None:
        """Kill the server after that many answers, with more requests under way."""
        flight = Flight()
        while True:
            self._send(flight, guest)
            while flight.pending:
                answers -= len(flight.poll(1.0))
                if answers <= 0:
                    live.stop(signal.SIGKILL)
                    return
            flight.land(flight.send(guest, "flush"))
            self.flushed, self.since = bytes(self.now), set()
            self.flushes += 1

    def _send(self, flight: Flight, guest: nbd.NBD) -> None:
        """Up to eight requests that do not overlap."""
        busy: set[int] = set()
        for _ in range(self.rng.randrange(1, 9)):
            count = self.rng.choice([1, 3, 8, 40, 200])
            first = self.rng.randrange(SIZE // SECTOR - count)
            sectors = set(range(first, first + count))
            if not busy.isdisjoint(sectors):
                continue
            busy |= sectors
            self.since |= sectors
            offset, length = first * SECTOR, count * SECTOR
            data = self.rng.choice([bytes(length), *[self.rng.randbytes(length)] * 4])
            if any(data):
                flight.write(guest, offset, data)
            else:
                flight.send(guest, "zero", length, offset)
            self.now[offset : offset + length] = data


@pytest.mark.slow
@pytest.mark.parametrize("cluster_size", [512, 4096, 65536])
def test_what_was_flushed_survives_a_kill(tmp_path: Path, cluster_size: int) -> None:
    flushes = 0
    for run in range(RUNS // 3):
        rng = random.Random(f"{SEED}/{cluster_size}/{run}")
        guest = Guest(rng)
        make_overlay(tmp_path, cluster_size)
        with Live(tmp_path, "drive=id=vda,file=top.qcow2,format=qcow2") as live:
            handle = nbd.NBD()
            handle.connect_uri(live.uri())
            guest.work(live, handle, rng.randrange(1, 80))
        flushes += guest.flushes
        check(tmp_path, guest, f"seed {SEED}, run {run}")
    assert flushes


def make_overlay(directory: Path, cluster_size: int) -> None:
    (directory / "base.img").write_bytes(b"\x5a" * SIZE)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw"]
    command += ["-o", f"cluster_size={cluster_size}", "top.qcow2"]
    subprocess.run(command, cwd=directory, check=True)


def check(directory: Path, guest: Guest, run: str) -> None:
    command = ["qemu-img", "check", "top.qcow2"]
    judged = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert judged.returncode in (0, LEAKS_ONLY), (run, judged.stdout, judged.stderr)
    convert = ["qemu-img", "convert", "-O", "raw", "top.qcow2", "content"]
    subprocess.run(convert, cwd=directory, check=True)
    content = (directory / "content").read_bytes()
    lost = [
        sector
        for sector in range(SIZE // SECTOR)
        if sector not in guest.since
        and content[sector * SECTOR : (sector + 1) * SECTOR]
        != guest.flushed[sector * SECTOR : (sector + 1) * SECTOR]
    ]
    assert not lost, (run, lost[:20])
