# SPDX-License-Identifier: MIT
"""Loads that must leave nothing behind, and what a machine has before and after each.

    scripts/endure leaks [--share SHARE] [LOAD]...

runs them in full, or that share of each, and prints a table; `test_leaks.py`
runs a small share of them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import click
import nbd

from blockcore.bql.effects import GENERAL
from faultline import CommandError
from live import Flight, Live, Qmp, make_image
from qcow2_images import qemu_img

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 4 * KIB

ALLOWED_BYTES = 3 * MIB
"""Growth of memory that counts as none: the allocator's, whatever the number of rounds."""

LOOKS = 5
"""Further tenths of a load, until the memory is what it was: garbage is collected now and then."""

SETTLE_S = 10.0
"""Until what goes has gone; threads of a lane stay for two seconds, memory for one."""

STEADY = 300
"""After so many round trips with no less memory, what there is counts."""

WARM_BYTES = 4 * MIB
"""With so little more than idle a load's measurement begins: else free memory is still to go."""

LEFT_BYTES = 12 * MIB
"""What may be in memory besides what an idle machine has: caches, and the heap's gaps."""

END_S = 2.0
"""In which a machine ends, whatever it has been through."""

DEPTH = 16

DRIVES = (
    "drive=id=vda,file=vda.img,format=raw,discard=unmap,rerror=report,werror=report",
    "drive=id=disk,file=disk.qcow2,format=qcow2",
)


@dataclass(frozen=True)
class Usage:
    """What a process has: bytes of memory, threads, descriptors; and files in its directory."""

    memory: int
    threads: int
    fds: int
    files: int

    @classmethod
    def of(cls, live: Live) -> Usage:
        proc = Path(f"/proc/{live.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return cls(
            int(status["RssAnon"].split()[0]) * KIB,
            len(os.listdir(proc / "task")),
            len(os.listdir(proc / "fd")),
            len(os.listdir(live.directory)),
        )

    def is_no_more_than(self, idle: Usage) -> bool:
        """But for memory.

        Threads of the lanes come with their work and end when idle for a while: some are
        there after some loads, as many as in a pool.  Any more have to go, however long it takes.
        """
        return (
            self.threads <= idle.threads + GENERAL.threads
            and self.fds <= idle.fds
            and self.files <= idle.files
        )


class Machine:
    """A machine under load, and its control client."""

    def __init__(self, live: Live, qmp: Qmp) -> None:
        self.live = live
        self.qmp = qmp
        self.numbers = itertools.count()
        self.traceback = ""

    def restore(self) -> None:
        """Have something on the image that jobs work on."""
        with self.live.guest("disk") as guest:
            guest.pwrite(b"d" * MIB, MIB)

    def path(self, name: str) -> Path:
        return self.live.directory / name

    def usage(self, enough: Callable[[Usage], bool], steady: int = 0) -> Usage:
        """Once what has ended here has ended there, and free memory has gone back.

        That is, the least of each, as soon as it is `enough` and for `steady` round trips
        there has been no less memory; or when it has not become so in time.
        """
        best = Usage.of(self.live)
        since = 0
        deadline = time.monotonic() + SETTLE_S
        while since < steady or not enough(best):
            if time.monotonic() > deadline:
                break
            self.qmp("query-status")
            now = Usage.of(self.live)
            since = 0 if now.memory < best.memory else since + 1
            best = Usage(*map(min, astuple(best), astuple(now)))
        self.tidy()
        return best

    def tidy(self) -> None:
        """Read the log, and forget it: with a line for each event it grows large."""
        self.qmp("query-status")
        self.qmp.take_events()
        log = self.live.log.read_text()
        os.truncate(self.live.log, 0)
        if "Traceback" in log:
            self.traceback = log

    def wait_job(self, status: str) -> None:
        """Until a job is in that state; there is only one."""
        self.qmp.wait_event("JOB_STATUS_CHANGE", status=status)


@contextlib.contextmanager
def machine(directory: Path) -> Iterator[Machine]:
    """A machine with two drives: a raw one whose errors are reported, and a qcow2 image."""
    make_image(directory / "vda.img", 4 * MIB)
    qemu_img("create", "-q", "-f", "qcow2", directory / "disk.qcow2", "4M")
    with Live(directory, *DRIVES, options=("--threads", str(DEPTH))) as live, live.qmp() as qmp:
        loaded = Machine(live, qmp)
        loaded.restore()
        yield loaded


Work = Callable[[Machine, int], None]
"""Runs that many rounds."""

