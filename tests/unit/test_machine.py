# SPDX-License-Identifier: MIT
"""The machine's verbs: what they change, what they say, what they wait for."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from blockcore.commands.faults import new_fault_id
from blockcore.machine.graph_changes import blockdev_add, blockdev_del
from blockcore.machine.machine import Machine
from blockcore.machine.vm_stop import STOP_LATENCY_NS
from blockcore.nodes.definitions.options import parse_blockdev_options
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.events import Event
from blockcore.qapi.names import BlockDeviceIoStatus, QmpError, RunState, ShutdownCause
from blockcore.rules.throttle import Limit, ThrottleConfig
from sim import MemoryNode, Sim, add_drive, add_node, execute, new_machine, pause, perform

SIZE = 64 << 10


class Setup:
    """A machine of one drive whose disk fails while `number` is not 0."""

    def __init__(self, *, prelaunch: bool = False, rerror: str = "stop") -> None:
        self.sim = Sim(1)
        self.sim.be_orderly()
        self.machine = new_machine(self.sim, prelaunch=prelaunch)
        self.number = 0
        self.node = MemoryNode(NodeOptions(node_name="disk"), self.machine, SIZE, self.on_io)
        self.blk = add_drive(self.machine, self.node, "vda", rerror, "stop")
        self.events: list[str] = []
        self.states: list[tuple[str, RunState]] = []
        self.done: list[str] = []
        self.machine.listeners.append(self.event)

    def on_io(self, what: str) -> None:
        if self.number and what != "flush":
            raise OSError(self.number, "injected")

    def event(self, event: Event, now_ns: int) -> None:
        self.events.append(event.NAME)
        self.states.append((event.NAME, self.machine.vm.state))

    async def write(self, name: str = "write", offset: int = 0) -> None:
        try:
            await self.blk.pwrite(offset, memoryview(name.encode()))
        except OSError as exc:
            name = f"{name}: {errno.errorcode[exc.errno or 0]}"
        self.done.append(name)

    def start(self, *names: str) -> None:
        for name in names:
            self.sim.start(name, self.write(name))

    def run(self, command: str, **arguments: Any) -> None:
        async def client() -> None:
            await execute(self.machine, command, **arguments)
            self.done.append(command)

        self.sim.start(command, client())
        self.sim.run()

    def fail(self, *names: str) -> None:
        """Bring the machine into io-error with these writes held."""
        self.number = errno.ENOSPC
        self.start(*names)
        self.sim.run()
        self.number = 0

    def state(self) -> RunState:
        return self.machine.vm.state

    def iostatus(self) -> BlockDeviceIoStatus:
        return self.blk.iostatus


def test_a_failed_request_stops_the_machine_once() -> None:
    """Recorded: guest-write-3inflight-stop."""
    world = Setup()
    world.fail("a", "b", "c")
    assert world.events == ["BLOCK_IO_ERROR"] * 3 + ["STOP"]
    assert world.states[-1] == ("STOP", RunState.IO_ERROR)
    assert world.iostatus() is BlockDeviceIoStatus.NOSPACE
    assert not world.done
    world.run("cont")
    assert world.events[4:] == ["RESUME"]
    assert world.done == ["cont", "a", "b", "c"]
    assert world.state() is RunState.RUNNING
    assert world.iostatus() is BlockDeviceIoStatus.OK


def test_the_stop_comes_after_its_latency() -> None:
    world = Setup()
    asked: list[int] = []
    world.machine.listeners.append(lambda event, now_ns: asked.append(now_ns))
    world.fail("a")
    assert asked[1] - asked[0] == STOP_LATENCY_NS


def test_retries_that_fail_stop_again() -> None:
    world = Setup()
    world.fail("a")
    world.number = errno.EIO
    world.run("cont")
    assert world.events == ["BLOCK_IO_ERROR", "STOP", "RESUME", "BLOCK_IO_ERROR", "STOP"]
    assert world.iostatus() is BlockDeviceIoStatus.FAILED
    assert world.state() is RunState.IO_ERROR


def test_cont_before_the_stop() -> None:
    """STOP and RESUME leave back to back, and the held request is retried at once."""
    world = Setup()
    world.number = errno.EIO

    def repaired_at_once(event: Event, now_ns: int) -> None:
        if event.NAME == "BLOCK_IO_ERROR":
            world.number = 0
            world.sim.start("cont", execute(world.machine, "cont"))

    world.machine.listeners.append(repaired_at_once)
    world.start("a")
    world.sim.run()
    assert world.events == ["BLOCK_IO_ERROR", "STOP", "RESUME"]
    assert world.done == ["a"]
    assert world.iostatus() is BlockDeviceIoStatus.OK
    assert world.state() is RunState.RUNNING


def test_a_stopped_machine_keeps_its_state() -> None:
    """Semantics 1.8: `stop` while not running is silent, and io-error stays io-error."""
    world = Setup()
    world.fail("a")
    events = list(world.events)
    world.run("stop")
    assert world.state() is RunState.IO_ERROR and world.events == events
    assert world.done == ["stop"]


def test_an_error_that_comes_after_stop() -> None:
    """Paused stays paused; the request is held and there is no second STOP."""
    world = Setup()
    world.number = errno.EIO
    world.start("a")
    world.run("stop")
    assert world.events == ["STOP", "BLOCK_IO_ERROR"]
    assert world.state() is RunState.PAUSED
    world.number = 0
    world.run("cont")
    assert world.events == ["STOP", "BLOCK_IO_ERROR", "RESUME"]
    assert world.done == ["stop", "cont", "a"]


def test_stop_waits_for_requests_and_flushes() -> None:
    world = Setup()
    world.start("a")
    world.run("stop")
    assert world.done == ["a", "stop"]
    assert world.node.stable[:1] == b"a"
    assert world.states == [("STOP", RunState.PAUSED)]


def test_a_stop_by_an_error_flushes_too() -> None:
    world = Setup()
    world.start("a")
    world.sim.run()
    assert not world.node.flushes
    world.fail("b")
    assert world.node.stable[:1] == b"a"


def test_flush_errors_of_a_stop_are_not_reported() -> None:
    world = Setup()
    world.start("a")
    world.sim.run()
    world.node.on_io = lambda what: (_ for _ in ()).throw(OSError(errno.EIO, what))
    world.run("stop")
    assert world.done == ["a", "stop"] and world.events == ["STOP"]


def test_requests_wait_while_the_machine_does_not_run() -> None:
    world = Setup(prelaunch=True)
    world.start("a", "b")
    world.sim.run()
    assert not world.done and not world.events and world.state() is RunState.PRELAUNCH
    world.run("cont")
    assert world.events == ["RESUME"] and world.done == ["cont", "a", "b"]


def test_cont_while_running_resets_the_io_status() -> None:
    world = Setup()
    world.blk.iostatus = BlockDeviceIoStatus.FAILED
    world.run("cont")
    assert not world.events and world.iostatus() is BlockDeviceIoStatus.OK


def test_cont_resets_every_drive() -> None:
    """Of anonymous ones too: semantics 1.7."""
    world = Setup()
    other = MemoryNode(NodeOptions(node_name="other"), world.machine, SIZE)
    blk = add_drive(world.machine, other, "")
    blk.iostatus = BlockDeviceIoStatus.NOSPACE
    world.run("cont")
    assert blk.iostatus is BlockDeviceIoStatus.OK


def test_reset_in_io_error() -> None:
    """Recorded for guest-stop-cont-states: held requests are dropped, the io-status stays."""
    world = Setup()
    world.fail("a", "b")
    world.run("system_reset")
    assert world.events[-1] == "RESET"
    assert world.states[-1][1] is RunState.IO_ERROR
    assert world.state() is RunState.PRELAUNCH
    assert world.done == ["system_reset", "a: ESHUTDOWN", "b: ESHUTDOWN"]
    assert world.iostatus() is BlockDeviceIoStatus.NOSPACE
    world.run("cont")
    assert world.events[-1] == "RESUME" and world.state() is RunState.RUNNING
    assert world.iostatus() is BlockDeviceIoStatus.OK


def test_reset_while_running() -> None:
    """What is in flight ends; the machine runs on."""
    world = Setup()
    world.start("a")
    world.run("system_reset")
    assert world.events == ["RESET"] and world.state() is RunState.RUNNING
    assert world.done == ["a", "system_reset"]


@pytest.mark.parametrize("prelaunch", [True, False])
def test_reset_of_what_never_ran(prelaunch: bool) -> None:
    world = Setup(prelaunch=prelaunch)
    if not prelaunch:
        world.run("stop")
    world.run("system_reset")
    assert world.state() is RunState.PRELAUNCH


def test_quit() -> None:
    """SHUTDOWN is said once; nothing runs any more, and `cont` says why."""
    world = Setup()
    world.run("quit")
    world.run("quit")
    assert world.events == ["SHUTDOWN"] and world.state() is RunState.SHUTDOWN
    world.machine.quit(ShutdownCause.HOST_SIGNAL)
    assert world.events == ["SHUTDOWN"]
    world.run("stop")
    with pytest.raises(QmpError, match="^Resetting the Virtual Machine is required$"):
        perform(execute(world.machine, "cont"))
    assert world.events == ["SHUTDOWN"] and world.state() is RunState.SHUTDOWN


def test_reset_after_quit() -> None:
    """Another client's command, already on its way."""
    world = Setup()
    world.run("quit")
    world.run("system_reset")
    assert world.state() is RunState.SHUTDOWN


