# SPDX-License-Identifier: MIT
"""The commands, called through the table as the control socket calls them."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from blockcore.commands.table import table
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.specific import ImageInfoSpecific
from blockcore.qapi.events import Event
from blockcore.qapi.introspect import schema_info
from blockcore.qapi.names import BlockDeviceIoStatus, QmpError, RunState
from blockcore.qapi.qemu import RELEASES
from blockcore.qapi.types import Struct
from schema_compare import arguments_differ, results_differ
from sim import MemoryNode, Sim, add_drive, execute, new_machine
from tree import RECORDINGS

SIZE = 64 << 10

LIMITS = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)


class Setup:
    """A machine with the drive vda on the node disk, and the node free of the monitor's."""

    def __init__(self, *, prelaunch: bool = False) -> None:
        self.sim = Sim(1)
        self.sim.be_orderly()
        self.machine = new_machine(self.sim, prelaunch=prelaunch)
        self.fails = 0
        self.disk = MemoryNode(NodeOptions(node_name="disk"), self.machine, SIZE, self.on_io)
        self.blk = add_drive(self.machine, self.disk, "vda", "stop", "enospc")
        self.events: list[str] = []
        self.machine.listeners.append(self.event)
        self.command("blockdev-add", driver="null-co", node_name="free", size=SIZE)

    def on_io(self, what: str) -> None:
        if self.fails:
            raise OSError(self.fails, "injected")

    def event(self, event: Event, now_ns: int) -> None:
        self.events.append(event.NAME)

    def command(self, name: str, **arguments: Any) -> Any:
        """The reply, or QmpError raised, as soon as there is one."""
        reply: list[Any] = []

        async def client() -> None:
            try:
                reply.append(await execute(self.machine, name, **arguments))
            except QmpError as exc:
                reply.append(exc)

        self.sim.start(name, client())
        self.sim.run()
        assert reply, "no reply"
        if isinstance(reply[0], QmpError):
            raise reply[0]
        return reply[0]

    def write(self, offset: int = 0, nbytes: int = 512) -> None:
        async def guest() -> None:
            await self.blk.pwrite(offset, memoryview(bytes(nbytes)))

        self.sim.start("guest", guest())
        self.sim.run()


@pytest.fixture(name="world")
def _world() -> Setup:
    return Setup()


def drive(reply: Any, name: str = "vda") -> Any:
    """The entry of a drive in the reply of query-block or query-blockstats."""
    (entry,) = (entry for entry in reply if entry["device"] == name)
    return entry


# Run state.


@pytest.mark.parametrize("state", RunState)
def test_query_status(world: Setup, state: RunState) -> None:
    world.machine.vm.state = state
    running = state is RunState.RUNNING
    wanted = {"running": running, "status": str(state)}
    assert world.command("query-status") == wanted
    world.machine.qemu = RELEASES["7.2"]
    assert world.command("query-status") == wanted | {"singlestep": False}


def test_stop_and_cont(world: Setup) -> None:
    for command, status in (("stop", "paused"), ("stop", "paused"), ("cont", "running")):
        assert world.command(command) is None
        assert world.command("query-status")["status"] == status
    assert world.command("cont") is None
    assert world.events == ["STOP", "RESUME"]


def test_system_reset_while_stopped(world: Setup) -> None:
    world.command("stop")
    assert world.command("system_reset") is None
    assert world.command("query-status")["status"] == "prelaunch"
    assert world.events == ["STOP", "RESET"]


def test_quit(world: Setup) -> None:
    assert world.command("quit") is None
    assert world.machine.quit_requested and world.events == ["SHUTDOWN"]
    with pytest.raises(QmpError, match="^Resetting the Virtual Machine is required$"):
        world.command("cont")


def test_the_rest_of_the_machine(world: Setup) -> None:
    assert world.command("query-name") == {}
    world.machine.name = "m0"
    assert world.command("query-name") == {"name": "m0"}
    assert world.command("query-iothreads") == []
    assert world.command("query-jobs") == world.command("query-block-jobs") == []
    assert world.command("set-action", reboot="shutdown", panic="exit-failure") is None
    version = world.command("query-version")
    assert version["qemu"] == {"major": 10, "minor": 0, "micro": 13}


