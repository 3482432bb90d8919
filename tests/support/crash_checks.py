# SPDX-License-Identifier: MIT
"""Workloads, and checkers of what a crash may have left of them, which any worker can import."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbd

from faultline import Drive, Machine
from faultline.exploring import Check, CrashState, copied

RECORD = 1024
"""Bytes of a record: two sectors, of which a crash may leave one."""

SLOTS = 2

CHECK_QCOW2 = Check("qemu-img", "check", "-f", "qcow2", "{uri}", ok=(0, 3))
"""Clusters that are lost (status 3) cost space, not data."""

CHECK_EXT4 = Check("sh", "-c", "e2fsck -E journal_only -y $0 && e2fsck -fn $0", "{file}")
"""First the journal is replayed, as a mount does, then nothing may be wrong."""


@contextmanager
def volatile(image: Path, **options: Any) -> Iterator[Machine]:
    """A machine whose drive vda has a volatile cache over a raw image."""
    with Machine(
        Drive(image, id="vda", format="raw", options={"cache.x-volatile": True}), **options
    ) as machine:
        yield machine
        assert not machine.x_query_faults()


@contextmanager
def mounted(uri: str, file: Path) -> Iterator[Path]:
    """A file that is an export."""
    file.touch()
    with subprocess.Popen(["nbdfuse", "-P", f"{file}.pid", file, uri]) as fuse:
        try:
            while not Path(f"{file}.pid").exists():
                assert fuse.poll() is None, "nbdfuse has ended"
            yield file
        finally:
            fuse.terminate()
            fuse.wait(20)


def can_mount() -> bool:
    return os.access("/dev/fuse", os.W_OK) and shutil.which("nbdfuse") is not None


def qemu_io(uri: str, commands: Sequence[str], format: str = "qcow2") -> None:
    """Let qemu-io carry out commands on an image."""
    argv = ["qemu-io", "-f", format, "-d", "unmap", "-t", "none"]
    words = (word for command in commands for word in ("-c", command))
    subprocess.run([*argv, *words, uri], stdout=subprocess.DEVNULL, check=True)


def record(number: int) -> bytes:
    return b"%08d" % number * (RECORD // 8)


def wipe(uri: str) -> None:
    guest = nbd.NBD()
    guest.connect_uri(uri)
    guest.zero(guest.get_size(), 0)
    guest.flush()
    guest.shutdown()


def keep_records(uri: str, count: int, *, careful: bool = True) -> None:
    """Write records to two slots in turn, and to sector 0 which of them is valid.

    Who is careful flushes between: the record has to be there before it is named.
    """
    guest = nbd.NBD()
    guest.connect_uri(uri)
    for number in range(1, count + 1):
        guest.pwrite(record(number), (1 + number % SLOTS) * RECORD)
        if careful:
            guest.flush()
        guest.pwrite(b"%08d" % number + bytes(504), 0)
        guest.flush()
    guest.shutdown()


def check_records(crash: CrashState) -> str | None:
    """Find a record that is named and not there."""
    guest = nbd.NBD()
    guest.connect_uri(crash.uri)
    number = int(bytes(guest.pread(8, 0)).strip(b"\0") or 0)
    found = bytes(guest.pread(RECORD, (1 + number % SLOTS) * RECORD))
    guest.shutdown()
    if number and found != record(number):
        return f"record {number} is not there"
    return None


def make_database(image: Path, size: int) -> None:
    """Make an image whose contents are a database without rows."""
    image.unlink(missing_ok=True)
    with closing(sqlite3.connect(image)) as db:
        db.executescript("CREATE TABLE t (round INTEGER, n INTEGER, text TEXT)")
    with image.open("r+b") as file:
        file.truncate(size)


ROWS = 20
"""The rows that a transaction of `fill` adds."""


def fill(database: Path, rounds: int) -> None:
    """Add rows in transactions, a few pages each."""
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA cache_size = 4")
        for number in range(rounds):
            with db:
                db.executemany(
                    "INSERT INTO t VALUES (?, ?, ?)",
                    [(number, row, f"{number} {row} " * 40) for row in range(ROWS)],
                )


@dataclass(frozen=True)
class CheckDatabase:
    """Opens a copy of a state beside a copy of the journal, as a database after a crash.

    The journal is on a disk that loses nothing, so what it has at this moment is there.
    """

    journal: str

    def __call__(self, crash: CrashState) -> str | None:
        with tempfile.TemporaryDirectory() as directory:
            database = copied(crash, directory)
            if Path(self.journal).exists():
                shutil.copy(self.journal, f"{database}-journal")
            with closing(sqlite3.connect(database)) as db:
                found = [text for (text,) in db.execute("PRAGMA integrity_check")]
                if found != ["ok"]:
                    return "; ".join(found[:3])
                counts = list(db.execute("SELECT round, count(*) FROM t GROUP BY round"))
        if any(count != ROWS for _, count in counts):
            return f"half a transaction: {counts}"
        return None