def test_quit_with_a_stop_pending() -> None:
    world = Setup()
    world.number = errno.EIO

    def quit_at_once(event: Event, now_ns: int) -> None:
        if event.NAME == "BLOCK_IO_ERROR":
            world.sim.start("quit", execute(world.machine, "quit"))

    world.machine.listeners.append(quit_at_once)
    world.start("a")
    world.sim.run()
    assert world.events == ["BLOCK_IO_ERROR", "SHUTDOWN"]
    assert world.state() is RunState.SHUTDOWN


@pytest.mark.parametrize("command", ["system_reset", "block_resize"])
def test_a_drain_ends_under_any_load(command: str) -> None:
    """New requests wait for it: the guests are never all idle by themselves."""
    world = Setup()
    busy = True

    async def hammer() -> None:
        while busy:
            await world.write()

    async def client() -> None:
        nonlocal busy
        for _ in range(20):
            await pause()
        arguments = {"device": "vda", "size": SIZE} if command == "block_resize" else {}
        await execute(world.machine, command, **arguments)
        world.done.append(command)
        busy = False

    for number in range(8):
        world.sim.start(f"guest{number}", hammer())
    world.sim.start("client", client())
    world.sim.run()
    assert command in world.done


def test_a_drain_lets_throttled_requests_go() -> None:
    """Semantics 1.5: nothing waits for its turn while the machine stops."""
    world = Setup()
    config = ThrottleConfig(iops_total=Limit(avg=1))
    world.machine.set_throttle(world.blk, config, "vda")
    world.start("a", "b", "c", "d")
    world.run("stop")
    assert sorted(world.done) == ["a", "b", "c", "d", "stop"]
    assert world.sim.now_ns < 10**9