# Drives and nodes.


def test_query_block(world: Setup) -> None:
    entry = drive(world.command("query-block"))
    assert entry["qdev"] == "/machine/peripheral/vda/virtio-backend"
    assert entry["io-status"] == "ok"
    assert (entry["type"], entry["removable"], entry["locked"]) == ("unknown", False, False)
    inserted = entry["inserted"]
    assert inserted["image"]["virtual-size"] == SIZE
    assert inserted["cache"] == {"writeback": True, "direct": False, "no-flush": False}
    wanted = {"node-name": "disk", "drv": "memory", "ro": False, "encrypted": False}
    zeroes = dict.fromkeys((*LIMITS, "backing_file_depth", "write_threshold"), 0)
    assert {**wanted, **zeroes, "detect_zeroes": "off"}.items() <= inserted.items()
    assert not {"group", "iops_size", "bps_max", "bps_max_length"} & set(inserted)


@pytest.mark.parametrize(
    ("rerror", "werror", "shown"),
    [
        ("report", "report", False),
        ("ignore", "ignore", False),
        ("stop", "report", True),
        ("report", "stop", True),
        ("report", "enospc", True),
    ],
)
def test_io_status_is_shown_while_it_is_kept(
    world: Setup, rerror: str, werror: str, shown: bool
) -> None:
    world.command("x-drive-set-policy", device="vda", rerror=rerror, werror=werror)
    assert ("io-status" in drive(world.command("query-block"))) == shown


def test_drives_are_listed_as_they_were_made(world: Setup) -> None:
    """Anonymous ones have the empty name."""
    for name in ("vdb", ""):
        node = MemoryNode(NodeOptions(node_name=f"n{name}"), world.machine, SIZE)
        add_drive(world.machine, node, name)
    assert [entry["device"] for entry in world.command("query-block")] == ["vda", "vdb", ""]
    assert [entry["device"] for entry in world.command("query-blockstats")] == ["vda", "vdb", ""]


def test_query_named_block_nodes(world: Setup) -> None:
    """Limits belong to the drive, and are not shown here (semantics 5.6)."""
    world.command("block_set_io_throttle", device="vda", **{**LIMITS, "iops": 10})
    for arguments in ({}, {"flat": True}, {"flat": False}):
        nodes = world.command("query-named-block-nodes", **arguments)
        assert {node["node-name"] for node in nodes} == {"disk", "free"}
        assert all(node["iops"] == 0 and "group" not in node for node in nodes)


def test_nodes_may_come_and_go_while_they_are_listed(world: Setup, tmp_path: Path) -> None:
    """Asking the host for a file's size takes time, and others do not wait."""
    (tmp_path / "f").write_bytes(bytes(SIZE))
    for name in ("a", "b"):
        filename = str(tmp_path / "f")
        world.command("blockdev-add", driver="file", node_name=name, filename=filename)
    replies = []

    async def client(command: str, **arguments: Any) -> None:
        replies.append(await execute(world.machine, command, **arguments))

    world.sim.start("query", client("query-named-block-nodes"))
    world.sim.start("add", client("blockdev-add", driver="null-co", node_name="new"))
    for name in ("a", "b", "free"):
        world.sim.start(f"del {name}", client("blockdev-del", node_name=name))
    world.sim.run()
    assert len(replies) == 5


def test_query_blockstats(world: Setup) -> None:
    """Recorded: misc-block-commands. Nodes have but their highest offset."""
    world.write(4096, 1024)
    entry = drive(world.command("query-blockstats"))
    assert entry["node-name"] == "disk"
    stats = entry["stats"]
    assert (stats["wr_operations"], stats["wr_bytes"]) == (1, 1024)
    assert stats["wr_highest_offset"] == 5120
    assert stats["account_invalid"] is stats["account_failed"] is True
    assert stats["timed_stats"] == []
    assert "idle_time_ns" in stats
    nodes = world.command("query-blockstats", query_nodes=True)
    by_name = {node["node-name"]: node for node in nodes}
    assert set(by_name) == {"disk", "free"} and "device" not in by_name["disk"]
    counted = {name for name, value in by_name["disk"]["stats"].items() if value}
    assert counted == {"wr_highest_offset"}


