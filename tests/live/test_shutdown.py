# SPDX-License-Identifier: MIT
"""SIGTERM, SIGINT and SIGKILL in every state that could keep a process from ending."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest

from faultline import FaultlineError
from live import Flight, Live, Qmp, freeze, make_image

MIB = 1 << 20
BLOCK = 4096

LIMIT_S = 2.0
"""From the signal to the exit status, as promised."""

DRIVE = "drive=id=vda,file=a.img,format=raw,rerror=stop,werror=stop"


def start(directory: Path, *keys: str, threads: int = 64) -> Live:
    make_image(directory / "a.img", 4 * MIB, pattern=1)
    return Live(directory, *(keys or (DRIVE,)), options=("--threads", str(threads)))


def ends(live: Live, how: int = signal.SIGTERM) -> None:
    """Send the signal, and check all that is promised of the end."""
    started = time.monotonic()
    assert live.stop(how) == 0
    assert time.monotonic() - started < LIMIT_S
    assert not os.path.exists(live.control)
    assert not os.path.exists(live.nbd_socket)
    assert "Traceback" not in live.log.read_text(), live.log.read_text()


SIGNALS = pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)


@SIGNALS
def test_idle(how: int, tmp_path: Path) -> None:
    with start(tmp_path) as live:
        ends(live, how)


@SIGNALS
def test_with_idle_clients(how: int, tmp_path: Path) -> None:
    with start(tmp_path) as live, live.guest(), live.guest(), live.qmp(), live.qmp():
        ends(live, how)


@SIGNALS
def test_with_200_held_requests(how: int, tmp_path: Path) -> None:
    with start(tmp_path) as live, contextlib.ExitStack() as stack, live.qmp() as qmp:
        flight = Flight()
        qmp("x-fault-add", node_name="vda", iotype="write", errno="ENOSPC")
        for _ in range(5):
            guest = stack.enter_context(live.guest())
            for n in range(40):
                flight.write(guest, n * BLOCK, b"x" * BLOCK)
            flight.arrived(qmp)
        qmp.wait_event("STOP")
        ends(live, how)
        outcomes = flight.land()
        assert len(outcomes) == 200
        assert set(outcomes) <= {"ESHUTDOWN", "ENOTCONN"}
    assert (tmp_path / "a.img").read_bytes() == b"\1" * 4 * MIB


def test_in_the_middle_of_requests(tmp_path: Path) -> None:
    with start(tmp_path) as live, live.guest() as guest, live.qmp() as qmp:
        flight = Flight()
        for n in range(60):
            flight.write(guest, n * BLOCK, b"x" * BLOCK)
        flight.arrived(qmp)
        qmp("query-status")
        ends(live)
        assert set(flight.land()) <= {"OK", "ESHUTDOWN", "ENOTCONN"}


@pytest.mark.parametrize("way", ["from", "to"])
def test_with_a_copy_at_full_speed(way: str, tmp_path: Path) -> None:
    """Workers are sending when they are told to end."""
    with start(tmp_path, "drive=id=vda,driver=null-co,size=1T,read-zeroes=off") as live:
        ends_of_copy = [live.uri(), "null:"] if way == "from" else ["--", live.uri()]
        source = ["nbdkit", "-U", "-", "pattern", "1T", "--run"]
        copy = ["nbdcopy", *ends_of_copy]
        if way == "to":
            copy = [*source, f"nbdcopy $uri '{live.uri()}'"]
        with subprocess.Popen(
            copy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
        ) as client, live.qmp() as qmp:
            qmp.wait_for(lambda: sum(operations(qmp)) > 100)
            started = time.monotonic()
            assert live.stop() == 0
            assert time.monotonic() - started < LIMIT_S
            os.killpg(client.pid, signal.SIGKILL)
        assert not os.path.exists(live.control) and not os.path.exists(live.nbd_socket)


def operations(qmp: Qmp) -> tuple[int, int]:
    stats = qmp("query-blockstats")[0]["stats"]
    return stats["rd_operations"], stats["wr_operations"]


def test_with_a_client_that_does_not_read_its_replies(tmp_path: Path) -> None:
    """nbdkit's thread is stuck in a send then."""
    with start(tmp_path) as live, live.guest() as guest:
        for n in range(40):
            guest.aio_pread(bytearray(MIB), n % 4 * MIB)
        while guest.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
            guest.aio_notify_write()
        with live.qmp() as qmp:
            qmp.wait_for(lambda: qmp("query-blockstats")[0]["stats"]["rd_operations"] > 1)
        ends(live)


