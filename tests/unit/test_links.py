# SPDX-License-Identifier: MIT
"""Users of nodes that cannot live with each other, op blockers, and nodes that are reopened."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from blockcore.bql.effects import Until
from blockcore.config.assemble import Assembly
from blockcore.config.config import parse_config
from blockcore.machine.graph_changes import blockdev_del, changing_graph
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevOptionsFile
from blockcore.nodes.driver import NewChildren, NodeOptions
from blockcore.nodes.graph.conflicts import check_permissions
from blockcore.nodes.graph.links import attach, detach
from blockcore.nodes.op_blockers import BlockOpType, OpBlockers
from blockcore.nodes.permissions import (
    ALL,
    NONE,
    NodeUser,
    Perm,
    backing_child,
    data_child,
    image_child,
    names,
)
from blockcore.qapi.names import QmpError
from qcow2_images import check_clean, create, qemu_io, read
from sim import MemoryNode, Sim, add_drive, add_node, execute, new_machine, perform

pytestmark = pytest.mark.both_ways

R, W, U, S = Perm.CONSISTENT_READ, Perm.WRITE, Perm.WRITE_UNCHANGED, Perm.RESIZE

MIB = 1 << 20

ROLES = [
    pytest.param(backing_child(NONE, ALL), (NONE, ALL), id="backing file nobody uses"),
    pytest.param(backing_child(R | W, R | U | S), (R, R | U), id="backing file of a drive"),
    pytest.param(data_child(W, ALL), (W | S, R | W | U), id="written data"),
    pytest.param(data_child(U, ALL), (U | W | S, R | W | U), id="data written unchanged"),
    pytest.param(image_child(NONE, ALL, True), (R | W | S, R | U), id="writable image"),
    pytest.param(image_child(NONE, ALL, False), (R, R | U), id="read-only image"),
]


@pytest.mark.parametrize(("found", "wanted"), ROLES)
def test_what_is_needed_of_children(
    found: tuple[Perm, Perm], wanted: tuple[Perm, Perm]
) -> None:
    assert found == wanted


def test_names_of_permissions() -> None:
    assert names(ALL) == "consistent read, write, write unchanged, resize"
    assert names(NONE) == ""


@pytest.fixture(name="machine")
def _machine(tmp_path: Path) -> Machine:
    (tmp_path / "base.raw").write_bytes(b"\1" * MIB)
    create(tmp_path / "top.qcow2", "1M", "-b", "base.raw", "-F", "raw")
    machine = new_machine(Sim(0))
    machine.graph.directory = str(tmp_path)
    return machine


def start(machine: Machine, *keys: str) -> None:
    """Attach what command lines describe."""
    pairs = [tuple(key.split("=", 1)) for key in keys]
    config = parse_config(pairs)  # type: ignore[arg-type]
    assembly = Assembly(machine, config.devices)
    for node in config.blockdevs:
        perform(assembly.add_node(node))
    for drive in config.drives:
        perform(assembly.add_drive(drive))
    for device in config.devices:
        perform(assembly.add_device(device))


BOTH = (
    "blockdev=driver=file,filename=base.raw,node-name=n",
    "blockdev=driver=qcow2,file.driver=file,file.filename=top.qcow2,node-name=t,backing=n",
)
DEVICE = "device=virtio-blk-pci,drive="
PATH = "block device '/machine/peripheral/{}/virtio-backend' (uses node 'n' as 'root' child)"
OVERLAY = "node 't' (uses node 'n' as 'backing' child)"

CONFLICTS: dict[str, tuple[tuple[str, ...], str]] = {
    "two drives": (
        ("blockdev=driver=null-co,node-name=n", f"{DEVICE}n,id=a", f"{DEVICE}n,id=b"),
        f"are both required by {PATH.format('a')} and unshared by {PATH.format('b')}.",
    ),
    "overlay first": (
        (*BOTH, f"{DEVICE}t,id=a", f"{DEVICE}n,id=b"),
        f"are both required by {PATH.format('b')} and unshared by {OVERLAY}.",
    ),
    "backing file first": (
        (*BOTH, f"{DEVICE}n,id=b", f"{DEVICE}t,id=a"),
        f"are both required by {PATH.format('b')} and unshared by {OVERLAY}.",
    ),
}


@pytest.mark.parametrize(("keys", "message"), CONFLICTS.values(), ids=CONFLICTS)
def test_drives_that_cannot_be_attached(
    machine: Machine, keys: tuple[str, ...], message: str
) -> None:
    """As QEMU's command line has it."""
    with pytest.raises(QmpError) as caught:
        start(machine, *keys)
    assert caught.value.desc == f"Permission conflict on node 'n': permissions 'write' {message}"


