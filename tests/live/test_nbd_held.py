# SPDX-License-Identifier: MIT
"""The stopped machine: what is held, what goes on, and what becomes of held requests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest

from faultline import Event, MachineEnded
from live import Flight, Live, Qmp, make_image

MIB = 1 << 20
BLOCK = 4096

KEYS = (
    "drive=id=vda,file=a.img,format=raw,rerror=stop,werror=enospc",
    "drive=id=vdb,file=b.img,format=raw,rerror=report,werror=stop",
    "drive=id=mixed,file=c.img,format=raw,rerror=stop,werror=report",
    "drive=id=off,file=d.img,format=raw,rerror=ignore,werror=report",
)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Live]:
    for name in "abcd":
        make_image(tmp_path / f"{name}.img", MIB, pattern=1)
    with Live(tmp_path, *KEYS, options=("--threads", "64")) as live:
        yield live


@pytest.fixture
def qmp(machine: Live) -> Iterator[Qmp]:
    with machine.qmp() as client:
        yield client


def status(qmp: Qmp) -> str:
    return str(qmp("query-status")["status"])


def iostatus(qmp: Qmp) -> dict[str, str | None]:
    return {b["device"]: b.get("io-status") for b in qmp("query-block")}


def names(qmp: Qmp) -> list[str]:
    """The events so far, after a round trip."""
    qmp("query-status")
    return [event.name for event in qmp.take_events()]


def fail(qmp: Qmp, drive: str, **rule: Any) -> str:
    return str(qmp("x-fault-add", node_name=drive, **rule)["id"])


def hold(qmp: Qmp, flight: Flight, guest: nbd.NBD, drive: str, writes: int = 1) -> None:
    """Stop the machine by a failing write, and send more of them."""
    fault = fail(qmp, drive, iotype="write", errno="ENOSPC")
    for n in range(writes):
        flight.write(guest, n * BLOCK, bytes([n + 2]) * BLOCK)
    flight.poll(0)
    while status(qmp) == "running":
        flight.poll(0)
    flight.arrived(qmp)
    qmp.take_events()
    qmp("x-fault-remove", id=fault)


def test_a_write_is_held_and_completes(machine: Live, qmp: Qmp) -> None:
    with machine.guest("vda") as guest:
        flight = Flight()
        fault = fail(qmp, "vda", iotype="write", errno="ENOSPC")
        write = flight.write(guest, 0, b"w" * BLOCK)
        flight.poll(0)
        error = qmp.wait_event("BLOCK_IO_ERROR").data
        assert error == {
            "device": "vda",
            "qom-path": "/machine/peripheral-anon/device[0]/virtio-backend",
            "node-name": error["node-name"],
            "operation": "write",
            "action": "stop",
            "nospace": True,
            "reason": "No space left on device",
        }
        qmp.wait_event("STOP")
        assert qmp("query-status") == {
            "running": False,
            "status": "io-error",
        }
        assert iostatus(qmp) == {"vda": "nospace", "vdb": "ok", "mixed": "ok", "off": None}
        flight.arrived(qmp)
        assert write.outcome is None
        before = qmp("query-blockstats")[0]["stats"]
        assert (before["wr_operations"], before["failed_wr_operations"]) == (0, 0)
        qmp("x-fault-remove", id=fault)
        qmp("cont")
        assert flight.land() == ["OK"]
        assert names(qmp) == ["RESUME"]
        assert iostatus(qmp)["vda"] == "ok"
        assert qmp("query-blockstats")[0]["stats"]["wr_operations"] == 1
    assert (machine.directory / "a.img").read_bytes()[:BLOCK] == b"w" * BLOCK


def test_the_stopped_machine_is_alive(machine: Live, qmp: Qmp) -> None:
    """Every drive is held, but connections, exports, block status and commands are served."""
    with machine.guest("vda") as one, machine.guest("vdb") as other:
        flight = Flight()
        hold(qmp, flight, one, "vda", writes=10)
        late = [
            flight.read(other, 0, BLOCK),
            flight.write(other, BLOCK, b"o" * BLOCK),
            flight.send(other, "flush"),
            flight.send(other, "trim", BLOCK, 0),
            flight.send(other, "zero", BLOCK, 3 * BLOCK),
        ]
        flight.arrived(qmp)
        with machine.guest("vdb") as new:
            assert new.get_size() == MIB
            flight.arrived(qmp)
            late.append(flight.read(new, 0, BLOCK))
            flight.arrived(qmp)
        handle = nbd.NBD()
        handle.set_opt_mode(True)
        handle.connect_uri(machine.uri())
        exports: list[str] = []

        def collect(name: str, _description: str) -> int:
            exports.append(name)
            return 0

        handle.opt_list(collect)
        handle.opt_abort()
        assert exports == ["vda", "vdb", "mixed", "off"]
        assert {request.outcome for request in late[:5]} == {None}
        assert names(qmp) == [], "a request that comes late is held without an event"
        with machine.qmp() as second:
            assert status(second) == "io-error"
        qmp("cont")
        assert set(flight.land(*late[:5])) == {"OK"}
        assert late[0].data == b"\1" * BLOCK
        assert names(qmp) == ["RESUME"]


def test_several_in_flight_fail_with_one_stop(tmp_path: Path) -> None:
    """Three failures of one batch: three BLOCK_IO_ERROR, then one STOP."""
    make_image(tmp_path / "a.img", MIB)
    key = "drive=id=vda,file=a.img,format=raw,werror=stop,throttling.iops-total=1"
    with Live(tmp_path, key) as live, live.qmp() as qmp, live.guest() as guest:
        flight = Flight()
        fault = fail(qmp, "vda", iotype="write", errno="EIO")
        first = flight.write(guest, 0, b"x" * BLOCK)
        writes = [flight.write(guest, n * BLOCK, b"x" * BLOCK) for n in range(1, 8)]
        flight.arrived(qmp)
        qmp.wait_event("STOP")
        qmp.wait_for(lambda: qmp("x-query-faults")[0]["hits"] == 8)
        assert names(qmp).count("STOP") == 0
        assert iostatus(qmp) == {"vda": "failed"}
        qmp("x-fault-remove", id=fault)
        limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
        qmp.execute("block_set_io_throttle", {"device": "vda", **limits})
        qmp("cont")
        assert flight.land(first, *writes) == ["OK"] * 8


def errors_until_stop(qmp: Qmp) -> list[Event]:
    """The BLOCK_IO_ERRORs in front of the next STOP."""
    errors: list[Event] = []
    while True:
        event = qmp.next_event()
        if event.name == "STOP":
            return errors
        if event.name == "BLOCK_IO_ERROR":
            errors.append(event)


def retry_until_together(qmp: Qmp, number: int) -> list[Event]:
    """Let held requests fail again until all of them have come in time for the same STOP."""
    errors: list[Event] = []
    while len(errors) < number:
        qmp("cont")
        errors = errors_until_stop(qmp)
    return errors


def test_the_first_error_stays(machine: Live, qmp: Qmp) -> None:
    """EIO, then ENOSPC: io-status is failed, though the second event says nospace."""
    with machine.guest("vdb") as guest:
        fail(qmp, "vdb", iotype="write", errno="EIO", offset=0, length=512)
        fail(qmp, "vdb", iotype="write", errno="ENOSPC", offset=BLOCK, length=512)
        qmp("stop")
        qmp.wait_event("STOP")
        flight = Flight()
        for offset in (0, BLOCK):
            flight.write(guest, offset, b"x" * BLOCK)
            flight.arrived(qmp)
        errors = retry_until_together(qmp, 2)
        want = {"No space left on device": "nospace", "Input/output error": "failed"}
        assert {error["reason"]: error["nospace"] for error in errors} == {
            "No space left on device": True,
            "Input/output error": False,
        }
        assert iostatus(qmp)["vdb"] == want[errors[0]["reason"]]
        qmp("x-fault-clear")
        qmp("cont")
        assert flight.land() == ["OK", "OK"]


def test_a_persistent_failure_stops_again_and_again(machine: Live, qmp: Qmp) -> None:
    with machine.guest("vda") as guest:
        flight = Flight()
        fault = fail(qmp, "vda", iotype="write", errno="ENOSPC")
        write = flight.write(guest, 0, b"p" * BLOCK)
        flight.poll(0)
        for _ in range(20):
            order: list[str] = []
            while order[-1:] != ["STOP"]:
                order.append(qmp.next_event().name)
            assert order[-2:] == ["BLOCK_IO_ERROR", "STOP"]
            assert order[:-2] in ([], ["RESUME"])
            assert status(qmp) == "io-error" and iostatus(qmp)["vda"] == "nospace"
            qmp("cont")
        qmp.wait_event("STOP")
        assert qmp("x-query-faults")[0]["hits"] == 21
        qmp("x-fault-remove", id=fault)
        qmp("cont")
        assert flight.land(write) == ["OK"]
        stats = qmp("query-blockstats")[0]["stats"]
        assert (stats["wr_operations"], stats["failed_wr_operations"]) == (1, 0)


def test_requests_are_retried_in_the_order_they_came(machine: Live, qmp: Qmp) -> None:
    """Whatever order nbdkit's threads have brought them in, it is kept at every retry."""
    with machine.guest("vdb") as guest:
        qmp("stop")
        qmp.wait_event("STOP")
        flight = Flight()
        for n in range(12):
            fail(qmp, "vdb", errno=5 + n, offset=n * BLOCK, length=BLOCK)
            flight.write(guest, n * BLOCK, b"x" * BLOCK)
            flight.arrived(qmp)
        first = [error["reason"] for error in retry_until_together(qmp, 12)]
        assert sorted(first) == sorted(os.strerror(5 + n) for n in range(12))
        for _ in range(5):
            again = [error["reason"] for error in retry_until_together(qmp, 12)]
            assert again == first
        qmp("x-fault-clear")
        qmp("cont")
        assert flight.land() == ["OK"] * 12