def test_limits_are_their_group_s() -> None:
    world = Setup()
    other = add_drive(
        world.machine, MemoryNode(NodeOptions(node_name="other"), world.machine, SIZE), "vdb"
    )
    first, second = ThrottleConfig(iops_total=Limit(5)), ThrottleConfig(iops_read=Limit(9))
    world.machine.set_throttle(world.blk, first, "g")
    world.machine.set_throttle(other, second, "g")
    group = world.machine.throttle_groups["g"]
    assert group.state.config is second
    assert group.members == [world.blk.throttle, other.throttle]
    world.machine.set_throttle(world.blk, ThrottleConfig(), "vda")
    assert group.members == [other.throttle]
    world.machine.set_throttle(other, first, "h")
    assert not group.members and len(world.machine.throttle_groups["h"].members) == 1


def test_leaving_a_group_lets_its_requests_go() -> None:
    world = Setup()
    world.machine.set_throttle(world.blk, ThrottleConfig(iops_total=Limit(avg=1)), "vda")
    world.start("a", "b", "c")
    world.sim.start("off", _unlimited(world))
    world.sim.run()
    assert sorted(world.done) == ["a", "b", "c"] and not world.events
    assert world.machine.throttle_groups["vda"].members == []


async def _unlimited(world: Setup) -> None:
    world.machine.set_throttle(world.blk, ThrottleConfig(), "vda")


LOOKUPS: dict[str, tuple[str | None, str | None, str]] = {
    "drive": ("vda", None, "disk"),
    "node": (None, "disk", "disk"),
    "drive first": ("vda", "other", "disk"),
    "node as device": ("disk", "disk", "disk"),
}


@pytest.mark.parametrize(("device", "node_name", "found"), LOOKUPS.values(), ids=LOOKUPS)
def test_lookup(device: str | None, node_name: str | None, found: str) -> None:
    world = Setup()
    add_node(world.machine, MemoryNode(NodeOptions(node_name="other"), world.machine, SIZE))
    assert world.machine.find.node_or_device(device, node_name).node_name == found


NOT_FOUND: dict[str, tuple[str | None, str | None, str]] = {
    "device": ("x", None, "Cannot find device='x' nor node-name=''"),
    "node": (None, "x", "Cannot find device='' nor node-name='x'"),
    "neither": (None, None, "Cannot find device='' nor node-name=''"),
    "a node is no device": ("disk", None, "Cannot find device='disk' nor node-name=''"),
    "anonymous drives have no name": ("", None, "Cannot find device='' nor node-name=''"),
}


@pytest.mark.parametrize(("device", "node_name", "message"), NOT_FOUND.values(), ids=NOT_FOUND)
def test_failed_lookup(device: str | None, node_name: str | None, message: str) -> None:
    world = Setup()
    add_drive(world.machine, MemoryNode(NodeOptions(node_name="o"), world.machine, SIZE), "")
    with pytest.raises(QmpError) as caught:
        world.machine.find.node_or_device(device, node_name)
    assert caught.value.desc == message


