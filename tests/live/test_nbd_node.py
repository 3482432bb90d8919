# SPDX-License-Identifier: MIT
"""The nbd driver: a drive whose data is on another server, which can fail or go."""

from __future__ import annotations

import contextlib
import errno
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest

from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.drivers.nbd import NbdNode
from blockcore.nodes.drivers.nbd_server import NbdServer
from faultline import CommandError
from live import TIMEOUT_S, Flight, Live, freeze, make_image
from nbd_servers import killed, nbdkit, silent
from sim import Sim, new_machine

MIB = 1 << 20
BLOCK = 4096


def near(far: str, **options: str) -> str:
    """A drive on the server at the socket `far`."""
    more = "".join(f",{name.replace('_', '-')}={value}" for name, value in options.items())
    return f"drive=id=near,driver=nbd,server.type=unix,server.path={far}{more}"


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Live]:
    """A second machine, whose faults are to arrive at the first."""
    directory = tmp_path / "far"
    directory.mkdir()
    make_image(directory / "d.img", MIB, pattern=6)
    drive = "drive=id=far,file=d.img,format=raw,discard=unmap,rerror=report,werror=report"
    with Live(directory, drive) as live:
        yield live


def test_requests_go_through(far: Live, tmp_path: Path) -> None:
    with Live(tmp_path, near(far.nbd_socket, discard="unmap")) as live, live.guest() as guest:
        assert guest.get_size() == MIB
        assert guest.pread(BLOCK, 0) == b"\6" * BLOCK
        guest.pwrite(b"w" * BLOCK, BLOCK)
        guest.zero(BLOCK, 2 * BLOCK)
        guest.trim(BLOCK, 4 * BLOCK)
        guest.flush()
        want = b"\6" * BLOCK + b"w" * BLOCK + bytes(BLOCK) + b"\6" * BLOCK + bytes(BLOCK)
        assert guest.pread(5 * BLOCK, 0) == want
    assert (far.directory / "d.img").read_bytes()[: 5 * BLOCK] == want


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO", "EPERM", "ENOMEM"])
def test_a_fault_on_the_far_side_keeps_its_errno(fault: str, far: Live, tmp_path: Path) -> None:
    with (
        far.qmp() as there,
        Live(tmp_path, near(far.nbd_socket, werror="report")) as live,
        live.qmp() as here,
        live.guest() as guest,
    ):
        there("x-fault-add", node_name="far", iotype="write", errno=fault, count=1)
        with pytest.raises(nbd.Error) as caught:
            guest.pwrite(b"x" * BLOCK, 0)
        assert caught.value.errno == fault
        reasons = [
            client.wait_event("BLOCK_IO_ERROR")["reason"] for client in (there, here)
        ]
        assert reasons[0] == reasons[1]


def test_the_policy_here_holds_what_fails_there(far: Live, tmp_path: Path) -> None:
    with (
        far.qmp() as there,
        Live(tmp_path, near(far.nbd_socket)) as live,
        live.qmp() as here,
        live.guest() as guest,
    ):
        fault = there("x-fault-add", node_name="far", iotype="write", errno="ENOSPC")["id"]
        flight = Flight()
        write = flight.write(guest, 0, b"h" * BLOCK)
        flight.poll(0)
        here.wait_event("STOP")
        assert here("query-block")[0]["io-status"] == "nospace"
        assert there("query-status")["running"], "there it was only reported"
        there("x-fault-remove", id=fault)
        here("cont")
        assert flight.land(write) == ["OK"]
        assert guest.pread(BLOCK, 0) == b"h" * BLOCK