KINDS: dict[str, Callable[[nbd.NBD, Any, Callable[[Any], int]], object]] = {
    "read": lambda guest, buffer, done: guest.aio_pread(buffer, 0, completion=done),
    "write": lambda guest, buffer, done: guest.aio_pwrite(buffer, 0, completion=done),
    "write-fua": lambda guest, buffer, done: guest.aio_pwrite(
        buffer, 0, completion=done, flags=nbd.CMD_FLAG_FUA
    ),
    "flush": lambda guest, buffer, done: guest.aio_flush(completion=done),
    "discard": lambda guest, buffer, done: guest.aio_trim(512, 0, completion=done),
    "write-zeroes": lambda guest, buffer, done: guest.aio_zero(512, 0, completion=done),
    "block-status": lambda guest, buffer, done: guest.aio_block_status(
        512, 0, lambda *_: 0, completion=done
    ),
    "cache": lambda guest, buffer, done: guest.aio_cache(512, 0, completion=done),
}


def errors(kind: str) -> Work:
    """Requests of a kind that fail, and whose errors are reported."""

    def work(machine: Machine, number: int) -> None:
        failed = 0

        def done(error: Any) -> int:
            nonlocal failed
            failed += bool(error.value)
            return 1

        iotype = {"write-fua": "write", "cache": "read"}.get(kind, kind)
        buffer = bytearray(512)
        with machine.live.guest("vda") as guest:
            guest.pwrite(bytes(512), 0)  # there is something to flush
            machine.qmp("x-fault-add", node_name="vda", iotype=iotype, errno="EIO", id="f")
            for n in range(number):
                while guest.aio_in_flight() >= DEPTH:
                    guest.poll(-1)
                KINDS[kind](guest, buffer, done)
                if n % 1000 == 0:
                    machine.tidy()
            while guest.aio_in_flight():
                guest.poll(-1)
        machine.qmp("x-fault-remove", id="f")
        assert failed == number, f"{failed} of {number} have failed"

    return work


def large_requests(machine: Machine, number: int) -> None:
    """As many at once as there are workers; each keeps a buffer as long as its connection."""
    data = bytes(4 * MIB)
    for n in range(number):
        with machine.live.guest(("vda", "disk")[n % 2]) as guest:
            flight = Flight()
            for _ in range(DEPTH):
                flight.write(guest, 0, data)
            assert flight.land() == ["OK"] * DEPTH
    machine.restore()


def refused_connections(machine: Machine, number: int) -> None:
    """To an export that does not exist."""
    for _ in range(number):
        with contextlib.suppress(nbd.Error), machine.live.guest("nobody"):
            raise AssertionError("there is no such drive")


def connections(machine: Machine, number: int) -> None:
    for _ in range(number):
        with machine.live.guest("vda") as guest:
            guest.pwrite(b"x" * BLOCK, 0)
            guest.pread(BLOCK, 0)


def dropped_requests(machine: Machine, number: int) -> None:
    """Held, and then dropped by a reset or by a client that goes."""
    machine.qmp("stop")
    for n in range(number):
        with machine.live.guest("vda") as guest:
            flight = Flight()
            for block in range(8):
                flight.write(guest, block * BLOCK, b"x" * BLOCK)
            flight.arrived(machine.qmp)
            if n % 2:
                machine.qmp.wait_for(
                    lambda: flight.poll(0) and not flight.pending, "system_reset"
                )
        machine.qmp.take_events()
    machine.qmp("cont")


def retried_requests(machine: Machine, number: int) -> None:
    """Tried again until they succeed, or dropped by a reset meanwhile."""
    qmp = machine.qmp
    (before,) = (one for one in qmp("x-query-drives") if one["device"] == "vda")
    qmp("x-drive-set-policy", device="vda", werror="retry", retry_interval=1)
    for n in range(number):
        qmp("x-fault-add", node_name="vda", iotype="write", count=24, id="f")
        with machine.live.guest("vda") as guest:
            flight = Flight()
            for block in range(8):
                flight.write(guest, block * BLOCK, b"x" * BLOCK)
            flight.poll(0)
            qmp.wait_event("BLOCK_IO_ERROR", action="retry")
            if n % 2:
                qmp("system_reset")
            assert set(flight.land()) <= {"OK", "ESHUTDOWN"}
        qmp("x-fault-remove", id="f")
        qmp.take_events()
    policy = {"werror": before["werror"], "retry_interval": before["retry-interval"]}
    qmp("x-drive-set-policy", device="vda", **policy)


