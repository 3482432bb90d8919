# SPDX-License-Identifier: MIT
"""A file system that hangs: who needs it waits, and nobody else does."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blockcore.bql.effects import GENERAL, Call, Lane
from blockcore.bql.routine import Routine
from blockcore.machine.machine import Machine
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.drivers.file import FileNode
from blockcore.nodes.file_calls import (
    PATIENCE_NS,
    SHARE,
    FileCalls,
    FileSystem,
    file_system_of,
)
from live import TIMEOUT_S, Flight, Live, Qmp, freeze, make_image
from sim import Sim, new_machine, perform

MIB = 1 << 20
BLOCK = 4096
SIZE = 8 * MIB


def begun(coro: Any) -> tuple[Routine, Lane]:
    """A coroutine that is in a call, and whose threads that has."""
    routine = Routine(coro)
    routine.advance()
    assert isinstance(routine.call, Call)
    return routine, routine.call.lane


def test_a_file_takes_a_share_of_the_threads_of_its_file_system() -> None:
    system = FileSystem(os.makedev(8, 1))
    first, second = FileCalls("first", system), FileCalls("second", system)
    calls = [begun(first(int)) for _ in range(SHARE + 2)]
    lanes = [lane for _, lane in calls]
    assert lanes[:SHARE] == [system.lane] * SHARE and system.lane.threads > SHARE
    assert len(set(lanes[SHARE:])) == 1 and lanes[SHARE] is not system.lane
    calls.append(begun(second(int)))
    calls[0][0].advance(1)
    assert calls[0][0].outcome() == 1
    calls.append(begun(first(int)))
    calls[1][0].advance(None, OSError(5, "no"))  # which counts no more, either
    calls += [begun(first(int)), begun(first(int))]
    assert [lane for _, lane in calls[-4:]] == [system.lane] * 3 + [lanes[SHARE]]


def test_file_systems_have_threads_of_their_own(tmp_path: Path) -> None:
    status = os.stat(tmp_path)
    assert file_system_of(status) is not None
    same = file_system_of(status)
    assert file_system_of(status) is same
    other = os.stat_result((*status[:2], status.st_dev + 1, *status[3:]))
    assert file_system_of(other) is not same
    disk = [stat.S_IFBLK | 0o600, *status[1:10], *[0] * 3]
    extra = {"st_rdev": 7 << 8, "st_blksize": 512, "st_blocks": 0}
    first, second = (
        file_system_of(os.stat_result(disk, {**extra, "st_rdev": number})) for number in (1, 2)
    )
    assert first is not second, "disks, though their names are in one directory"
    lanes = {first.copying_to(first), first.copying_to(second), second.copying_to(first)}
    assert len(lanes) == 3 and all(lane.busy for lane in lanes)
    assert first.copying_to(second) in lanes


def test_a_question_that_is_not_answered_is_not_asked_again() -> None:
    system = FileSystem(0)
    calls = [FileCalls(str(number), system) for number in range(3)]
    waiting, _ = begun(calls[0].ask(0, int))
    at_once, _ = begun(calls[1].ask(PATIENCE_NS, int))
    at_once.advance(7)
    assert at_once.outcome() == 7
    assert perform(calls[2].ask(PATIENCE_NS + 1, int)) is None
    waiting.advance(None, OSError(5, "no"))
    with pytest.raises(OSError):
        waiting.outcome()
    assert perform(calls[2].ask(PATIENCE_NS + 2, int)) == 0
    assert not system.asking


@pytest.fixture(name="machine")
def _machine() -> Machine:
    return new_machine(Sim(0))


REQUESTS: dict[str, Callable[[FileNode], Any]] = {
    "read": lambda node: node.do_pread(0, memoryview(bytearray(512))),
    "write": lambda node: node.do_pwrite(0, memoryview(bytes(512))),
    "zero": lambda node: node.do_zero(0, 512, may_unmap=True),
    "discard": lambda node: node.do_discard(0, 512),
    "flush": lambda node: node.do_flush(),
    "status": lambda node: node.do_block_status(0, 512),
    "truncate": lambda node: node.do_truncate(512),
    "size": lambda node: node.do_allocated_file_size(),
    "hint": lambda node: node.extent_size_hint(),
    "close": lambda node: node.do_close(),
}


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("request_kind", REQUESTS)
def test_every_call_for_a_file_is_of_its_file_system(
    machine: Machine, tmp_path: Path, request_kind: str, direct: bool
) -> None:
    (tmp_path / "f").write_bytes(bytes(BLOCK))
    options = NodeOptions(node_name="f", direct=direct)
    node = FileNode(options, machine, "f", str(tmp_path / "f"))
    perform(node.do_open())
    routine, lane = begun(REQUESTS[request_kind](node))
    assert lane is file_system_of(os.stat(tmp_path / "f")).lane
    routine.coro.close()
    if request_kind != "close":
        perform(node.do_close())


@contextlib.contextmanager
def mounted(directory: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A file of a file system of its own, which QEMU serves and which hangs when that is frozen."""
    make_image(directory / "below", SIZE, pattern=ord("a"))
    (directory / name).touch()
    argv = ["qemu-storage-daemon", "--pidfile", "storage.pid"]
    argv += ["--blockdev", "driver=file,node-name=f,filename=below"]
    argv += ["--export", f"type=fuse,id=e,node-name=f,mountpoint={name},writable=on"]
    with subprocess.Popen(argv, cwd=directory, stderr=subprocess.PIPE) as server:
        try:
            while not (directory / "storage.pid").exists():
                if server.poll() is not None:
                    pytest.skip("no FUSE here")
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                server.send_signal(signal.SIGCONT)
                server.terminate()
            server.wait(TIMEOUT_S)