def test_idle_time_begins_with_the_first_request(world: Setup) -> None:
    assert "idle_time_ns" not in drive(world.command("query-blockstats"))["stats"]
    world.write()
    world.sim.now_ns += 500
    assert drive(world.command("query-blockstats"))["stats"]["idle_time_ns"] == 500


def test_failed_and_invalid_requests_are_counted(world: Setup) -> None:
    world.command("x-drive-set-policy", device="vda", rerror="report", werror="report")
    world.fails = errno.EIO
    for request in (
        world.blk.pread(0, memoryview(bytearray(1))),
        world.blk.pread(SIZE, memoryview(bytearray(1))),
        world.blk.pwrite(SIZE, memoryview(b"a")),
    ):
        world.sim.start("guest", _failing(request))
        world.sim.run()
    stats = drive(world.command("query-blockstats"))["stats"]
    counted = {name for name, value in stats.items() if value and name.endswith("_operations")}
    assert counted == {
        "failed_rd_operations",
        "invalid_rd_operations",
        "invalid_wr_operations",
    }


async def _failing(request: Any) -> None:
    with pytest.raises(OSError):
        await request


# Changing them.


def test_block_resize(world: Setup) -> None:
    assert world.command("block_resize", device="vda", size=2 * SIZE) is None
    assert drive(world.command("query-block"))["inserted"]["image"]["virtual-size"] == 2 * SIZE
    assert world.command("block_resize", node_name="disk", size=0) is None
    assert world.blk.size == 0
    world.blk.iostatus = BlockDeviceIoStatus.FAILED
    world.command("block_resize", node_name="disk", size=SIZE)
    assert drive(world.command("query-block"))["io-status"] == "failed"
    assert world.blk.may_run() and not world.events


def test_block_resize_that_fails(world: Setup) -> None:
    """The drive goes on."""
    world.fails = errno.ENOSPC
    with pytest.raises(QmpError, match="^Could not resize file: No space left on device$"):
        world.command("block_resize", device="vda", size=2 * SIZE)
    assert world.blk.size == SIZE and world.blk.may_run() and not world.events


def test_block_resize_while_requests_are_held(world: Setup) -> None:
    world.fails = errno.ENOSPC
    world.write()
    world.fails = 0
    world.command("block_resize", device="vda", size=2 * SIZE)
    world.command("cont")
    assert "guest" not in world.sim.running


def test_write_threshold(world: Setup) -> None:
    world.command("block-set-write-threshold", node_name="disk", write_threshold=1024)
    inserted = drive(world.command("query-block"))["inserted"]
    assert inserted["write_threshold"] == 1024
    world.write(0, 1024)
    assert not world.events
    world.write(512, 1024)
    assert world.events == ["BLOCK_WRITE_THRESHOLD"]
    assert drive(world.command("query-block"))["inserted"]["write_threshold"] == 0
    world.command("block-set-write-threshold", node_name="disk", write_threshold=(1 << 64) - 1)
    assert drive(world.command("query-block"))["inserted"]["write_threshold"] == -1


def test_throttle(world: Setup) -> None:
    """Recorded: misc-block-commands."""
    limits = {**LIMITS, "bps": 1 << 20, "iops": 100, "iops_max": 200, "iops_max_length": 2}
    assert world.command("block_set_io_throttle", device="vda", **limits) is None
    inserted = drive(world.command("query-block"))["inserted"]
    assert {**limits, "group": "vda"}.items() <= inserted.items()
    assert "bps_max" not in inserted and "iops_size" not in inserted
    more = {**LIMITS, "iops": 7, "iops_size": 4096, "group": "g"}
    world.command("block_set_io_throttle", device="vda", **more)
    inserted = drive(world.command("query-block"))["inserted"]
    assert more.items() <= inserted.items() and inserted["bps"] == 0
    assert world.command("block_set_io_throttle", device="vda", **LIMITS) is None
    assert "group" not in drive(world.command("query-block"))["inserted"]