def test_mixed_policies(machine: Live, qmp: Qmp) -> None:
    """rerror=stop holds the read; a write that fails meanwhile is reported (werror=report)."""
    with machine.guest("mixed") as guest:
        fail(qmp, "mixed", errno="EIO")
        qmp("stop")
        qmp.wait_event("STOP")
        flight = Flight()
        read = flight.read(guest, 0, BLOCK)
        write = flight.write(guest, 0, b"x" * BLOCK)
        flight.arrived(qmp)
        actions: list[str] = []
        while "report" not in actions:
            qmp("cont")
            actions += [error["action"] for error in errors_until_stop(qmp)]
        assert actions.count("report") == 1 and "stop" in actions
        assert flight.land(write) == ["EIO"]
        assert (status(qmp), iostatus(qmp)["mixed"]) == ("io-error", "failed")
        assert read.outcome is None
        qmp("x-fault-clear")
        qmp("cont")
        assert flight.land(read) == ["OK"]
        assert read.data == b"\1" * BLOCK


def test_policies_change_while_held(machine: Live, qmp: Qmp) -> None:
    with machine.guest("vda") as guest:
        flight = Flight()
        fail(qmp, "vda", iotype="write", errno="ENOSPC")
        write = flight.write(guest, 0, b"x" * BLOCK)
        flight.poll(0)
        qmp.wait_event("STOP")
        mark = qmp.mark()
        qmp("x-drive-set-policy", device="vda", werror="report")
        assert write.outcome is None
        qmp("cont")
        assert flight.land(write) == ["ENOSPC"]
        assert status(qmp) == "running"
        event = qmp.wait_event("BLOCK_IO_ERROR", since=mark)
        assert event["action"] == "report"
        assert guest.pread(BLOCK, 0) == b"\1" * BLOCK


