# SPDX-License-Identifier: MIT
"""Real clients of drives that try again what fails, and of drives that hold nothing."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest

from live import TIMEOUT_S, Flight, Live, Qmp, make_image

MIB = 1 << 20
BLOCK = 4096

KEYS = (
    "drive=id=vda,file=a.img,format=raw,rerror=retry,werror=retry,retry-interval=5",
    "drive=id=vdb,file=b.img,format=raw,if=none",
    "device=virtio-blk,drive=vdb,id=dev,rerror=retry,werror=retry,retry-interval=5,retry-timeout=20",
    "drive=id=refuses,file=c.img,format=raw,rerror=stop,werror=stop,x-on-stop=eshutdown",
)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Live]:
    for name in "abc":
        make_image(tmp_path / f"{name}.img", MIB, pattern=1)
    with Live(tmp_path, *KEYS) as live:
        yield live


@pytest.fixture
def qmp(machine: Live) -> Iterator[Qmp]:
    with machine.qmp() as client:
        yield client


def actions(qmp: Qmp) -> list[str]:
    """The actions of all errors so far, and the names of other events."""
    qmp("query-status")
    return [event.data.get("action", event.name) for event in qmp.take_events()]


def outcome(request: Callable[[], Any]) -> str:
    """The name of the errno that a client sees, or OK."""
    try:
        request()
    except nbd.Error as exc:
        return str(exc.errno)
    return "OK"


def test_a_client_sees_no_error(machine: Live, qmp: Qmp) -> None:
    with machine.guest("vda") as guest:
        qmp("x-fault-add", node_name="vda", iotype=["read", "write", "flush"], errno="EIO", count=9)
        guest.pwrite(b"w" * BLOCK, 0)
        guest.flush()
        assert guest.pread(BLOCK, 0) == b"w" * BLOCK
        assert actions(qmp) == 9 * ["retry"]
        assert qmp("query-status")["status"] == "running"
        (first, *_) = qmp("query-block")
        assert "io-status" not in first
        stats = qmp("query-blockstats")[0]["stats"]
        assert (stats["wr_operations"], stats["failed_wr_operations"]) == (1, 0)
    assert (machine.directory / "a.img").read_bytes()[:BLOCK] == b"w" * BLOCK


def test_fio_sees_no_error(machine: Live, qmp: Qmp) -> None:
    qmp("x-drive-set-policy", device="vda", retry_interval=1)
    qmp("x-fault-add", node_name="vda", errno="EIO", rate=0.1)
    command = ["fio", "--name=t", "--ioengine=nbd", f"--uri={machine.uri('vda')}"]
    command += ["--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=1M", "--verify=crc32c"]
    ran = subprocess.run(
        command, cwd=machine.directory, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert ran.returncode == 0 and "err= 0" in ran.stdout, ran.stdout + ran.stderr
    assert set(actions(qmp)) == {"retry"}


def test_after_the_timeout_a_client_sees_the_errno(machine: Live, qmp: Qmp) -> None:
    with machine.guest("vdb") as guest:
        fault = qmp("x-fault-add", node_name="vdb", iotype="write", errno="ENOSPC")["id"]
        assert outcome(lambda: guest.pwrite(b"w" * BLOCK, 0)) == "ENOSPC"
        told = actions(qmp)
        assert told == [*["retry"] * (len(told) - 1), "report"] and len(told) > 1
        # The storage is back in time for the next one.
        qmp("x-drive-set-policy", device="vdb", retry_timeout=0)
        flight = Flight()
        flight.write(guest, 0, b"v" * BLOCK)
        flight.poll(0)
        qmp.wait_event("BLOCK_IO_ERROR", action="retry")
        qmp("x-fault-remove", id=fault)
        assert flight.land() == ["OK"]
    assert (machine.directory / "b.img").read_bytes()[:BLOCK] == b"v" * BLOCK


def test_what_is_tried_again_holds_up_nobody(machine: Live, qmp: Qmp) -> None:
    qmp("x-drive-set-policy", device="vda", retry_interval=2**32 - 1)
    with machine.guest("vda") as guest, machine.guest("vdb") as other:
        flight = Flight()
        qmp("x-fault-add", node_name="vda", iotype="write", count=3)
        writes = [flight.write(guest, n * BLOCK, b"x" * BLOCK) for n in range(3)]
        flight.arrived(qmp)
        for _ in writes:
            qmp.wait_event("BLOCK_IO_ERROR", action="retry")
        assert [one["waits-for"] for one in qmp("x-query-requests")] == 3 * ["retry"]
        assert guest.pread(BLOCK, 0) == b"\1" * BLOCK
        other.pwrite(b"o" * BLOCK, 0)
        job = {"job_id": "j", "device": "vda", "sync": "full", "target": "copy.img"}
        qmp("drive-backup", **job, format="raw")
        qmp.wait_event("BLOCK_JOB_COMPLETED", timeout=TIMEOUT_S)
        assert [write.outcome for write in writes] == 3 * [None]
        qmp("stop")
        assert [one["waits-for"] for one in qmp("x-query-requests")] == 3 * ["run"]
        qmp("cont")
        assert flight.land() == 3 * ["OK"]


@pytest.mark.parametrize("how", ["client", "reset", "quit", "SIGTERM"])
def test_nothing_is_left(how: str, machine: Live, qmp: Qmp) -> None:
    """The client goes, the machine is reset or ends while requests wait for their next try."""
    qmp("x-drive-set-policy", device="vda", retry_interval=2**32 - 1)
    qmp("x-fault-add", node_name="vda", iotype="write")
    flight = Flight()
    with machine.guest("vda") as guest:
        for n in range(10):
            flight.write(guest, n * BLOCK, b"x" * BLOCK)
        for _ in range(10):
            flight.poll(0)
            qmp.wait_event("BLOCK_IO_ERROR", action="retry")
        match how:
            case "reset":
                qmp("system_reset")
                assert flight.land() == 10 * ["ESHUTDOWN"]
            case "quit" | "SIGTERM":
                if how == "quit":
                    qmp("quit")
                else:
                    machine.process.send_signal(signal.SIGTERM)
                assert machine.process.wait(10) == 0
                assert set(flight.land()) <= {"ESHUTDOWN", "ENOTCONN"}
    if how in ("client", "reset"):
        qmp.wait_for(lambda: not qmp("x-query-requests"))
    assert (machine.directory / "a.img").read_bytes() == b"\1" * MIB


def test_a_stopped_machine_that_holds_nothing(machine: Live, qmp: Qmp) -> None:
    with machine.guest("refuses") as guest, machine.guest("vda") as other:
        fault = qmp("x-fault-add", node_name="refuses", iotype="write", errno="ENOSPC")["id"]
        assert outcome(lambda: guest.pwrite(b"w" * BLOCK, 0)) == "ESHUTDOWN"
        assert actions(qmp) == ["stop", "STOP"]
        assert qmp("query-status")["status"] == "io-error"
        assert qmp("query-block")[2]["io-status"] == "nospace"
        for request in (
            lambda: guest.pwrite(b"w" * BLOCK, 0),
            lambda: guest.pread(BLOCK, 0),
            guest.flush,
            lambda: guest.trim(BLOCK, 0),
            lambda: guest.zero(BLOCK, 0),
        ):
            assert outcome(request) == "ESHUTDOWN"
        held = Flight()
        read = held.read(other, 0, BLOCK)
        held.arrived(qmp)
        with machine.guest("refuses") as late:
            assert late.get_size() == MIB and outcome(late.flush) == "ESHUTDOWN"
        qmp("x-fault-remove", id=fault)
        qmp("cont")
        assert held.land(read) == ["OK"]
        guest.pwrite(b"w" * BLOCK, 0)
        assert actions(qmp) == ["RESUME"]
    assert (machine.directory / "c.img").read_bytes()[:BLOCK] == b"w" * BLOCK


def test_policies_are_shown(machine: Live, qmp: Qmp) -> None:
    shown = [{**one, "device": None} for one in qmp("x-query-drives")]
    policy: dict[str, Any] = {"device": None, "rerror": "retry", "werror": "retry"}
    further = {"retry-interval": 5, "retry-timeout": 0, "x-on-stop": "hold"}
    stop = {"rerror": "stop", "werror": "stop", "x-on-stop": "eshutdown", "retry-interval": 1000}
    assert shown == [
        {**policy, **further},
        {**policy, **further, "retry-timeout": 20},
        {**policy, **further, **stop},
    ]