def wait_for_the_end(qmp: Qmp) -> None:
    assert "error" not in qmp.wait_event("BLOCK_JOB_COMPLETED").data
    qmp.wait_event("JOB_STATUS_CHANGE", id="jb", status="null")


def use_the_other(live: Live, qmp: Qmp) -> None:
    """What can be done to `b`, in all of the ways that need threads."""
    with live.guest("b") as guest:
        guest.pwrite(b"n" * BLOCK, 0)
        guest.flush()
        qmp("blockdev-add", driver="file", node_name="x", filename="b.img", read_only=True)
        qmp("blockdev-del", node_name="x")
        qmp("block_resize", device="b", size=SIZE)
        target = str(live.directory / "copy.raw")
        qmp("drive-backup", job_id="jb", device="b", target=target, sync="full", format="raw")
        wait_for_the_end(qmp)
        qmp("blockdev-add", driver="file", node_name="x", filename="copy.raw")
        qmp("blockdev-backup", job_id="jb", device="b", target="x", sync="full")
        wait_for_the_end(qmp)
        qmp("blockdev-del", node_name="x")
        assert guest.pread(BLOCK, 0) == b"n" * BLOCK


def test_others_go_on(tmp_path: Path) -> None:
    """While guests, commands and jobs that copy are there, more of each than there are threads."""
    keys = ["drive=id=a,file=far.img,format=raw"]
    names = [f"c{number}" for number in range(GENERAL.threads + 1)]
    for name in ("b", *names):
        make_image(tmp_path / f"{name}.img", SIZE, pattern=ord("b"))
        keys.append(f"drive=id={name},file={name}.img,format=raw")
    (tmp_path / "again.img").symlink_to("far.img")
    target = {"driver": "file", "filename": "again.img"}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(mounted(tmp_path, "far.img"))
        live = stack.enter_context(Live(tmp_path, *keys))
        qmp, guest = stack.enter_context(live.qmp()), stack.enter_context(live.guest("a"))
        for name in names:
            qmp.execute("blockdev-add", {**target, "node-name": f"to-{name}"})
            qmp.execute("blockdev-add", {**target, "node-name": f"for-{name}"})
            job = {"job_id": f"j{name}", "device": name, "target": f"to-{name}"}
            qmp("blockdev-backup", sync="full", speed=65536, **job)
        qmp.wait_for(lambda: all(job["offset"] for job in qmp("query-block-jobs")))
        freeze(server)
        flight = Flight()
        requests = [flight.read(guest, n * MIB, BLOCK) for n in range(3)]
        requests += [flight.write(guest, n * MIB + BLOCK, b"w" * BLOCK) for n in range(3)]
        for name in names:
            qmp("block-job-set-speed", device=f"j{name}", speed=0)
            resize = {"node-name": f"for-{name}", "size": SIZE + BLOCK}
            stack.enter_context(live.wire()).command("block_resize", **resize)
        use_the_other(live, qmp)
        assert all(request.outcome is None for request in requests)
        server.send_signal(signal.SIGCONT)
        assert flight.land(*requests) == ["OK"] * 6
        assert live.stop() == 0