def test_a_lost_server_is_eio(tmp_path: Path) -> None:
    server = nbdkit(tmp_path, "memory", "1M")
    keys = near(str(tmp_path / "kit.sock"), rerror="report", werror="report")
    with killed(server), Live(tmp_path, keys) as live, live.qmp() as qmp, live.guest() as guest:
        guest.pwrite(b"x" * BLOCK, 0)
        server.kill()
        server.wait(TIMEOUT_S)
        for _ in range(3):
            with pytest.raises(nbd.Error) as caught:
                guest.pread(BLOCK, 0)
            assert caught.value.errno == "EIO"
        assert qmp.wait_event("BLOCK_IO_ERROR")["reason"] == "Input/output error"
        with killed(nbdkit(tmp_path, "memory", "1M")):
            qmp("x-drive-set-policy", device="near", rerror="stop")
            qmp.take_events()
            flight = Flight()
            read = flight.read(guest, 0, BLOCK)
            while read.outcome is None:
                flight.poll(0)
                qmp("cont")
            assert read.data == bytes(BLOCK), "it is used again"


def test_a_server_that_came_back_fails_nothing(tmp_path: Path) -> None:
    server = nbdkit(tmp_path, "memory", "1M")
    keys = near(str(tmp_path / "kit.sock"), rerror="report")
    with killed(server), Live(tmp_path, keys) as live, live.guest() as guest:
        for _ in range(4):
            guest.pread(BLOCK, 0)
        server.kill()
        server.wait(TIMEOUT_S)
        with pytest.raises(nbd.Error):
            guest.pread(BLOCK, 0)
        with killed(nbdkit(tmp_path, "memory", "1M")):
            guest.pread(BLOCK, 0)


def test_reconnect_delay(tmp_path: Path) -> None:
    """Requests wait for the server to come back, and are sent again."""
    server = nbdkit(tmp_path, "memory", "1M")
    keys = near(str(tmp_path / "kit.sock"), reconnect_delay="60", rerror="report")
    with killed(server), Live(tmp_path, keys) as live, live.qmp() as qmp, live.guest() as guest:
        guest.pread(BLOCK, 0)
        server.kill()
        server.wait(TIMEOUT_S)
        flight = Flight()
        reads = [flight.read(guest, n * BLOCK, BLOCK) for n in range(8)]
        flight.poll(0)
        qmp("query-status")
        with killed(nbdkit(tmp_path, "memory", "1M")):
            assert flight.land(*reads) == ["OK"] * 8
        assert qmp.take_events() == []


def test_a_server_that_hangs_holds_nobody_else(tmp_path: Path) -> None:
    make_image(tmp_path / "d.img", MIB, pattern=8)
    server = nbdkit(tmp_path, "memory", "1M")
    local = "drive=id=local,file=d.img,format=raw"
    keys = near(str(tmp_path / "kit.sock"))
    with killed(server), Live(tmp_path, keys, local) as live, live.qmp() as qmp:
        with live.guest("near") as stuck, live.guest("local") as guest:
            freeze(server)
            flight = Flight()
            reads = [flight.read(stuck, n * BLOCK, BLOCK) for n in range(10)]
            flight.poll(0)
            for n in range(50):
                assert guest.pread(BLOCK, n * BLOCK) == b"\10" * BLOCK
            assert qmp("query-status")["running"]
            server.send_signal(signal.SIGCONT)
            assert flight.land(*reads) == ["OK"] * 10


def test_a_server_that_never_greets_is_given_up(tmp_path: Path) -> None:
    """In time, and others do not wait for that: as many as may be opened at once are."""
    make_image(tmp_path / "d.img", MIB)
    with (
        silent(tmp_path / "mute.sock"),
        Live(tmp_path, "drive=id=d,driver=null-co") as live,
        contextlib.ExitStack() as stack,
    ):
        server = {"type": "unix", "path": "mute.sock"}
        waiting = [stack.enter_context(live.wire()) for _ in range(6)]
        for number, client in enumerate(waiting):
            options: dict[str, Any] = {"driver": "nbd", "node-name": f"n{number}"}
            client.command("blockdev-add", server=server, open_timeout=1, **options)
        for client in waiting:
            said = client.receive()["error"]["desc"]
            assert said == "Failed to connect to 'mute.sock': Connection timed out"