def test_drive_on_a_read_only_node(machine: Machine) -> None:
    file = "blockdev=driver=file,filename=base.raw,node-name=n,read-only=on"
    with pytest.raises(QmpError, match="^Block node is read-only$"):
        start(machine, file, "blockdev=driver=raw,file=n,node-name=r", f"{DEVICE}r")
    assert not machine.backends and not machine.graph.nodes["r"].parents


def test_newest_blocker_gives_the_reason() -> None:
    blockers, first, second = OpBlockers(), object(), object()
    blockers.block(first, "one")
    blockers.block(second, "two", {BlockOpType.RESIZE})
    assert blockers.reason(BlockOpType.RESIZE) == "two"
    assert blockers.reason(BlockOpType.STREAM) == "one"
    blockers.unblock(second)
    assert blockers.reason(BlockOpType.RESIZE) == "one"
    blockers.unblock(first, {BlockOpType.RESIZE})
    assert blockers.reason(BlockOpType.RESIZE) is None
    assert blockers.reason(BlockOpType.STREAM) == "one"


def test_backing_file_is_blocked_as_long_as_it_is_one(machine: Machine) -> None:
    start(machine, *BOTH)
    overlay, base = machine.graph.nodes["t"], machine.graph.nodes["n"]
    with pytest.raises(QmpError) as caught:
        base.check_op(BlockOpType.EXTERNAL_SNAPSHOT)
    assert caught.value.desc == "Node 'n' is busy: node is used as backing hd of 't'"
    base.check_op(BlockOpType.STREAM)
    detach(overlay, "backing")
    base.check_op(BlockOpType.EXTERNAL_SNAPSHOT)
    attach(overlay, "backing", base)
    assert base.op_blockers.reason(BlockOpType.EXTERNAL_SNAPSHOT)


def test_user_that_stays(machine: Machine) -> None:
    """A job means the node, and a snapshot does not move it."""
    start(machine, "drive=id=vda,file=base.raw,format=raw,node-name=old")
    old, user = machine.graph.nodes["old"], NodeUser(R)
    old.parents.append(user)
    perform(execute(machine, "blockdev-snapshot-sync", device="vda", snapshot_file="s"))
    assert user in old.parents and machine.backends[0] not in old.parents
    check_permissions(machine.graph.nodes.values())


def test_frozen_link(machine: Machine) -> None:
    start(machine, *BOTH)
    machine.graph.nodes["t"].frozen.add("backing")
    file = machine.graph.nodes["t"].children["file"].node_name
    options = {"driver": "qcow2", "node-name": "t", "file": file, "backing": None}
    with pytest.raises(QmpError, match="^Cannot change frozen 'backing' link from 't' to 'n'$"):
        perform(execute(machine, "blockdev-reopen", options=[options]))
    assert machine.graph.nodes["t"].backing is machine.graph.nodes["n"]


def test_kept_reads_keep_the_old_root_writable(machine: Machine) -> None:
    """QEMU's rule: what it reads is still written to it."""
    start(machine, "drive=id=vda,file=top.qcow2,format=qcow2,node-name=old,copy-on-read=on")
    snapshot = {"device": "vda", "snapshot_file": "s", "snapshot_node_name": "s"}
    perform(execute(machine, "blockdev-snapshot-sync", **snapshot))
    old = machine.graph.nodes["old"]
    assert not old.read_only
    assert read(machine.backends[0].root, 0, 512) == b"\1" * 512
    assert perform(old.is_allocated(0, 512))[0]


class Stubborn(MemoryNode):
    """Cannot become writable again."""

    async def do_reopen(
        self, options: NodeOptions, definition: BlockdevOptions, children: NewChildren
    ) -> None:
        if not options.read_only:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def test_failed_reopen_changes_nothing(machine: Machine, tmp_path: Path) -> None:
    start(machine, *BOTH)
    stubborn = Stubborn(NodeOptions(node_name="s", read_only=True), machine, 512)
    stubborn.definition = BlockdevOptionsFile(driver="file", filename="memory")
    stubborn.driver = "file"  # type: ignore[misc]
    add_node(machine, stubborn)
    node = machine.graph.nodes["t"]
    file = node.children["file"].node_name
    wanted = {"driver": "qcow2", "node-name": "t", "file": file, "backing": "n", "read-only": True}
    other = {"driver": "file", "node-name": "s", "filename": "memory"}
    with pytest.raises(QmpError, match="^Permission denied$"):
        perform(execute(machine, "blockdev-reopen", options=[wanted, other]))
    assert not node.read_only and stubborn.read_only
    perform(node.pwrite(0, memoryview(b"\2" * 512)))
    perform(machine.graph.close_all())
    check_clean(tmp_path / "top.qcow2")