def test_with_a_control_client_that_does_not_read(tmp_path: Path) -> None:
    with start(tmp_path) as live, socket.socket(socket.AF_UNIX) as rude:
        rude.connect(live.control)
        rude.sendall(b'{"execute":"qmp_capabilities"}' + b'{"execute":"query-qmp-schema"}' * 10)
        ends(live)


def test_with_a_client_in_the_middle_of_negotiation(tmp_path: Path) -> None:
    with start(tmp_path) as live, socket.socket(socket.AF_UNIX) as silent:
        silent.connect(live.nbd_socket)
        silent.recv(1)
        ends(live)


def test_with_a_client_in_the_middle_of_a_request(tmp_path: Path) -> None:
    """A write whose data never comes."""
    with start(tmp_path) as live, live.guest() as guest:
        with socket.socket(fileno=os.dup(guest.aio_get_fd())) as raw:
            raw.send(b"\x25\x60\x95\x13" + bytes([0, 0, 0, 1]) + bytes(16) + b"\0\1\0\0" + b"half")
        ends(live)


@SIGNALS
def test_with_throttled_requests(how: int, tmp_path: Path) -> None:
    key = "drive=id=vda,file=a.img,format=raw,throttling.iops-total=1"
    with start(tmp_path, key) as live, live.guest() as guest, live.qmp() as qmp:
        flight = Flight()
        for n in range(30):
            flight.write(guest, n * BLOCK, b"x" * BLOCK)
        flight.arrived(qmp)
        ends(live, how)
        assert set(flight.land()) <= {"OK", "ESHUTDOWN", "ENOTCONN"}


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An NBD server at far.sock that is to be stopped with SIGSTOP."""
    server = subprocess.Popen(
        ["nbdkit", "-f", "-U", str(tmp_path / "far.sock"), "-P", str(tmp_path / "far.pid")]
        + ["memory", "4M"]
    )
    try:
        while not (tmp_path / "far.pid").exists():
            assert server.poll() is None
        yield server
    finally:
        server.send_signal(signal.SIGCONT)
        server.kill()
        server.wait()


FAR = "drive=id=far,driver=nbd,server.type=unix,server.path=far.sock"


@SIGNALS
def test_with_requests_at_a_server_that_hangs(
    how: int, frozen: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    with start(tmp_path, FAR) as live, live.guest() as guest, live.qmp() as qmp:
        freeze(frozen)
        flight = Flight()
        for n in range(30):
            flight.write(guest, n * BLOCK, b"x" * BLOCK)
        while guest.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
            guest.aio_notify_write()
        with live.wire() as other:
            other.command("stop")
            qmp.wait_event("STOP")
            ends(live, how)


def test_while_opening_a_server_that_does_not_answer(
    frozen: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """What opens has threads of its own, and the rest of the machine goes on."""
    with start(tmp_path) as live, contextlib.ExitStack() as stack:
        freeze(frozen)
        for n in range(6):
            client = stack.enter_context(live.wire())
            server = {"type": "unix", "path": str(tmp_path / "far.sock")}
            client.command("blockdev-add", driver="nbd", node_name=f"n{n}", server=server)
        with live.qmp() as qmp, live.guest() as guest:
            assert qmp("query-status")["running"]
            assert guest.pread(BLOCK, 0) == b"\1" * BLOCK
        ends(live)


def test_during_block_resize_and_stop(tmp_path: Path) -> None:
    """Commands that wait for requests in flight."""
    key = "drive=id=vda,driver=null-co,size=1048576,latency-ns=60000000000"
    with start(tmp_path, key) as live, live.guest() as guest, live.qmp() as qmp:
        flight = Flight()
        flight.write(guest, 0, b"x" * BLOCK)
        flight.arrived(qmp)
        with live.wire() as one, live.wire() as two:
            two.command("block_resize", device="vda", size=512)
            one.command("stop")
            qmp.wait_event("STOP")
            ends(live)


def test_signal_upon_signal(tmp_path: Path) -> None:
    with start(tmp_path) as live, live.guest() as guest, live.qmp() as qmp:
        qmp("stop")
        flight = Flight()
        for n in range(40):
            flight.write(guest, n * BLOCK, b"x" * BLOCK)
        flight.arrived(qmp)
        for _ in range(10):
            with contextlib.suppress(ProcessLookupError):
                live.process.send_signal(signal.SIGTERM)
        ends(live)


def test_signal_behind_quit(tmp_path: Path) -> None:
    with start(tmp_path) as live, live.qmp() as qmp, live.wire() as other:
        other.command("quit")
        qmp.wait_event("SHUTDOWN")
        ends(live)


def test_signal_with_clients_coming_and_going(tmp_path: Path) -> None:
    over = threading.Event()

    def visit(live: Live) -> None:
        while not over.is_set():
            with contextlib.suppress(nbd.Error, FaultlineError):
                with live.guest() as guest:
                    guest.pread(BLOCK, 0)
                with live.qmp() as qmp:
                    qmp("query-block")

    for _ in range(3):
        with start(tmp_path) as live:
            visitors = [threading.Thread(target=visit, args=(live,)) for _ in range(4)]
            for visitor in visitors:
                visitor.start()
            with live.qmp() as qmp:
                done = qmp("query-blockstats")[0]["stats"]["rd_operations"]
                qmp.wait_for(
                    lambda: qmp("query-blockstats")[0]["stats"]["rd_operations"] > done + 20
                )
            ends(live)
            over.set()
            for visitor in visitors:
                visitor.join()
            over.clear()


def test_killed_server_leaves_sockets_that_the_next_replaces(tmp_path: Path) -> None:
    with start(tmp_path) as live:
        assert live.stop(signal.SIGKILL) == -signal.SIGKILL
        assert os.path.exists(live.control) and os.path.exists(live.nbd_socket)
    with start(tmp_path) as live, live.qmp() as qmp, live.guest() as guest:
        assert qmp("query-status")["running"]
        assert guest.pread(BLOCK, 0) == b"\1" * BLOCK
        ends(live)


@SIGNALS
def test_with_jobs(how: int, tmp_path: Path) -> None:
    """One that runs slowly, one that an error has stopped, one that nobody has dismissed."""
    keys = [f"drive=id={n},file={n}.img,format=raw,rerror=stop,werror=stop" for n in "abc"]
    for name in "bc":
        make_image(tmp_path / f"{name}.img", 4 * MIB, pattern=2)
    with start(tmp_path, *keys) as live, live.qmp() as qmp:
        for name in "abc":
            size = 4 * MIB
            qmp("blockdev-add", driver="null-co", node_name=f"to-{name}", size=size)
        qmp("x-fault-add", node_name="to-b", iotype="write", errno="EIO")
        qmp("blockdev-mirror", device="a", target="to-a", sync="full", speed=1, buf_size=65536)
        qmp("blockdev-backup", device="b", target="to-b", sync="full", on_target_error="stop")
        qmp("blockdev-backup", device="c", target="to-c", sync="full", auto_dismiss=False)
        qmp.wait_for(
            lambda: {job["status"] for job in qmp("query-jobs")}
            == {"running", "paused", "concluded"}
        )
        qmp.take_events()
        ends(live, how)
        events = list(qmp.until_the_end())
        names = [event.name for event in events]
        assert names[0] == "SHUTDOWN" and names.count("BLOCK_JOB_CANCELLED") == 2
        ended = [event["id"] for event in events if event.get("status") == "null"]
        assert sorted(ended) == ["a", "b", "c"]


@SIGNALS
def test_with_a_mirror_to_a_server_that_hangs(how: int, tmp_path: Path) -> None:
    """Not even the farewell to the server may take for ever."""
    (tmp_path / "target").mkdir()
    make_image(tmp_path / "target/t.img", 4 * MIB)
    drive = "drive=id=vda,file=t.img,format=raw"
    with Live(tmp_path / "target", drive) as target, start(tmp_path) as live, live.qmp() as qmp:
        qmp(
            "drive-mirror",
            **{"device": "vda", "target": target.uri("vda"), "sync": "full", "mode": "existing"},
            **{"format": "raw", "job_id": "m", "speed": 1},
        )
        qmp.wait_for(lambda: qmp("query-jobs")[0]["current-progress"], "query-jobs")
        freeze(target.process)
        try:
            qmp("block-job-set-speed", device="m", speed=0)
            ends(live, how)
        finally:
            os.kill(target.pid, signal.SIGCONT)
        assert "stuck" not in live.log.read_text()
