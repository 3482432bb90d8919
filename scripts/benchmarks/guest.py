# SPDX-License-Identifier: MIT
"""Rows of guests beside a job: the throughput that a mirror at full speed leaves to a guest."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.data_path import Pattern
from benchmarks.jobs import OURS, READY, THEIRS, image_node
from benchmarks.load import connect
from benchmarks.plan import Plan, write_pattern
from benchmarks.rounds import Budget, Row, Samples
from benchmarks.servers import STORAGE_DAEMON, Crashed, Server, faultline, storage_daemon

CRASHES_MAX = 3
"""How often QEMU's daemon may crash until the row is given up.

That of 10.0 does in one of ten runs, by a segmentation fault, where a mirror under a busy
export is cancelled by force.
"""


def guest_row(plan: Plan, name: str, pattern: Pattern) -> Row:
    """Measure fio without and with a mirror beside it, in each round.

    The mirror is started again whenever it is ready, so that it copies as long as
    fio measures.  "kept" is the throughput with the mirror in percent of that
    without.  The names of the figures have their units.
    """
    for _ in range(CRASHES_MAX):
        try:
            return _row(plan, name, pattern)
        except Crashed as exc:
            if exc.program != STORAGE_DAEMON:
                raise
    return _row(plan, name, pattern)


def _row(plan: Plan, name: str, pattern: Pattern) -> Row:
    figures: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=plan.directory)))
        target = place / "target"
        write_pattern(target, plan.size)
        drive = f"drive=id=vda,file={plan.image},format=raw"
        servers = {
            OURS: stack.enter_context(faultline(plan.directory, drive)),
            THEIRS: stack.enter_context(storage_daemon(plan.directory, plan.image, "raw")),
        }
        for server in servers.values():
            with connect(server.control) as qmp:
                qmp.execute("blockdev-add", image_node("target", target, "raw"))
        for _ in range(plan.rounds):
            for who, server in servers.items():
                alone = pattern.on(server, plan, plan.size)()
                with Mirrors(server, plan.size) as mirrors:
                    beside = pattern.on(server, plan, plan.size)()
                figures.setdefault(f"{who}: % kept", []).append(100 * beside / alone)
                figures.setdefault(f"{who}: {pattern.unit} alone", []).append(alone)
                figures.setdefault(f"{who}: MiB/s mirrored", []).append(mirrors.mib_s)
    samples = {what: Samples(tuple(values)) for what, values in figures.items()}
    what = f"{pattern.block} {pattern.rw} beside a mirror, of that without"
    row = Row(name, what, "", samples)
    row.compare(f"{OURS}: % kept", f"{THEIRS}: % kept", Budget(least=1))
    row.compare(f"{OURS}: MiB/s mirrored", f"{THEIRS}: MiB/s mirrored")
    return row


class Mirrors:
    """A context during which vda is mirrored again and again; afterwards `mib_s` is the rate."""

    def __init__(self, server: Server, size: int) -> None:
        self.mib_s = 0.0
        self._server = server
        self._size = size
        self._begun = threading.Event()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Mirrors:
        self._thread.start()
        self._begun.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        """Mirror until told to stop; the last mirror is not cut short (a thread's body)."""
        try:
            self._mirror()
        finally:
            self._begun.set()

    def _mirror(self) -> None:
        copied = 0
        arguments = {"job-id": "job", "device": "vda", "target": "target", "sync": "full"}
        with connect(self._server.control) as qmp:
            started = time.perf_counter()
            while not self._enough.is_set():
                qmp.execute("blockdev-mirror", arguments)
                self._begun.set()
                qmp.wait_event(READY)
                copied += self._size
                qmp.execute("block-job-cancel", {"device": "job", "force": True})
                qmp.wait_event("BLOCK_JOB_CANCELLED")
        self.mib_s = copied / (time.perf_counter() - started) / (1 << 20)