def test_policy_without_stop_has_no_iostatus(machine: Live, qmp: Qmp) -> None:
    with machine.guest("off") as guest:
        fail(qmp, "off", errno="ENOSPC", count=2)
        assert guest.pread(BLOCK, 0) == bytes(BLOCK)
        with pytest.raises(nbd.Error):
            guest.pwrite(b"x" * BLOCK, 0)
        for operation, action in (("read", "ignore"), ("write", "report")):
            data = qmp.wait_event("BLOCK_IO_ERROR").data
            assert "nospace" not in data
            assert (data["operation"], data["action"]) == (operation, action)


CLIENT = """
import sys, nbd
guest = nbd.NBD()
guest.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
guest.connect_uri(sys.argv[1])
for n in range(40):
    guest.aio_pwrite(b"k" * 4096, n * 4096)
while guest.poll(-1):
    pass
print("an answer", flush=True)
"""


def doomed(machine: Live, qmp: Qmp, export: str) -> subprocess.Popen[str]:
    """A client process with 40 writes that the machine has and holds."""
    others = len(qmp("x-query-requests"))
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, machine.uri(export)],
        stdout=subprocess.PIPE,
        text=True,
    )
    qmp.wait_for(lambda: len(qmp("x-query-requests")) == others + 40)
    return client


