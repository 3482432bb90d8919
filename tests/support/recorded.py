# SPDX-License-Identifier: MIT
"""A session of two guests and a client, and its recording.

`python tests/support/recorded.py FILE` has written those of `tests/live/recordings`, one on
each Debian release.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbd
import pytest

from faultline.errors import CommandError
from live import Live, Qmp

MIB = 1 << 20
BLOCK = 4096


def block(dice: random.Random) -> bytes:
    """Return data for a block, of which a recording needs little."""
    return dice.randbytes(1) * BLOCK


def burst(guest: nbd.NBD, seed: int, count: int) -> list[tuple[int, Any]]:
    """Send requests of several kinds at once; their cookies and buffers."""
    dice = random.Random(seed)
    sent: list[tuple[int, Any]] = []
    for number in range(count):
        offset = dice.randrange(64) * BLOCK
        if number % 3:
            sent.append((guest.aio_pwrite(block(dice), offset), None))
        else:
            buffer = bytearray(BLOCK)
            sent.append((guest.aio_pread(buffer, offset), buffer))
    return sent


def answers(guest: nbd.NBD, sent: list[tuple[int, Any]]) -> list[int]:
    """Wait for all; the errnos."""
    errnos = []
    for cookie, _ in sent:
        try:
            while not guest.aio_command_completed(cookie):
                guest.poll(-1)
            errnos.append(0)
        except nbd.Error as exc:
            errnos.append(exc.errnum)
    return errnos


def session(live: Live) -> None:
    """Two guests, faults of several kinds, a stop by an error and `cont`, a job that fails once."""
    with live.guest() as one, live.guest() as two, live.qmp() as qmp:
        answers(one, burst(one, 1, 40))
        rules: list[dict[str, Any]] = [
            {"iotype": "read", "rate": 0.3, "errno": "EIO"},
            {"iotype": "write", "every": 5, "errno": "EPERM"},
            {"iotype": "write", "action": "torn", "sectors": 2, "every": 7, "errno": "EIO"},
            {"iotype": "write", "action": "drop", "rate": 0.2},
            {"iotype": "read", "action": "corrupt", "rate": 0.5},
            {"iotype": "read", "action": "delay", "delay-ms": 12, "every": 3},
        ]
        ids = [qmp.execute("x-fault-add", {"node-name": "vda", **rule})["id"] for rule in rules]
        errnos = answers(one, burst(one, 2, 30)) + answers(two, burst(two, 3, 30))
        assert {0, 1, 5} <= set(errnos)
        for each in ids:
            qmp.execute("x-fault-remove", {"id": each})
        # Requests in flight when the machine stops.
        full = {"node-name": "vda", "iotype": "write", "errno": "ENOSPC"}
        rule = qmp.execute("x-fault-add", full)
        held = burst(one, 4, 12)
        qmp.wait_event("STOP")
        more = burst(two, 5, 3)
        qmp.execute("x-fault-remove", rule)
        qmp.execute("cont")
        assert set(answers(one, held) + answers(two, more)) == {0}
        # One that hangs beside others.
        hang = qmp.execute("x-fault-add", {"node-name": "vda", "action": "hang", "count": 1})["id"]
        hanging = burst(one, 6, 1)
        qmp.execute("x-fault-wait", {"id": hang, "hits": 1})
        two.pwrite(b"beside" * 100, MIB)
        qmp.execute("x-fault-release", {"id": hang})
        answers(one, hanging)
        job(qmp)
        two.pread(BLOCK, MIB)
        two.zero(BLOCK, 0)
        two.flush()
        with pytest.raises(CommandError, match="not found"):
            qmp.execute("x-fault-remove", {"id": "none"})


def job(qmp: Qmp) -> None:
    """A backup that stops once, and goes on."""
    qmp.execute(
        "blockdev-add",
        {"driver": "file", "node-name": "target", "filename": "target.img"},
    )
    qmp.execute(
        "x-fault-add",
        {"node-name": "target", "iotype": "write", "errno": "ENOSPC", "count": 1},
    )
    qmp.execute(
        "blockdev-backup",
        {"job-id": "b", "device": "vda", "target": "target", "sync": "full",
         "on-target-error": "stop"},
    )
    qmp.wait_event("BLOCK_JOB_ERROR")
    qmp.execute("block-job-resume", {"device": "b"})
    qmp.wait_event("BLOCK_JOB_COMPLETED")


def record(directory: Path) -> Path:
    """Record a session whose files are in `directory`; return the recording's path."""
    for name, size in (("disk.img", 2 * MIB), ("target.img", 2 * MIB)):
        (directory / name).write_bytes(block(random.Random(0)) + bytes(size - BLOCK))
    keys = ("drive=id=vda,file=disk.img,format=raw,werror=enospc", "record=run.jsonl", "seed=7")
    # So that the recording has what is in it: files of later commands are not in the header.
    spare = "blockdev=driver=file,node-name=spare,filename=target.img"
    with Live(directory, *keys, spare) as live:
        with live.qmp() as qmp:
            qmp.execute("blockdev-del", {"node-name": "spare"})
        session(live)
    return directory / "run.jsonl"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="recorded-") as made:
        shutil.copy(record(Path(made)), sys.argv[1])