def test_a_server_that_never_greets_does_not_outlive_the_process(tmp_path: Path) -> None:
    with silent(tmp_path / "mute.sock"), Live(tmp_path, "drive=driver=null-co") as live:
        with live.wire() as stuck:
            server = {"type": "unix", "path": "mute.sock"}
            options: dict[str, Any] = {"driver": "nbd", "node-name": "n", "server": server}
            stuck.command("blockdev-add", open_timeout=4000, **options)
            with live.qmp() as other:
                other("query-status")
            begin = time.monotonic()
            assert live.stop() == 0
            assert time.monotonic() - begin < 10


def test_what_waits_for_one_server_keeps_no_other_from_its_files(tmp_path: Path) -> None:
    """A mirror has more under way than there are threads for everybody."""
    make_image(tmp_path / "d.img", 16 * MIB, pattern=1)
    server = nbdkit(tmp_path, "memory", "16M")
    target = {"driver": "nbd", "node-name": "far", "server": {"type": "unix", "path": "kit.sock"}}
    file = {"driver": "file", "node-name": "f", "filename": "d.img"}
    with (
        killed(server),
        Live(tmp_path, "drive=id=d,file=d.img,format=raw") as live,
        live.qmp() as qmp,
        live.guest() as guest,
    ):
        qmp("blockdev-add", **target)
        freeze(server)
        qmp("blockdev-mirror", job_id="j", device="d", target="far", sync="full")
        for _ in range(3):
            qmp.execute("blockdev-add", file)
            qmp("blockdev-del", node_name="f")
            assert guest.pread(BLOCK, 0) == b"\1" * BLOCK
        server.send_signal(signal.SIGCONT)
        qmp.wait_event("BLOCK_JOB_READY")


def test_no_server(tmp_path: Path) -> None:
    with Live(tmp_path, "drive=id=d,driver=null-co") as live, live.qmp() as qmp:
        server = {"type": "unix", "path": str(tmp_path / "nobody")}
        arguments = {"driver": "nbd", "node-name": "n", "server": server}
        refused = "Failed to connect to .*: No such file or directory"
        with pytest.raises(CommandError, match=refused):
            qmp.execute("blockdev-add", arguments)
        assert [n["node-name"] for n in qmp("query-named-block-nodes")] != ["n"]


def test_no_such_export(far: Live, tmp_path: Path) -> None:
    with Live(tmp_path, "drive=id=d,driver=null-co") as live, live.qmp() as qmp:
        server = {"type": "unix", "path": far.nbd_socket}
        arguments = {"driver": "nbd", "node-name": "n", "server": server, "export": "nope"}
        with pytest.raises(CommandError, match="Requested export not available"):
            qmp.execute("blockdev-add", arguments)


def test_server_that_is_read_only(tmp_path: Path) -> None:
    """As QEMU has it: with auto-read-only a node can be there, and nobody can write to it."""
    make_image(tmp_path / "d.img", MIB)
    server = nbdkit(tmp_path, "-r", "file", str(tmp_path / "d.img"))
    options = {
        "driver": "nbd",
        "node-name": "n",
        "server": {"type": "unix", "path": "kit.sock"},
    }
    top = {"driver": "qcow2", "node-name": "q", "file": "n"}
    with killed(server), Live(tmp_path, "drive=driver=null-co") as live, live.qmp() as qmp:
        with pytest.raises(CommandError, match="Could not open image: Permission denied"):
            qmp("blockdev-add", **options)
        qmp("blockdev-add", **options, **{"auto-read-only": True})
        (node,) = (n for n in qmp("query-named-block-nodes") if n["node-name"] == "n")
        assert node["ro"]
        with pytest.raises(CommandError, match="Block node is read-only"):
            qmp("blockdev-add", **top)


def test_a_request_of_a_node_that_was_closed_meanwhile(tmp_path: Path) -> None:
    """It was in its lane when the process began to end: an error of I/O, and no bug."""
    machine = new_machine(Sim(0))
    node = NbdNode(NodeOptions(node_name="n"), machine, NbdServer(path="none", shown="none"))
    lost = nbd.NBD()
    with pytest.raises(nbd.Error):
        lost.connect_unix(str(tmp_path / "none"))
    node._free.put(lost)
    with pytest.raises(OSError) as caught:
        node._request(lambda handle: handle.flush())
    assert caught.value.errno == errno.EIO