def threads(machine: Live) -> int:
    return len(os.listdir(f"/proc/{machine.pid}/task"))


def test_killed_clients_requests_vanish(machine: Live, qmp: Qmp) -> None:
    with machine.guest("vdb") as other:
        flight = Flight()
        hold(qmp, flight, other, "vdb", writes=4)
        before = threads(machine)
        for _ in range(3):
            client = doomed(machine, qmp, "vda")
            assert threads(machine) > before
            client.send_signal(signal.SIGKILL)
            client.wait()
            assert client.stdout is not None and client.stdout.read() == ""
            client.stdout.close()
            qmp.wait_for(lambda: threads(machine) <= before)
            assert len(qmp("x-query-requests")) == 4
        assert status(qmp) == "io-error"
        assert names(qmp) == []
        qmp("cont")
        assert flight.land() == ["OK"] * 4
        with machine.guest("vda") as guest:
            assert guest.pread(40 * BLOCK, 0) == b"\1" * 40 * BLOCK
        assert qmp("query-blockstats")[0]["stats"]["wr_operations"] == 0


def test_client_that_leaves_politely(machine: Live, qmp: Qmp) -> None:
    """NBD_CMD_DISC behind held requests: they are dropped, too."""
    qmp("stop")
    before = threads(machine)
    with machine.guest("vda") as guest:
        flight = Flight()
        for n in range(20):
            flight.write(guest, n * BLOCK, b"x" * BLOCK)
        flight.arrived(qmp)
        guest.aio_disconnect()
        while not guest.aio_is_closed():
            guest.poll(1)
    qmp.wait_for(lambda: threads(machine) <= before)
    qmp("cont")
    assert qmp("query-blockstats")[0]["stats"]["wr_operations"] == 0


def test_reset_drops_held_requests(machine: Live, qmp: Qmp) -> None:
    with machine.guest("vda") as guest, machine.guest("vdb") as other:
        flight = Flight()
        hold(qmp, flight, guest, "vda", writes=8)
        reads = [flight.read(other, n * BLOCK, BLOCK) for n in range(8)]
        flight.arrived(qmp)
        outcomes: list[str | None] = []

        def all_dropped() -> bool:
            qmp("system_reset")
            outcomes.extend(request.outcome for request in flight.poll(0))
            return len(outcomes) == 16

        qmp.wait_for(all_dropped)
        assert set(outcomes) == {"ESHUTDOWN"}
        assert all(request.outcome == "ESHUTDOWN" for request in reads)
        assert status(qmp) == "prelaunch"
        assert iostatus(qmp)["vda"] == "nospace"
        assert set(names(qmp)) == {"RESET"}
        qmp("cont")
        assert names(qmp) == ["RESUME"]
        assert iostatus(qmp)["vda"] == "ok"
        assert guest.pread(8 * BLOCK, 0) == b"\1" * 8 * BLOCK


def test_reset_while_running(machine: Live, qmp: Qmp) -> None:
    with machine.guest("vda") as guest:
        qmp("system_reset")
        assert status(qmp) == "running"
        event = qmp.wait_event("RESET")
        assert event.data == {"guest": False, "reason": "host-qmp-system-reset"}
        guest.pwrite(b"x" * BLOCK, 0)


@pytest.mark.parametrize("how", ["quit", "SIGTERM", "SIGINT"])
def test_end_with_held_requests(how: str, machine: Live, qmp: Qmp) -> None:
    with machine.guest("vda") as guest, machine.guest("vdb") as other:
        flight = Flight()
        hold(qmp, flight, guest, "vda", writes=40)
        for n in range(40):
            flight.read(other, n * BLOCK, BLOCK)
        flight.arrived(qmp)
        if how == "quit":
            qmp("quit")
        else:
            machine.process.send_signal(getattr(signal, how))
        event = qmp.wait_event("SHUTDOWN")
        reason = "host-qmp-quit" if how == "quit" else "host-signal"
        assert event.data == {"guest": False, "reason": reason}
        with pytest.raises(MachineEnded):
            qmp.next_event()
        assert machine.process.wait(10) == 0
        outcomes = flight.land()
        assert set(outcomes) <= {"ESHUTDOWN", "ENOTCONN"}, outcomes
        assert not os.path.exists(machine.control) and not os.path.exists(machine.nbd_socket)


