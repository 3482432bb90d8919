# SPDX-License-Identifier: MIT
"""Nodes that are put on another file: what they knew of the old one is forgotten."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevOptionsFile
from blockcore.nodes.driver import NewChildren, NodeOptions
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.permissions import NONE, NodeUser
from blockcore.qapi.names import QmpError
from qcow2_images import check_clean, create, qemu_io, read
from sim import MemoryNode, Sim, add_node, execute, new_machine, perform

pytestmark = pytest.mark.both_ways

MIB = 1 << 20

OTHERS: dict[str, dict[str, Any]] = {
    "the same": {"size": "8M"},
    "longer": {"size": "64M"},
    "shorter": {"size": "2M"},
    "clusters of another size": {"size": "8M", "cluster_size": 4096},
    "an older version": {"size": "8M", "compat": "0.10"},
}


@pytest.fixture(name="machine")
def _machine(tmp_path: Path) -> Machine:
    machine = new_machine(Sim(0))
    machine.graph.directory = str(tmp_path)
    return machine


def add(machine: Machine, **options: Any) -> None:
    perform(execute(machine, "blockdev-add", **options))


def reopen(machine: Machine, *options: dict[str, Any]) -> None:
    perform(execute(machine, "blockdev-reopen", options=list(options)))


def image_on(machine: Machine, path: Path, other: Path, **more: Any) -> Qcow2Node:
    """Node `q`, on file `old`; there is a file `new`."""
    add(machine, driver="file", node_name="old", filename=path.name)
    add(machine, driver="file", node_name="new", filename=other.name)
    add(machine, driver="qcow2", node_name="q", file="old", **more)
    node = machine.graph.nodes["q"]
    assert isinstance(node, Qcow2Node)
    return node


ON_NEW = {"driver": "qcow2", "node-name": "q", "file": "new"}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_image(machine: Machine, tmp_path: Path, other: dict[str, Any]) -> None:
    old = create(tmp_path / "old.qcow2", "8M")
    qemu_io(old, "write -P 1 0 256k", "write -P 1 1M 64k")
    new = create(tmp_path / "new.qcow2", **other)
    qemu_io(new, "write -P 2 64k 512k", "write -P 3 1536k 300k")
    node = image_on(machine, old, new)
    perform(
        execute(machine, "block-dirty-bitmap-add", node="q", name="b", granularity=65536)
    )
    assert read(node, MIB, 4096) == b"\1" * 4096
    perform(node.pwrite(3 * MIB, memoryview(b"\4" * 65536)))
    reopen(machine, ON_NEW)
    assert node.size == node.bitmaps.find("b").size == size_of(new)
    assert read(node, 0, 4096) == bytes(4096)
    assert read(node, 65536, 512 << 10) == b"\2" * (512 << 10)
    assert read(node, MIB, 65536) == bytes(65536)
    perform(node.pwrite(MIB, memoryview(b"\5" * 200_000)))
    perform(node.flush())
    assert read(node, 1536 << 10, 300 << 10) == b"\3" * (300 << 10)
    perform(machine.graph.close_all())
    check_clean(old)
    check_clean(new)
    assert "failed" not in qemu_io(old, "read -P 1 0 256k", "read -P 4 3M 64k", "read -P 0 2M 1M")
    assert "failed" not in qemu_io(new, "read -P 0 0 64k", "read -P 5 1M 200000")


def size_of(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[24:32], "big")


def test_read_only_and_back_on_another_file(machine: Machine, tmp_path: Path) -> None:
    old, new = create(tmp_path / "old.qcow2", "4M"), create(tmp_path / "new.qcow2", "6M")
    qemu_io(old, "write -P 1 0 64k")
    qemu_io(new, "write -P 2 0 64k")
    node = image_on(machine, old, new)
    reopen(machine, {**ON_NEW, "read-only": True})
    assert (node.read_only, node.size) == (True, 6 * MIB)
    assert read(node, 0, 65536) == b"\2" * 65536
    reopen(machine, {**ON_NEW, "file": "old"})
    assert (node.read_only, node.size) == (False, 4 * MIB)
    assert read(node, 0, 65536) == b"\1" * 65536
    perform(node.pwrite(65536, memoryview(b"\3" * 65536)))
    perform(machine.graph.close_all())
    check_clean(old)
    check_clean(new)


def spoil_nothing(path: Path) -> None:
    path.write_bytes(bytes(MIB))


def spoil_mark(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[79] |= 2
    path.write_bytes(data)


def spoil_length(path: Path) -> None:
    os.truncate(path, 3)


@pytest.mark.parametrize("spoil", [spoil_nothing, spoil_mark, spoil_length])
def test_what_cannot_be_opened_is_refused(machine: Machine, tmp_path: Path, spoil: Any) -> None:
    """The image stays where it was, and goes on."""
    old, new = create(tmp_path / "old.qcow2", "4M"), create(tmp_path / "new.qcow2", "6M")
    qemu_io(old, "write -P 1 0 64k")
    spoil(new)
    before = new.read_bytes()
    node = image_on(machine, old, new)
    with pytest.raises(QmpError):
        reopen(machine, ON_NEW)
    assert node.children["file"] is machine.graph.nodes["old"] and node.size == 4 * MIB
    assert read(node, 0, 65536) == b"\1" * 65536
    perform(node.pwrite(65536, memoryview(b"\3" * 65536)))
    perform(machine.graph.close_all())
    check_clean(old)
    assert new.read_bytes() == before
    assert "failed" not in qemu_io(old, "read -P 3 64k 64k")


class Stubborn(MemoryNode):
    """Cannot be reopened."""

    async def do_reopen(
        self, options: NodeOptions, definition: BlockdevOptions, children: NewChildren
    ) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_change_that_fails_after_it_takes_it_back(machine: Machine, tmp_path: Path) -> None:
    old, new = create(tmp_path / "old.qcow2", "4M"), create(tmp_path / "new.qcow2", "6M")
    qemu_io(old, "write -P 1 0 64k")
    node = image_on(machine, old, new)
    stubborn = Stubborn(NodeOptions(node_name="s"), machine, 512)
    stubborn.definition = BlockdevOptionsFile(driver="file", filename="memory")
    stubborn.driver = "file"  # type: ignore[misc]
    add_node(machine, stubborn)
    perform(node.pwrite(MIB, memoryview(b"\2" * 65536)))
    other = {"driver": "file", "node-name": "s", "filename": "memory"}
    for options in ([ON_NEW, other], [other, ON_NEW]):
        with pytest.raises(QmpError, match="^Permission denied$"):
            reopen(machine, *options)
        assert node.children["file"] is machine.graph.nodes["old"] and node.size == 4 * MIB
    assert read(node, 0, 65536) == b"\1" * 65536
    perform(node.pwrite(2 * MIB, memoryview(b"\3" * 65536)))
    perform(machine.graph.close_all())
    check_clean(old)
    check_clean(new)
    assert "failed" not in qemu_io(old, "read -P 2 1M 64k", "read -P 3 2M 64k")


def test_a_window_is_checked_against_the_new_file(machine: Machine, tmp_path: Path) -> None:
    for name, size in (("short", 1), ("long", 4)):
        (tmp_path / name).write_bytes(bytes(size * MIB))
        add(machine, driver="file", node_name=name, filename=name)
    add(machine, driver="raw", node_name="r", file="short")
    raw = {"driver": "raw", "node-name": "r"}
    reopen(machine, {**raw, "file": "long", "offset": 2 * MIB, "size": MIB})
    node = machine.graph.nodes["r"]
    assert node.size == MIB
    with pytest.raises(QmpError, match="cannot be greater than size of the containing file"):
        reopen(machine, {**raw, "file": "short", "offset": 2 * MIB, "size": MIB})
    assert node.children["file"] is machine.graph.nodes["long"] and node.size == MIB
    reopen(machine, {**raw, "file": "long", "offset": 0})
    assert node.size == 4 * MIB
    reopen(machine, {**raw, "file": "short"})
    assert node.size == MIB


def test_nothing_is_refused_when_the_drivers_have_reopened(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who comes meanwhile, and does not share the new link, is too late."""
    old, new = create(tmp_path / "old.qcow2", "4M"), create(tmp_path / "new.qcow2", "6M")
    node = image_on(machine, old, new)
    reopened = Qcow2Node.do_reopen

    async def do_reopen(self: Qcow2Node, *args: Any) -> None:
        await reopened(self, *args)
        machine.graph.nodes["new"].parents.append(NodeUser(NONE, NONE))

    monkeypatch.setattr(Qcow2Node, "do_reopen", do_reopen)
    reopen(machine, ON_NEW)
    assert node.children["file"] is machine.graph.nodes["new"] and node.size == 6 * MIB
    assert node.definition.children()["file"] == "new"