def test_throttle_stays_in_its_group(world: Setup) -> None:
    """Without `group`, new limits are the group's, and a member that has left comes back alone."""
    node = MemoryNode(NodeOptions(node_name="other"), world.machine, SIZE)
    other = add_drive(world.machine, node, "vdb")

    def groups() -> list[tuple[str | None, int]]:
        drives = [entry["inserted"] for entry in world.command("query-block")]
        return [(one.get("group"), one["iops"]) for one in drives]

    for name in ("vda", "vdb"):
        world.command("block_set_io_throttle", device=name, **LIMITS | {"iops": 5, "group": "g"})
    world.command("block_set_io_throttle", device="vdb", **LIMITS | {"iops": 80})
    assert groups() == [("g", 80), ("g", 80)]
    assert world.blk.throttle and other.throttle
    assert world.blk.throttle.group is other.throttle.group
    world.command("block_set_io_throttle", device="vdb", **LIMITS)
    assert groups() == [("g", 80), (None, 0)]
    world.command("block_set_io_throttle", device="vdb", **LIMITS | {"iops": 7})
    assert groups() == [("g", 80), ("vdb", 7)]
    world.command("block_set_io_throttle", device="vdb", **LIMITS | {"iops": 7, "group": "g"})
    assert groups() == [("g", 7), ("g", 7)]


def test_throttle_by_device_path(world: Setup) -> None:
    """A drive without a name is reached this way; the group is called as the device was."""
    world.blk.name = ""
    path = world.blk.device.qdev
    world.command("block_set_io_throttle", id=path, **{**LIMITS, "iops": 7})
    (entry,) = world.command("query-block")
    assert entry["inserted"]["group"] == path


def test_set_policy(world: Setup) -> None:
    world.command("x-drive-set-policy", device="vda", werror="ignore")
    assert (world.blk.rerror, world.blk.werror) == ("stop", "ignore")
    world.command("x-drive-set-policy", device="disk", rerror="report")
    assert (world.blk.rerror, world.blk.werror) == ("report", "ignore")


def test_policies_are_shown(world: Setup) -> None:
    world.command("x-drive-set-policy", device="vda", werror="ignore")
    policy = {"rerror": "stop", "werror": "ignore"}
    further = {"retry-interval": 1000, "retry-timeout": 0, "x-on-stop": "hold"}
    assert world.command("x-query-drives") == [{"device": "vda", **policy, **further}]
    world.command("x-drive-set-policy", device="vda", werror="retry", retry_timeout=5000)
    world.command("x-drive-set-policy", device="vda", retry_interval=20, x_on_stop="eshutdown")
    policy = {"rerror": "stop", "werror": "retry"}
    further = {"retry-interval": 20, "retry-timeout": 5000, "x-on-stop": "eshutdown"}
    assert world.command("x-query-drives") == [{"device": "vda", **policy, **further}]


def test_set_policy_all_or_nothing(world: Setup) -> None:
    with pytest.raises(QmpError):
        world.command("x-drive-set-policy", device="vda", rerror="ignore", werror="bogus")
    for wrong in ({"retry_interval": 0}, {"retry_timeout": -1}, {"x_on_stop": "bogus"}):
        with pytest.raises(QmpError, match="^Parameter '(retry-(interval|timeout)|x-on-stop)' "):
            world.command("x-drive-set-policy", device="vda", rerror="ignore", **wrong)
    assert (world.blk.rerror, world.blk.werror) == ("stop", "enospc")


def test_set_policy_leaves_held_requests_held(world: Setup) -> None:
    world.fails = errno.ENOSPC
    world.write()
    world.command("x-drive-set-policy", device="vda", werror="ignore")
    assert "guest" in world.sim.running
    world.command("cont")
    assert "guest" not in world.sim.running
    assert world.events == ["BLOCK_IO_ERROR", "STOP", "RESUME", "BLOCK_IO_ERROR"]


