# SPDX-License-Identifier: MIT
"""Of clients, guests and servers nothing is left to Python's collector, whatever became of them.

The machine is a real one without that collector; in the end it tells what only
that one would have freed.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nbd
import pytest

from faultline import CommandError
from live import TIMEOUT_S, Flight, Live, Qmp, freeze, make_image
from nbd_servers import nbdkit
from watched import Watched
from wire import Wire

BLOCK = 4096
MIB = 1 << 20
ROUNDS = 3

ASYNCIO = {
    *("asyncio.selector_events._SelectorSocketTransport", "asyncio.trsock.TransportSocket"),
    *("socket.socket", "builtins.dict", "builtins.method", "collections.deque"),
}
"""A transport has a method of its own (_read_ready_cb) as long as it is there; by itself then."""

WRONG: list[bytes] = [
    *(b"}", b'{"execute":1}', b'{"execute":"none"}', b'{"x":1}', b"[1", b'"\xff"', b"1e999"),
    b'{"execute":"query-block","arguments":{"x":1}}',
    b'{"execute":"block_resize","arguments":{"device":"none","size":1}}',
    b'{"execute":"transaction","arguments":{"actions":[{"type":"abort","data":{}}]}}',
    b'{"execute":"qmp_capabilities"}',
    b'{"exec-oob":"query-block"}',
]


class World:
    """A watched machine with one drive, its main client, and what a load may need besides."""

    def __init__(self, live: Watched, qmp: Qmp) -> None:
        self.live = live
        self.qmp = qmp
        self.directory = live.directory

    def refused(self, command: str, **arguments: Any) -> None:
        with pytest.raises(CommandError):
            self.qmp(command, **arguments)

    def add_nbd(self, path: Path | str, **more: Any) -> None:
        server = {"type": "unix", "path": str(path)}
        self.qmp("blockdev-add", node_name="n", driver="nbd", server=server, **more)

    def copy(self, source: str, target: str) -> None:
        """A job that reads from one and writes to the other, however it ends."""
        self.qmp("blockdev-backup", job_id="j", device=source, target=target, sync="full")
        self.end_of_job()

    def end_of_job(self) -> None:
        self.qmp.wait_event("JOB_STATUS_CHANGE", status="null")


def right_commands(world: World) -> None:
    with world.live.qmp() as qmp:
        for name in ("query-block", "query-qmp-schema", "query-named-block-nodes", "query-jobs"):
            qmp(name)
        qmp("stop")
        qmp("cont")
        qmp("block_resize", device="vda", size=MIB)


def wrong_commands(world: World) -> None:
    for wanted in ({}, {"enable": ["oob"]}):
        with Wire.connect(world.live.control) as wire:
            wire.command("qmp_capabilities", **wanted)
            assert [next(iter(wire.receive())) for _ in range(2)] == ["QMP", "return"]
            for command in WRONG:
                wire.send(command + b"\xff")
                while "error" not in wire.receive():
                    pass


def clients_that_go(world: World) -> None:
    """Before they say anything, in the middle of a command, with many, and without reading."""
    with Wire.connect(world.live.control) as wire:
        wire.receive()
    for sent in (b'{"execute":"que', b"[" * 100, b'{"execute":"stop"}{"execute":"cont"}' * 20):
        with world.live.wire() as wire:
            wire.send(sent)
    for how in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
        with world.live.wire() as wire:
            wire.send(b'{"execute":"query-qmp-schema"}' * 20)
            wire.receive()
            wire.socket.shutdown(how)


def a_client_that_goes_while_its_command_waits(world: World) -> None:
    path = world.directory / "silent"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        silent.settimeout(TIMEOUT_S)
        server = {"type": "unix", "path": str(path)}
        with world.live.wire() as wire:
            wire.command("blockdev-add", node_name="s", driver="nbd", server=server)
            connection, _ = silent.accept()
        world.qmp("query-status")
        connection.close()
    # Its command ends some time after that, and has the node's name until then.
    world.qmp.wait_for(lambda: "Duplicate nodes" not in why_not(world, server))


def why_not(world: World, server: dict[str, str]) -> str:
    """Why a node of a server that is not there cannot be added."""
    with pytest.raises(CommandError) as refused:
        world.qmp("blockdev-add", node_name="s", driver="nbd", server={**server, "path": "none"})
    return str(refused.value)


def a_client_that_does_not_read(world: World) -> None:
    """It is hung up on."""
    with world.live.wire() as other:
        while True:
            world.qmp("stop")
            world.qmp("cont")
            world.qmp.take_events()
            if "does not read" in world.live.log.read_text():
                break
        with contextlib.suppress(EOFError, ConnectionError):
            while other.receive():
                pass
    world.live.log.write_text("")


def refused_commands(world: World) -> None:
    """What they have begun is undone."""
    raw = {"driver": "file", "filename": "a.img"}
    nodes: list[dict[str, Any]] = [
        {"driver": "file", "filename": "none"},
        {"driver": "raw", "file": "none"},
        {"driver": "qcow2", "file": raw},
        {"driver": "raw", "file": raw, "offset": 2 * MIB},
        {"driver": "qcow2", "file": {"driver": "raw", "file": raw}},
    ]
    for node in nodes:
        world.refused("blockdev-add", node_name="x", **node)
    for job in ("drive-mirror", "drive-backup"):
        world.refused(job, device="vda", target="/none/x", sync="full")
    world.refused("block-stream", device="none")
    world.refused("block-commit", device="vda", top="none")
    world.refused("blockdev-snapshot-sync", device="vda", snapshot_file="/none/x")
    world.refused("blockdev-reopen", options=[{"driver": "raw", "node-name": "none"}])


def guests(world: World) -> None:
    with contextlib.suppress(nbd.Error), world.live.guest("none"):
        raise AssertionError("there is no such drive")
    with world.live.guest() as guest:
        for request in of_each_kind(guest):
            request()


def guests_whose_requests_fail(world: World) -> None:
    world.qmp("x-drive-set-policy", device="vda", rerror="report", werror="report")
    world.qmp("x-fault-add", node_name="vda", errno="EIO", id="f")
    with world.live.guest() as guest:
        for request in of_each_kind(guest):
            with contextlib.suppress(nbd.Error):
                request()
    world.qmp("x-fault-remove", id="f")
    world.qmp("x-drive-set-policy", device="vda", rerror="stop", werror="stop")


def of_each_kind(guest: nbd.NBD) -> Iterable[Callable[[], object]]:
    return [
        lambda: guest.pwrite(b"x" * BLOCK, 0),
        lambda: guest.pwrite(b"x" * BLOCK, 0, nbd.CMD_FLAG_FUA),
        lambda: guest.pread(BLOCK, 0),
        lambda: guest.zero(BLOCK, 0),
        lambda: guest.trim(BLOCK, 0),
        lambda: guest.cache(BLOCK, 0),
        lambda: guest.block_status(BLOCK, 0, lambda *_: 0),
        lambda: guest.flush(),
    ]


def guests_whose_requests_are_held(world: World) -> None:
    """And go on, are dropped by a reset, or by themselves."""
    qmp = world.qmp
    for how in ("cont", "system_reset", "gone"):
        qmp("x-fault-add", node_name="vda", errno="EIO", count=1, id="f")
        guest = nbd.NBD()
        guest.connect_uri(world.live.uri())
        flight = Flight()
        flight.write(guest, 0, b"x" * BLOCK)
        flight.read(guest, 0, BLOCK)
        flight.poll(0)
        qmp.wait_event("STOP")
        flight.arrived(qmp)
        if how == "gone":
            flight.pending.clear()
            del guest
            qmp.wait_for(lambda: not qmp("x-query-requests"))
        else:
            qmp(how)
            flight.land()
            guest.shutdown()
        with contextlib.suppress(CommandError):
            qmp("x-fault-remove", id="f")
        qmp("cont")


def servers(world: World) -> None:
    """That are used, and fail; one is not there, another has no such export."""
    far = world.directory / "far"
    far.mkdir(exist_ok=True)
    make_image(far / "d.img", MIB)
    drive = "drive=id=far,file=d.img,format=raw,discard=unmap,rerror=report,werror=report"
    world.refused("blockdev-add", **{"node_name": "n", "driver": "nbd"}, server=unix(far / "none"))
    with Live(far, drive) as live, live.qmp() as there:
        path = live.nbd_socket
        world.refused(
            "blockdev-add", **{"node_name": "n", "driver": "nbd", "export": "x"}, server=unix(path)
        )
        world.add_nbd(path)
        for error in (False, True):
            if error:
                there("x-fault-add", node_name="far", errno="ENOSPC")
            world.copy("n", "t")
            world.copy("t", "n")
        world.qmp("blockdev-del", node_name="n")


def unix(path: Path | str) -> dict[str, str]:
    return {"type": "unix", "path": str(path)}


def servers_that_go(world: World) -> None:
    """And come back, and go while something waits for them."""
    path = world.directory / "kit.sock"
    server = nbdkit(world.directory, "memory", "1M")
    world.add_nbd(path)
    world.copy("t", "n")
    server.kill()
    server.wait(TIMEOUT_S)
    world.copy("n", "t")
    server = nbdkit(world.directory, "memory", "1M")
    world.copy("t", "n")
    reopened = {"driver": "nbd", "node-name": "n", "server": unix(path), "read-only": True}
    world.qmp("blockdev-reopen", options=[reopened])
    freeze(server)
    world.qmp("blockdev-mirror", job_id="j", device="n", target="t", sync="full")
    world.qmp("job-cancel", id="j")
    server.kill()
    server.wait(TIMEOUT_S)
    world.end_of_job()
    world.qmp("blockdev-del", node_name="n")


LOADS: list[Callable[[World], None]] = [
    *(right_commands, wrong_commands, clients_that_go, a_client_that_goes_while_its_command_waits),
    *(a_client_that_does_not_read, refused_commands),
    *(guests, guests_whose_requests_fail, guests_whose_requests_are_held),
    *(servers, servers_that_go),
]


@pytest.mark.parametrize("load", LOADS, ids=[load.__name__ for load in LOADS])
def test_nothing_is_left(load: Callable[[World], None], tmp_path: Path) -> None:
    make_image(tmp_path / "a.img", MIB)
    live = Watched(tmp_path, "drive=id=vda,file=a.img,format=raw,rerror=stop,werror=stop")
    with live:
        with live.qmp() as qmp:
            qmp("blockdev-add", node_name="t", driver="null-co", size=MIB)
            world = World(live, qmp)
            for _ in range(ROUNDS):
                load(world)
                qmp.take_events()
        found = live.garbage()
    assert {kind: found[kind] for kind in found if kind not in ASYNCIO} == {}