def commands(machine: Machine, number: int) -> None:
    """A query, a command that does something, and one that is refused, in turn."""
    qmp = machine.qmp
    for n in range(number):
        match n % 4:
            case 0:
                qmp("query-block")
            case 1:
                qmp("query-named-block-nodes", flat=True)
            case 2:
                limit(qmp, n % 8 * 100)
            case _:
                with contextlib.suppress(CommandError):
                    qmp("blockdev-del", node_name="nobody")
        qmp.take_events()


def limit(qmp: Qmp, iops: int) -> None:
    limits = {**dict.fromkeys(LIMITS, 0), "iops": iops}
    qmp.execute("block_set_io_throttle", {"device": "vda", **limits})


LIMITS = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")


def control_clients(machine: Machine, number: int) -> None:
    for _ in range(number):
        with machine.live.qmp() as other:
            other("query-block")


def rules(machine: Machine, number: int) -> None:
    with machine.live.guest("vda") as guest:
        for n in range(number):
            fault = machine.qmp(
                "x-fault-add", node_name="vda", iotype="read", offset=n, length=1
            )["id"]
            guest.pread(BLOCK, 64 * BLOCK)
            machine.qmp("x-fault-remove", id=fault)
    assert machine.qmp("x-query-faults") == []


def nodes(machine: Machine, number: int) -> None:
    for _ in range(number):
        machine.qmp.execute("blockdev-add", image(machine.path("disk.qcow2"), "n", read_only=True))
        machine.qmp("blockdev-del", node_name="n")


def refused_nodes(machine: Machine, number: int) -> None:
    """The file under what cannot be opened is open by then."""
    for _ in range(number):
        with contextlib.suppress(CommandError):
            machine.qmp.execute("blockdev-add", image(machine.path("vda.img"), "n"))
            raise AssertionError("not a qcow2 image")


def image(path: Path, name: str, read_only: bool = False) -> dict[str, Any]:
    file = {"driver": "file", "filename": str(path)}
    return {"driver": "qcow2", "node-name": name, "file": file, "read-only": read_only}


def snapshot(machine: Machine) -> Path:
    """Give the drive an overlay with some data, and its file."""
    path = machine.path(f"overlay{next(machine.numbers)}.qcow2")
    machine.qmp("blockdev-snapshot-sync", device="disk", snapshot_file=str(path))
    with machine.live.guest("disk") as guest:
        guest.pwrite(b"x" * 64 * KIB, MIB)
    return path


def snapshots(machine: Machine, number: int) -> None:
    """Each is committed, so that the chain stays as long as it was."""
    for _ in range(number):
        path = snapshot(machine)
        commit_active(machine)
        path.unlink()


def commit_active(machine: Machine) -> None:
    machine.qmp("block-commit", device="disk", job_id="j")
    machine.wait_job("ready")
    machine.qmp("job-complete", id="j")
    machine.wait_job("null")


def commits(machine: Machine, number: int) -> None:
    """Of the image in the middle."""
    for _ in range(number):
        middle, top = snapshot(machine), snapshot(machine)
        machine.qmp("block-commit", device="disk", job_id="j", top=str(middle))
        machine.wait_job("null")
        commit_active(machine)
        middle.unlink()
        top.unlink()


def streams(machine: Machine, number: int) -> None:
    """Each of which leaves the drive with an image of its own."""
    for _ in range(number):
        old = machine.qmp("query-block")[1]["inserted"]["file"]
        snapshot(machine)
        machine.qmp("block-stream", device="disk", job_id="j")
        machine.wait_job("null")
        machine.path(old).unlink()


def copies(command: str) -> Work:
    """Mirrors and backups, to an image made by the command or added as a node."""

    def work(machine: Machine, number: int) -> None:
        qmp = machine.qmp
        target = machine.path("copy.qcow2")
        options: dict[str, Any] = {"device": "disk", "job-id": "j", "sync": "full"}
        if command.startswith("drive-"):
            options |= {"target": str(target), "format": "qcow2"}
        else:
            qemu_img("create", "-q", "-f", "qcow2", target, "4M")
            options |= {"target": "t"}
        for _ in range(number):
            if command.startswith("blockdev-"):
                qmp.execute("blockdev-add", image(target, "t"))
            qmp.execute(command, options)
            if command.endswith("mirror"):
                machine.wait_job("ready")
                qmp("block-job-cancel", device="j")
            machine.wait_job("null")
            if command.startswith("blockdev-"):
                qmp("blockdev-del", node_name="t")
        target.unlink()

    return work