def test_faults(world: Setup) -> None:
    """The README's first screen, without its sockets."""
    added = world.command("x-fault-add", node_name="vda", iotype="write", errno="ENOSPC")
    world.write()
    assert world.command("query-status")["status"] == "io-error"
    assert drive(world.command("query-block"))["io-status"] == "nospace"
    (rule,) = world.command("x-query-faults")
    assert rule["node-name"] == "disk" and rule["errno"] == errno.ENOSPC
    assert (rule["seen"], rule["hits"], rule["active"]) == (1, 1, True)
    assert world.command("x-fault-remove", **added) is None
    assert world.command("cont") is None
    assert "guest" not in world.sim.running
    assert world.events == ["BLOCK_IO_ERROR", "STOP", "RESUME"]
    assert drive(world.command("query-block"))["io-status"] == "ok"


def test_clear_faults_of_one_node(world: Setup) -> None:
    for name in ("vda", "free", "free"):
        world.command("x-fault-add", node_name=name)
    world.command("x-fault-clear", node_name="free")
    assert [rule["node-name"] for rule in world.command("x-query-faults")] == ["disk"]
    world.command("x-fault-clear")
    assert world.command("x-query-faults") == []


def throttle(**more: Any) -> tuple[str, dict[str, Any]]:
    return "block_set_io_throttle", {**LIMITS, "device": "vda", **more}


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "resize, negative": (
        "block_resize",
        {"device": "vda", "size": -1},
        "Parameter 'size' expects a >0 size",
    ),
    "resize, unknown device": (
        "block_resize",
        {"device": "x", "size": 512},
        "Cannot find device='x' nor node-name=''",
    ),
    "resize, unknown node": (
        "block_resize",
        {"node_name": "x", "size": 512},
        "Cannot find device='' nor node-name='x'",
    ),
    "resize, nothing": (
        "block_resize",
        {"size": 512},
        "Cannot find device='' nor node-name=''",
    ),
    "resize, no size": ("block_resize", {"device": "vda"}, "Parameter 'size' is missing"),
    "resize, null-co": (
        "block_resize",
        {"node_name": "free", "size": 512},
        "Image format driver does not support resize",
    ),
    "threshold, a drive": (
        "block-set-write-threshold",
        {"node_name": "vda", "write_threshold": 1},
        "Device 'vda' not found",
    ),
    "throttle, unknown": (*throttle(device="x"), "Device 'x' not found"),
    "throttle, unknown id": (
        "block_set_io_throttle",
        {**LIMITS, "id": "x"},
        "Device 'x' not found",
    ),
    "throttle, nothing": (
        "block_set_io_throttle",
        LIMITS,
        "Need exactly one of 'device' and 'id'",
    ),
    "throttle, both": (*throttle(id="x"), "Need exactly one of 'device' and 'id'"),
    "throttle, total and direction": (
        *throttle(bps=1, bps_rd=1),
        "bps/iops/max total values and read/write values cannot be used at the same time",
    ),
    "throttle, max below avg": (
        *throttle(iops=100, iops_max=10),
        "bps_max/iops_max cannot be lower than bps/iops",
    ),
    "throttle, max alone": (
        *throttle(iops_max=10),
        "bps_max/iops_max require corresponding bps/iops values",
    ),
    "throttle, size alone": (
        *throttle(iops_size=4096),
        "iops size requires an iops value to be set",
    ),
    "throttle, no burst": (
        *throttle(bps=1000, bps_max_length=0),
        "the burst length cannot be 0",
    ),
    "throttle, burst without rate": (
        *throttle(bps=1000, bps_max_length=2),
        "burst length set without burst rate",
    ),
    "throttle, negative": (
        *throttle(bps=-1),
        "bps/iops/max values must be within [0, 1000000000000000]",
    ),
    "add, no name": (
        "blockdev-add",
        {"driver": "null-co"},
        "'node-name' must be specified for the root node",
    ),
    "add, name taken": (
        "blockdev-add",
        {"driver": "null-co", "node_name": "free"},
        "Duplicate nodes with node-name='free'",
    ),
    "del, unknown": (
        "blockdev-del",
        {"node_name": "x"},
        "Failed to find node with node-name='x'",
    ),
    "del, in use": ("blockdev-del", {"node_name": "disk"}, "Node disk is in use"),
    "policy, unknown drive": (
        "x-drive-set-policy",
        {"device": "x"},
        "Cannot find device='x' nor node-name='x'",
    ),
    "policy, no drive": (
        "x-drive-set-policy",
        {"device": "free"},
        "Node 'free' is not attached to a drive",
    ),
    "policy, enospc for reads": (
        "x-drive-set-policy",
        {"device": "vda", "rerror": "enospc"},
        "'enospc' invalid read error action",
    ),
    "policy, bogus": (
        "x-drive-set-policy",
        {"device": "vda", "werror": "bogus"},
        "'bogus' invalid write error action",
    ),
    "fault, unknown": ("x-fault-remove", {"id": "x"}, "Fault 'x' not found"),
    "status, with an argument": (
        "query-status",
        {"foo": 1},
        "Parameter 'foo' is unexpected",
    ),
    "action, bad value": (
        "set-action",
        {"panic": "x"},
        "Parameter 'panic' does not accept value 'x'",
    ),
}