def test_drive_of_a_node() -> None:
    world = Setup()
    assert world.machine.find.drive_on("vda") is world.blk
    assert world.machine.find.drive_on("disk") is world.blk
    add_node(world.machine, MemoryNode(NodeOptions(node_name="free"), world.machine, SIZE))
    with pytest.raises(QmpError, match="^Node 'free' is not attached to a drive$"):
        world.machine.find.drive_on("free")


def null(name: str | None, **more: Any) -> dict[str, Any]:
    return {"driver": "null-co", **({} if name is None else {"node-name": name}), **more}


async def add(machine: Machine, definition: dict[str, Any]) -> None:
    await blockdev_add(machine, parse_blockdev_options(definition))


ADD_REFUSED = {
    "no name": (null(None), "'node-name' must be specified for the root node"),
    "a drive's name": (null("vda"), "node-name=vda is conflicting with a device id"),
    "a node's name": (null("disk"), "Duplicate nodes with node-name='disk'"),
    "bad name": (null("1x"), "Invalid node-name: '1x'"),
    "long name": (null("n" * 32), "Node name too long"),
    "no such child": (
        {"driver": "raw", "node-name": "r", "file": "nope"},
        "Cannot find device='nope' nor node-name='nope'",
    ),
    "window behind the end": (
        {"driver": "raw", "node-name": "r", "file": null("c", size=512), "offset": 1024},
        "Offset (1024) cannot be greater than size of the containing file (512)",
    ),
    "window too large": (
        {"driver": "raw", "node-name": "r", "file": null("c", size=512), "size": 1024},
        "The sum of offset (0) and size (1024) has to be smaller or equal"
        " to the  actual size of the containing file (512)",
    ),
}


@pytest.mark.parametrize(("definition", "message"), ADD_REFUSED.values(), ids=ADD_REFUSED)
def test_refused_blockdev_add_leaves_nothing(definition: dict[str, Any], message: str) -> None:
    world = Setup()
    with pytest.raises(QmpError) as caught:
        perform(add(world.machine, definition))
    assert caught.value.desc == message
    assert list(world.machine.graph.nodes) == ["disk"]


def test_blockdev_del() -> None:
    """Children that nobody else uses go with their parent; those of the monitor stay."""
    world = Setup()
    graph = world.machine.graph
    perform(add(world.machine, null("kept")))
    perform(add(world.machine, {"driver": "raw", "node-name": "a", "file": "kept"}))
    perform(add(world.machine, {"driver": "raw", "node-name": "b", "file": null("gone")}))
    assert set(graph.nodes) == {"disk", "kept", "a", "gone", "b"}
    for name in ("a", "b"):
        perform(blockdev_del(world.machine, name))
    assert set(graph.nodes) == {"disk", "kept"}
    assert graph.nodes["kept"].parents == []
    perform(blockdev_del(world.machine, "kept"))


DEL_REFUSED = {
    "unknown": ("x", "Failed to find node with node-name='x'"),
    "a drive's name": ("vda", "Failed to find node with node-name='vda'"),
    "under a drive": ("disk", "Node disk is in use"),
    "under a node": ("bottom", "Block device bottom is in use"),
    "somebody else's": ("child", "Node child is not owned by the monitor"),
}


@pytest.mark.parametrize(("name", "message"), DEL_REFUSED.values(), ids=DEL_REFUSED)
def test_refused_blockdev_del(name: str, message: str) -> None:
    world = Setup()
    perform(add(world.machine, null("bottom")))
    perform(add(world.machine, {"driver": "raw", "node-name": "top", "file": "bottom"}))
    perform(add(world.machine, {"driver": "raw", "node-name": "r", "file": null("child")}))
    nodes = list(world.machine.graph.nodes)
    with pytest.raises(QmpError) as caught:
        perform(blockdev_del(world.machine, name))
    assert caught.value.desc == message
    assert list(world.machine.graph.nodes) == nodes


def test_generated_names_are_unique() -> None:
    world = Setup()
    for name in ("a", "b"):
        perform(add(world.machine, {"driver": "raw", "node-name": name, "file": null(None)}))
    names = [name for name in world.machine.graph.nodes if name.startswith("#block")]
    assert len(names) == 2


def test_fault_ids() -> None:
    """Made up where none is wanted, and never twice."""
    world = Setup()
    perform(execute(world.machine, "x-fault-add", node_name="vda", id="fault0"))
    assert new_fault_id(world.machine, None) == "fault1"
    assert new_fault_id(world.machine, "mine") == "mine"
    for taken, message in (
        ("fault0", "Duplicate ID 'fault0' for fault"),
        ("0x", "Parameter 'id' expects an identifier"),
    ):
        with pytest.raises(QmpError) as caught:
            new_fault_id(world.machine, taken)
        assert caught.value.desc == message