def test_stop_and_cont_states(machine: Live, qmp: Qmp) -> None:
    with machine.guest("vda") as guest:
        qmp("stop")
        assert (status(qmp), names(qmp)) == ("paused", ["STOP"])
        qmp("stop")
        assert (status(qmp), names(qmp)) == ("paused", [])
        flight = Flight()
        read = flight.read(guest, 0, BLOCK)
        flight.arrived(qmp)
        assert read.outcome is None
        qmp("system_reset")
        assert status(qmp) == "prelaunch"
        qmp("cont")
        assert (status(qmp), names(qmp)) == ("running", ["RESET", "RESUME"])
        qmp("cont")
        assert names(qmp) == []
        assert flight.land(read)[0] in ("ESHUTDOWN", "OK"), "held in time for the reset, or after"
        fail(qmp, "vda", iotype="read", count=1)
        read = flight.read(guest, 0, BLOCK)
        flight.poll(0)
        qmp.expect("BLOCK_IO_ERROR", "STOP")
        qmp("stop")
        assert (status(qmp), names(qmp)) == ("io-error", [])
        qmp("cont")
        assert flight.land(read) == ["OK"]


def test_stop_answers_after_requests_in_flight(tmp_path: Path) -> None:
    """When `stop` is answered, what was at the disk is done and flushed."""
    key = "drive=id=vda,driver=null-co,size=1048576,latency-ns=200000000"
    with Live(tmp_path, key) as live, live.qmp() as qmp, live.guest() as guest:
        flight = Flight()
        writes = [flight.write(guest, n * BLOCK, b"x" * BLOCK) for n in range(8)]
        flight.arrived(qmp)
        qmp("stop")
        done = qmp("query-blockstats")[0]["stats"]["wr_operations"]
        late = flight.write(guest, 0, b"x" * BLOCK)
        flight.arrived(qmp)
        assert qmp("query-blockstats")[0]["stats"]["wr_operations"] == done
        qmp("cont")
        assert flight.land(*writes, late) == ["OK"] * 9


def test_prelaunch(tmp_path: Path) -> None:
    make_image(tmp_path / "a.img", MIB, pattern=3)
    key = "drive=id=vda,file=a.img,format=raw"
    with (
        Live(tmp_path, key, "prelaunch=on") as live,
        live.qmp() as qmp,
        live.guest() as guest,
    ):
        assert status(qmp) == "prelaunch"
        flight = Flight()
        read = flight.read(guest, 0, BLOCK)
        flight.arrived(qmp)
        assert read.outcome is None
        qmp("stop")
        assert status(qmp) == "prelaunch"
        qmp("cont")
        assert flight.land(read) == ["OK"]
        assert names(qmp) == ["RESUME"]


def test_cont_before_the_stop_has_come(machine: Live, qmp: Qmp) -> None:
    """STOP and RESUME in one go, and the request is retried: QEMU would lose it here."""
    with machine.guest("vda") as guest:
        flight = Flight()
        for _ in range(30):
            fail(qmp, "vda", id="f", iotype="write", errno="ENOSPC", count=1)
            write = flight.write(guest, 0, b"c" * BLOCK)
            flight.poll(0)
            qmp.wait_event("BLOCK_IO_ERROR")
            qmp("cont")
            assert flight.land(write) == ["OK"]
            assert names(qmp) == ["STOP", "RESUME"]
            assert status(qmp) == "running"
            assert iostatus(qmp)["vda"] == "ok"
            qmp("x-fault-clear")


def test_resize_while_held(machine: Live, qmp: Qmp) -> None:
    """A held write beyond the new end is refused when it is retried."""
    with machine.guest("vda") as guest:
        flight = Flight()
        hold(qmp, flight, guest, "vda")
        beyond = flight.write(guest, MIB - BLOCK, b"x" * BLOCK)
        flight.arrived(qmp)
        qmp("block_resize", device="vda", size=MIB // 2)
        qmp("cont")
        assert flight.land(beyond) == ["EINVAL"]
        assert qmp("query-blockstats")[0]["stats"]["invalid_wr_operations"] == 1
