# SPDX-License-Identifier: MIT
"""A change of links does all that it owes to others, or leaves everything as it was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from blockcore.config.assemble import Assembly
from blockcore.config.config import parse_config
from blockcore.jobs.stream.filter import CopyOnReadNode
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.filter_options import BlockdevOptionsCor
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.graph import relink
from blockcore.nodes.graph.relink import Relink
from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.nodes.permissions import ALL, NONE, NodeUser, Perm
from blockcore.qapi.names import QmpError
from qcow2_images import create
from sim import Sim, new_machine, perform

MIB = 1 << 20

Change = Callable[[Machine, Relink], Awaitable[None]]


@pytest.fixture(name="machine")
def _machine(tmp_path: Path) -> Machine:
    """A drive on `top` on `base`; an image `other` without a user, and `lone` without backing."""
    (tmp_path / "base.raw").write_bytes(b"\1" * MIB)
    for name in ("top", "other", "lone"):
        create(tmp_path / f"{name}.qcow2", "1M", "-b", "base.raw", "-F", "raw")
    machine = new_machine(Sim(0))
    machine.graph.directory = str(tmp_path)
    keys = [
        "driver=qcow2,file.driver=file,file.filename=top.qcow2,node-name=top",
        "driver=qcow2,file.driver=file,file.filename=other.qcow2,node-name=other",
        "driver=qcow2,file.driver=file,file.filename=lone.qcow2,node-name=lone,backing=",
    ]
    pairs = [("blockdev", key) for key in keys]
    config = parse_config([*pairs, ("device", "virtio-blk-pci,drive=top,id=d")])
    assembly = Assembly(machine, config.devices)
    for definition in config.blockdevs:
        perform(assembly.add_node(definition))
    perform(assembly.add_device(config.devices[0]))
    return machine


def node(machine: Machine, name: str) -> BlockNode:
    return machine.graph.nodes[name]


async def attach(machine: Machine, change: Relink) -> None:
    change.attach(node(machine, "lone"), "backing", node(machine, "other"))


async def detach(machine: Machine, change: Relink) -> None:
    change.detach(node(machine, "top"), "backing")


async def replace(machine: Machine, change: Relink) -> None:
    change.replace(node(machine, "top"), node(machine, "other"))


async def snapshot(machine: Machine, change: Relink) -> None:
    change.attach(node(machine, "lone"), "backing", node(machine, "top"))
    change.replace(node(machine, "top"), node(machine, "lone"))


async def other_child(machine: Machine, change: Relink) -> None:
    change.set_child(node(machine, "top"), "backing", node(machine, "other"))


async def no_child(machine: Machine, change: Relink) -> None:
    change.set_child(node(machine, "top"), "backing", None)


async def insert(machine: Machine, change: Relink) -> None:
    top = node(machine, "top")
    cor = CopyOnReadNode(NodeOptions(node_name="cor"), machine, top, top.children["backing"])
    cor.definition = BlockdevOptionsCor(driver="copy-on-read", file="top", bottom="")
    await cor.do_open()
    change.insert(cor)
    change.replace(top, cor)


async def open_backing(machine: Machine, change: Relink) -> None:
    await change.open_backing(node(machine, "lone"))


CHANGES: list[Change] = [
    *(attach, detach, replace, snapshot, other_child, no_child, insert, open_backing)
]
each_change = pytest.mark.parametrize("change", CHANGES, ids=[one.__name__ for one in CHANGES])


def state(machine: Machine) -> dict[str, Any]:
    """All that a change of links may touch; the order of users is nobody's."""
    nodes = {
        name: (
            {child_name: child.node_name for child_name, child in one.children.items()},
            sorted(map(repr, one.parents)),
            [one.op_blockers.reason(op) for op in BlockOpType],
            one.filename,
            one.closed,
        )
        for name, one in machine.graph.nodes.items()
        if not name.startswith("#")
    }
    return {"nodes": nodes, "roots": [blk.root.node_name for blk in machine.backends]}


async def carry_out(machine: Machine, change: Change) -> Relink:
    async with Relink(machine.graph) as links:
        await change(machine, links)
    return links


@each_change
def test_a_change_is_made(machine: Machine, change: Change) -> None:
    before, concerns = state(machine), machine.concerns
    perform(carry_out(machine, change))
    assert state(machine) != before
    # A drive that has another root is all that `replace` concerns here; it tells itself.
    assert machine.concerns > concerns or change is replace


@each_change
def test_a_conflict_puts_everything_back(
    machine: Machine, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, checked = state(machine), []

    def refuse(nodes: Any, closing: Any) -> None:
        checked.append(state(machine))
        raise QmpError("no")

    monkeypatch.setattr(relink, "check_permissions", refuse)
    with pytest.raises(QmpError, match="^no$"):
        perform(carry_out(machine, change))
    assert checked and checked[0] != before
    assert state(machine) == before


@each_change
def test_an_exception_puts_everything_back(machine: Machine, change: Change) -> None:
    before = state(machine)

    async def fail(machine: Machine, links: Relink) -> None:
        await change(machine, links)
        raise OSError(5, "no")

    with pytest.raises(OSError, match="no"):
        perform(carry_out(machine, fail))
    assert state(machine) == before


@each_change
def test_a_change_is_undone_later(machine: Machine, change: Change) -> None:
    """As a transaction does whose next action fails; what was closed meanwhile stays closed."""
    for name in ("top", "other"):
        for child in node(machine, name).children.values():
            child.monitor_owned = True
    before = state(machine)
    links = perform(carry_out(machine, change))
    links.undo()
    assert state(machine) == before


def test_a_conflict_is_found(machine: Machine) -> None:
    """Also at a node that is only connected with those that were named."""
    base = node(machine, "top").children["backing"]
    base.parents.append(NodeUser(NONE, ALL & ~Perm.CONSISTENT_READ, "a test"))
    with pytest.raises(QmpError, match="^Permission conflict on node '#block"):
        perform(carry_out(machine, snapshot))


def test_file_names_are_found_anew(machine: Machine) -> None:
    perform(carry_out(machine, other_child))
    assert "other.qcow2" in node(machine, "top").filename
    perform(carry_out(machine, no_child))
    assert "other.qcow2" not in node(machine, "top").filename


def test_what_is_unused_is_closed(machine: Machine) -> None:
    top = node(machine, "top")
    base = top.children["backing"]
    perform(carry_out(machine, no_child))
    assert base.closed and base.node_name not in machine.graph.nodes


def test_what_is_put_back_is_not_closed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = node(machine, "top").children["backing"]
    before = dict(machine.graph.nodes)

    def refuse(nodes: Any, closing: Any) -> None:
        raise QmpError("no")

    monkeypatch.setattr(relink, "check_permissions", refuse)
    for change in (no_child, open_backing):
        with pytest.raises(QmpError):
            perform(carry_out(machine, change))
    assert not base.closed and machine.graph.nodes == before