def test_image_read_only_and_back(machine: Machine, tmp_path: Path) -> None:
    """Meanwhile somebody else may write it: nothing is remembered."""
    path = tmp_path / "top.qcow2"
    start(machine, *BOTH)
    node = machine.graph.nodes["t"]
    file = node.children["file"].node_name
    wanted = {"driver": "qcow2", "node-name": "t", "file": file, "backing": "n"}

    def reopen(read_only: bool) -> None:
        options: list[dict[str, Any]] = [{**wanted, "read-only": read_only}]
        perform(execute(machine, "blockdev-reopen", options=options))

    perform(node.pwrite(0, memoryview(b"\2" * 4096)))
    reopen(True)
    assert node.read_only and node.children["file"].read_only
    qemu_io(path, "write -P 3 64k 4k")
    reopen(False)
    perform(node.pwrite(128 * 1024, memoryview(b"\4" * 4096)))
    found = [read(node, cluster * 65536, 4096) for cluster in range(3)]
    assert found == [bytes([value]) * 4096 for value in (2, 3, 4)]
    perform(machine.graph.close_all())
    check_clean(path)


def test_commands_take_turns(machine: Machine) -> None:
    """One that waits for a drive to be quiet keeps others from that drive, and from no more."""
    sim = Sim(0)
    machine = new_machine(sim)
    node = MemoryNode(NodeOptions(node_name="disk"), machine, 4096)
    blk = add_drive(machine, node)
    sim.start("guest", blk.pwrite(0, memoryview(bytes(512))), now=True)
    sim.start("first", execute(machine, "block_resize", device="vda", size=512), now=True)
    over = {"driver": "raw", "node_name": "over", "file": "disk", "read_only": True}
    sim.start("second", execute(machine, "blockdev-add", **over), now=True)
    beside = {"driver": "null-co", "node_name": "beside"}
    sim.start("third", execute(machine, "blockdev-add", **beside), now=True)
    again = execute(machine, "block_resize", device="vda", size=1024)
    sim.start("fourth", again, now=True)
    assert set(sim.running) >= {"first", "second", "fourth"}
    assert "third" not in sim.running and "beside" in machine.graph.nodes
    assert "over" not in machine.graph.nodes and machine.changing.taken
    sim.run()
    assert not {"guest", "first", "second", "fourth"} & set(sim.running)
    assert blk.size == 1024 and "over" in machine.graph.nodes and not machine.changing.taken


def test_a_node_above_a_chain_that_is_written(machine: Machine) -> None:
    """What it needs of its file, its file needs of the backing file: QEMU's words and place."""
    start(machine, "drive=id=a,driver=null-co,node-name=n", "blockdev=driver=null-co,node-name=m")
    create(Path(machine.graph.directory) / "free.qcow2", "1M")
    over = {"driver": "qcow2", "node-name": "q", "backing": "n"}
    file = {"driver": "file", "filename": "free.qcow2"}
    perform(execute(machine, "blockdev-add", **over, file=file))
    with pytest.raises(QmpError) as caught:
        add = {"driver": "qcow2", "node-name": "q2", "file": "q"}
        perform(execute(machine, "blockdev-add", **add))
    assert caught.value.desc == (
        "Permission conflict on node 'n': permissions 'write' are both required by"
        " block device 'a' (uses node 'n' as 'root' child) and unshared by node 'q'"
        " (uses node 'n' as 'backing' child)."
    )
    assert "q2" not in machine.graph.nodes


def test_a_child_that_is_replaced_is_closed_if_nobody_else_has_it(machine: Machine) -> None:
    start(
        machine,
        "blockdev=driver=qcow2,file.driver=file,file.filename=top.qcow2,node-name=t,"
        "backing.driver=raw,backing.node-name=inner,"
        "backing.file.driver=file,backing.file.filename=base.raw",
        "blockdev=driver=null-co,node-name=n,read-only=on",
    )
    nodes = machine.graph.nodes
    wanted = {"driver": "qcow2", "node-name": "t", "file": nodes["t"].children["file"].node_name}
    for backing in ("n", None):
        options: list[dict[str, Any]] = [{**wanted, "backing": backing}]
        perform(execute(machine, "blockdev-reopen", options=options))
        assert len(nodes) == 3 and nodes.keys() >= {"t", "n"}


REOPENED: list[tuple[dict[str, Any], str | None]] = [
    ({"force-share": True}, "Cannot change the option 'force-share'"),
    (
        {"cache-size": 4096, "l2-cache-size": 8192},
        "l2-cache-size may not exceed cache-size",
    ),
    ({"discard": "unmap", "detect-zeroes": "unmap"}, None),
    ({"detect-zeroes": "unmap"}, None),
]