@pytest.mark.parametrize(("command", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(world: Setup, command: str, arguments: dict[str, Any], message: str) -> None:
    """In QEMU's words, and nothing is changed."""
    before = _looks(world)
    with pytest.raises(QmpError) as caught:
        world.command(command, **arguments)
    assert caught.value.desc == message
    not_found = command == "block_set_io_throttle" and message.endswith("not found")
    assert caught.value.error_class == ("DeviceNotFound" if not_found else "GenericError")
    assert _looks(world) == before and not world.events


def _looks(world: Setup) -> list[Any]:
    queries = ("query-block", "query-named-block-nodes", "query-status", "x-query-faults")
    return [world.command(name) for name in queries]


# Requests that are not answered.


def _requests(world: Setup, *more: str) -> list[tuple[Any, ...]]:
    members = ("device", "iotype", "offset", "length", "waits-for", *more)
    listed = world.command("x-query-requests")
    assert all(request["age-ms"] >= 0 for request in listed)
    return [tuple(map(request.get, members)) for request in listed]


def test_requests_that_wait_for_a_rule(world: Setup) -> None:
    """At whatever node: those that it hits, not others, and only until it lets them go on."""
    blk = world.blk
    rule = {"node_name": blk.root.node_name, "offset": 0, "length": 512}
    world.command("x-fault-add", id="h", iotype="read", action="hang", **rule)
    world.command("x-fault-add", id="d", iotype="write", action="delay", delay_ms=5, **rule)
    world.sim.start("read", blk.pread(0, memoryview(bytearray(512))))
    world.sim.run()
    world.sim.start("write", blk.pwrite(0, memoryview(bytes(512))))
    waiting: list[list[str | None]] = []

    def both() -> bool:
        waiting.append([request.asker.fault for request in blk.open_requests()])
        return waiting[-1] == ["h", "d"]

    world.sim.run(both)
    assert waiting[-1] == ["h", "d"]
    world.sim.run()
    assert _requests(world, "fault") == [("vda", "read", 0, 512, "fault", "h")]
    world.command("x-fault-release", id="h")
    world.sim.run()
    assert _requests(world) == []


def test_open_requests(world: Setup) -> None:
    """Each kind is called what it is, in the order of arrival, until it is answered."""
    assert _requests(world) == []
    world.command("stop")
    blk = world.blk
    for coro in (
        blk.pwrite(512, memoryview(bytes(1024))),
        blk.pread(0, memoryview(bytearray(512))),
        blk.zero(512, 512, may_unmap=True),
        blk.discard(0, 2048),
        blk.flush(),
    ):
        world.sim.start("guest", coro)
    world.sim.run()
    assert _requests(world) == [
        ("vda", "write", 512, 1024, "run"),
        ("vda", "read", 0, 512, "run"),
        ("vda", "write-zeroes", 512, 512, "run"),
        ("vda", "discard", 0, 2048, "run"),
        ("vda", "flush", 0, 0, "run"),
    ]
    world.command("cont")
    assert _requests(world) == []


def test_open_request_that_failed(world: Setup) -> None:
    """It waits for `cont` from the moment in which it asks for the stop."""
    world.fails = errno.ENOSPC
    world.write(4096)
    assert _requests(world) == [("vda", "write", 4096, 512, "run")]
    world.command("cont")
    assert _requests(world) == [("vda", "write", 4096, 512, "run")]
    world.fails = 0
    world.command("cont")
    assert _requests(world) == []


def test_open_requests_in_a_drained_section(world: Setup) -> None:
    with world.blk.quiesced():
        world.write()
        world.sim.start("status", world.blk.block_status(0, 1024))
        world.sim.run()
        waiting = [("vda", "write", 0, 512), ("vda", "block-status", 0, 1024)]
        assert _requests(world) == [(*one, "drain") for one in waiting]
        world.command("stop")
        assert _requests(world) == [(*waiting[0], "run"), (*waiting[1], "drain")]
        world.command("cont")
    world.sim.lock.poke()
    world.sim.run()
    assert _requests(world) == []


def test_what_no_device_is_asked(world: Setup) -> None:
    """It is listed while it is under way, a stopped machine answers it, and drives nothing."""
    blk = world.blk
    rule = {"node_name": blk.root.node_name, "action": "hang", "id": "h"}
    world.command("x-fault-add", iotype=["block-status", "connect"], **rule)
    world.command("stop")
    world.sim.start("status", blk.block_status(512, 1024))
    world.sim.start("connect", blk.connect(blk.root))
    world.sim.run()
    assert _requests(world, "fault") == [
        ("vda", "block-status", 512, 1024, "fault", "h"),
        ("vda", "connect", 0, 0, "fault", "h"),
    ]
    assert not blk.is_idle() and not blk.is_driven()
    world.command("x-fault-release", id="h")
    world.sim.run()
    assert _requests(world) == []
    assert blk.is_idle() and not blk.is_driven()


# The table itself.

def _qemu_s(release: str, command: str) -> Any:
    """What QEMU answers to `command`."""
    return json.loads((RECORDINGS[release] / f"schema-{release}-{command}.json").read_text())


QEMU_COMMANDS = {name: set(_qemu_s(name, "query-commands")) for name in RELEASES}
QEMU_SCHEMA = {name: _qemu_s(name, "query-qmp-schema") for name in RELEASES}

OURS = [command.name for command in table]

THEIRS = [
    pytest.param(release, name, id=f"{release}-{name}")
    for release in RELEASES
    for name in OURS
    if name in QEMU_COMMANDS[release]
]
"""Of each release, the commands that are here."""

DIFFERENT_ARGUMENTS = {
    f"{command}{difference}"
    for command in ("blockdev-add", "blockdev-reopen.options[]")
    for difference in (
        "<blkdebug>.inject-error[].errno: alternate here, builtin there",
        "<file>: member x-physical-size here only",
        "<file>: member x-extent-size here only",
        "<file>: member x-short-write here only",
        "<qcow2>: member x-drop-bitmaps here only",
        ".driver: value x-volatile-cache here only",
        ": case x-volatile-cache here only",
    )
}
"""What is here only.

errno may also be a name, a file a volume that runs full, stored bitmaps may be
dropped, and a volatile cache is a driver of this machine's.
"""

DIFFERENT_EVENTS = ("BLOCK_IO_ERROR.action: value retry here only",)
"""A policy that QEMU lacks has an action of its own."""

UNTYPED_RESULTS = ("query-jobs", "query-block-jobs", "query-qmp-schema")
"""Empty lists so far, and the schema, which does not describe itself."""


@pytest.mark.parametrize("release", RELEASES)
def test_what_qemu_has_not_is_experimental(release: str) -> None:
    present = {name for name in OURS if name not in RELEASES[release].absent}
    assert {name for name in present - QEMU_COMMANDS[release] if not name.startswith("x-")} == set()
    assert not RELEASES[release].absent & QEMU_COMMANDS[release]


@pytest.mark.parametrize("release", RELEASES)
def test_query_commands(world: Setup, release: str) -> None:
    world.machine.qemu = RELEASES[release]
    listed = [entry["name"] for entry in world.command("query-commands")]
    wanted = set(OURS) - RELEASES[release].absent
    assert sorted(set(listed)) == sorted(listed) and wanted <= set(listed)
    in_schema = {
        entry["name"]
        for entry in world.command("query-qmp-schema")
        if entry["meta-type"] == "command"
    }
    assert in_schema == set(listed)


@cache
def our_schema(release: str) -> list[dict[str, Any]]:
    return schema_info(table, RELEASES[release].absent)


def test_what_is_absent_exists() -> None:
    """A name that is misspelt would hide nothing."""
    members = set()
    for command in table:
        members |= {command.name, *(member.origin for member in command.members)}
    for cls in (*_structs(), *table.events.values()):
        members |= {cls.__name__, *(member.origin for member in Struct(cls).members)}
    assert {name for release in RELEASES.values() for name in release.absent} <= members


def _structs() -> list[type]:
    """All dataclasses that commands take or answer."""
    modules = [module for name, module in sys.modules.items() if name.startswith("blockcore.")]
    found = (thing for module in modules for thing in vars(module).values())
    return [cls for cls in found if isinstance(cls, type) and is_dataclass(cls) and _is_wire(cls)]


def _is_wire(cls: type) -> bool:
    return cls.__module__.startswith("blockcore.commands.") or issubclass(cls, ImageInfoSpecific)


@pytest.mark.parametrize(("release", "name"), THEIRS)
def test_arguments_are_qemu_s(release: str, name: str) -> None:
    """What is missing is a driver, a member of one, or an action, that is not there."""
    for line in arguments_differ(our_schema(release), QEMU_SCHEMA[release], name):
        assert line in DIFFERENT_ARGUMENTS or _is_missing(line, name), line


def _is_missing(line: str, name: str) -> bool:
    partly = ("blockdev-add", "blockdev-reopen", "transaction")
    return name in partly and line.endswith(" there only")


def test_every_event_is_in_the_schema() -> None:
    """One that no table has is sent all the same, and nobody could know its members."""
    assert set(table.events.values()) == set(get_args(Event))


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", [name for name in table.events if not name.startswith("X_")])
def test_events_are_qemu_s(release: str, name: str) -> None:
    for line in arguments_differ(our_schema(release), QEMU_SCHEMA[release], name):
        fewer = ".reason: value " in line and line.endswith(" there only")
        assert fewer or line in DIFFERENT_EVENTS, line


@pytest.mark.parametrize(
    ("release", "name"), [param for param in THEIRS if param.values[1] not in UNTYPED_RESULTS]
)
def test_results_are_qemu_s(release: str, name: str) -> None:
    """Nothing is returned that QEMU does not, and by no other type."""
    for line in results_differ(our_schema(release), QEMU_SCHEMA[release], name):
        optional = line.endswith((": optional here only", ": mandatory here only"))
        specific = ".driver-specific" in line
        assert line.endswith(" there only") or optional or specific, line


@pytest.mark.parametrize("release", RELEASES)
def test_members_that_are_always_there_are_not_optional(release: str) -> None:
    for name in ("query-block", "query-named-block-nodes", "query-blockstats"):
        lines = list(results_differ(our_schema(release), QEMU_SCHEMA[release], name))
        assert not [line for line in lines if line.endswith(": optional here only")]


@pytest.mark.parametrize("name", OURS)
def test_commands_have_help(name: str) -> None:
    assert table.commands[name].help