LOADS: dict[str, tuple[Work, int]] = {
    **{f"errors-{kind}": (errors(kind), 1_000_000) for kind in KINDS},
    "refused-connections": (refused_connections, 10_000),
    "connections": (connections, 10_000),
    "large-requests": (large_requests, 500),
    "dropped-requests": (dropped_requests, 500),
    "retried-requests": (retried_requests, 500),
    "qmp-commands": (commands, 100_000),
    "control-clients": (control_clients, 1_000),
    "rules": (rules, 10_000),
    "nodes": (nodes, 1_000),
    "refused-nodes": (refused_nodes, 1_000),
    "snapshots": (snapshots, 1_000),
    "block-commit": (commits, 1_000),
    "block-stream": (streams, 1_000),
    **{
        command: (copies(command), 1_000)
        for command in ("drive-mirror", "blockdev-mirror", "drive-backup", "blockdev-backup")
    },
}
"""By name, with the rounds of a full run."""


@dataclass(frozen=True)
class Outcome:
    """What a machine had idle, after a tenth of a load, and after all of it; and how it ended."""

    number: int
    allowed: int
    idle: Usage
    before: Usage
    after: Usage
    status: int
    end_s: float
    traceback: str

    def wrong(self) -> list[str]:
        """What it has left behind, in words."""
        faults = {
            **left_behind(self.idle, self.before, self.after, self.allowed),
            f"ended with {self.status}": self.status != 0,
            f"ended after {self.end_s:.1f} s": self.end_s > END_S,
            self.traceback: bool(self.traceback),
        }
        return [fault for fault, is_so in faults.items() if is_so]


def left_behind(idle: Usage, before: Usage, after: Usage, allowed: int) -> dict[str, bool]:
    """The ways of leaving something behind, and which of them are so."""
    grown = after.memory - before.memory
    left = after.memory - idle.memory
    return {
        f"grown by {grown} bytes": grown > allowed,
        f"{left} bytes more than idle": left > LEFT_BYTES,
        f"{idle} became {after}": not after.is_no_more_than(idle),
    }


def measure(name: str, number: int, directory: Path, allowed: int = ALLOWED_BYTES) -> Outcome:
    """Run a load on a machine of its own, whose memory may grow by so many bytes."""
    work = LOADS[name][0]
    with machine(directory) as loaded:
        idle = loaded.usage(lambda _: True, STEADY)

        def warm(now: Usage) -> bool:
            return now.is_no_more_than(idle) and now.memory <= idle.memory + WARM_BYTES

        work(loaded, -(-number // 10))
        before = loaded.usage(warm, STEADY)

        def enough(now: Usage) -> bool:
            return not any(left_behind(idle, before, now, allowed).values())

        work(loaded, number)
        after = loaded.usage(enough)
        for _ in range(LOOKS):
            if after.memory <= before.memory + allowed:
                break
            work(loaded, -(-number // 10))
            after = loaded.usage(enough)
        started = time.monotonic()
        status = loaded.live.stop()
        end_s = time.monotonic() - started
        left = [path.name for path in directory.glob("*.sock")]
        assert not left, f"left {left}"
    return Outcome(number, allowed, idle, before, after, status, end_s, loaded.traceback)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--share", default=1.0, help="Of the rounds of a full run.", show_default=True)
@click.argument("names", metavar="[LOAD]...", nargs=-1, type=click.Choice(list(LOADS)))
def main(share: float, names: tuple[str, ...]) -> None:
    """Measure what loads leave behind, and fail if it is anything."""
    failed = False
    print("load                   rounds KiB: idle  warm  after  threads  descriptors  end s")
    for name in names or LOADS:
        with tempfile.TemporaryDirectory(prefix="faultline-leaks-") as directory:
            outcome = measure(name, max(10, round(LOADS[name][1] * share)), Path(directory))
        idle, before, after = outcome.idle, outcome.before, outcome.after
        print(
            f"{name:20} {outcome.number:8}"
            f" {idle.memory // KIB:9} {before.memory // KIB:5} {after.memory // KIB:6}"
            f" {before.threads:4}-{after.threads:<3} {before.fds:7}-{after.fds:<4}"
            f" {outcome.end_s:6.2f}",
            *outcome.wrong(),
            flush=True,
        )
        failed |= bool(outcome.wrong())
    sys.exit(failed)


if __name__ == "__main__":
    main(prog_name="scripts/endure leaks")