def test_reopened_with_other_options(machine: Machine) -> None:
    """As QEMU answered, in this order; `discard` stays."""
    start(machine, *BOTH)
    node = machine.graph.nodes["t"]
    file = node.children["file"].node_name
    wanted = {"driver": "qcow2", "node-name": "t", "file": file, "backing": "n"}
    for more, refusal in REOPENED:
        options: list[dict[str, Any]] = [{**wanted, **more}]
        if refusal is None:
            perform(execute(machine, "blockdev-reopen", options=options))
            assert node.options.discard_unmap
            continue
        with pytest.raises(QmpError) as caught:
            perform(execute(machine, "blockdev-reopen", options=options))
        assert caught.value.desc == refusal
    raw: list[dict[str, Any]] = [{"driver": "raw", "node-name": "t", "file": file}]
    with pytest.raises(QmpError, match="^backing is missing for 't'$"):
        perform(execute(machine, "blockdev-reopen", options=raw))


def test_longer_than_any_node(machine: Machine) -> None:
    start(machine, *BOTH)
    with pytest.raises(QmpError) as caught:
        perform(execute(machine, "block_resize", node_name="t", size=(1 << 63) - 1))
    assert caught.value.desc == (
        "offset(9223372036854775807) exceeds maximum(9223372035781033984)"
    )


def test_what_is_connected_with_a_node(machine: Machine) -> None:
    """Above, below and beside, through whatever they share, in the order of the graph."""

    def disk(name: str, *children: str) -> None:
        node = MemoryNode(NodeOptions(node_name=name), machine, MIB)
        for child in children:
            node.children[child] = machine.graph.nodes[child]
        add_node(machine, node)

    before = list(machine.graph.nodes)
    disk("base")
    disk("alone")
    disk("top", "base")
    disk("beside", "base")
    disk("roof", "top")
    nodes = machine.graph.nodes
    for name in ("base", "top", "beside", "roof"):
        near = [node.node_name for node in machine.graph.connected(nodes[name])]
        assert near == ["base", "top", "beside", "roof"]
    assert machine.graph.connected(nodes["alone"]) == [nodes["alone"]]
    assert [*before, "base", "alone", "top", "beside", "roof"] == list(nodes)


def test_turns_at_parts_of_the_graph() -> None:
    """Who wants a part waits for those who have some of it, and for those who asked before."""
    sim = Sim(0)
    sim.be_orderly()
    machine = new_machine(sim)
    nodes = {}
    for name in "abc":
        nodes[name] = MemoryNode(NodeOptions(node_name=name), machine, 512)
        add_node(machine, nodes[name])
    has: list[str] = []
    over: set[str] = set()

    async def change(wanted: str) -> None:
        async with machine.changing.part(lambda: [nodes[name] for name in wanted]) as turn:
            has.append(wanted)
            if wanted == "a":
                new = nodes["new"] = MemoryNode(NodeOptions(node_name="new"), machine, 512)
                add_node(machine, new)
                turn.also(new)
            await Until(lambda: wanted in over)
            has.remove(wanted)

    def end(wanted: str) -> None:
        over.add(wanted)
        sim.lock.poke()

    for wanted in ("a", "ab", "b", "c", ""):
        sim.start(wanted or "nothing", change(wanted), now=True)
    assert has == ["a", "c", ""], "what nobody has, and nobody has asked for before"
    nodes["n"] = nodes["new"]
    sim.start("n", change("n"), now=True)
    assert "n" not in has, "what has come to a part is in it"
    end("a")
    assert "ab" in has and "b" not in has and "n" in has
    end("ab")
    assert "b" in has
    for wanted in ("b", "c", "n", ""):
        end(wanted)
    assert not has and not machine.changing.taken


def test_a_node_is_looked_up_in_the_turn_of_its_command() -> None:
    """The turn before may have taken it away."""
    sim, go, told = Sim(0), list[int](), list[str]()
    machine = new_machine(sim)
    node = MemoryNode(NodeOptions(node_name="n"), machine, 4096)
    add_node(machine, node, monitor_owned=True)

    async def deletes() -> None:
        async with changing_graph(machine, "n"):
            await Until(lambda: bool(go))
            await blockdev_del(machine, "n")

    async def resizes() -> None:
        try:
            await execute(machine, "block_resize", node_name="n", size=8192)
        except QmpError as exc:
            told.append(exc.desc)

    sim.start("delete", deletes(), now=True)
    sim.start("resize", resizes(), now=True)
    with sim.lock.region():
        go.append(1)
    sim.run()
    assert told == ["Cannot find device='' nor node-name='n'"] and node.size == 4096
