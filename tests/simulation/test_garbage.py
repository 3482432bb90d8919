# SPDX-License-Identifier: MIT
"""What is over is gone at once: nothing that was large waits for Python's collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockcore.job.job import Job
from blockcore.jobs.copy_data import DataCopier
from blockcore.machine.graph_changes import blockdev_add, blockdev_del
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import parse_blockdev_options
from blockcore.nodes.node import BlockNode
from job_kinds import KINDS
from job_world import JobWorld
from qcow2_images import create
from sim import Sim, new_machine, perform

BLOCK = 4096
MIB = 1 << 20

Marks = dict[int, weakref.ref[Any]]


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    # What there was before stays frozen, as it is since the collection of the tests: hundreds of
    # thousands of things need not be looked at, here and by all later tests.
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()


def mark(kinds: tuple[type, ...], marks: Marks) -> None:
    """Remember all there are of these kinds, without keeping them."""
    for thing in gc.get_objects():
        if type(thing) in (weakref.ProxyType, weakref.CallableProxyType):
            continue
        if isinstance(thing, kinds):
            marks.setdefault(id(thing), weakref.ref(thing))


def left(marks: Marks) -> list[Any]:
    return [thing for one in marks.values() if (thing := one()) is not None]


@pytest.mark.parametrize("how", ["completed", "cancelled", "failed"])
@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_left_of_a_job(name: str, how: str) -> None:
    """Neither the job, nor its filter, nor what has its buffers."""
    kinds = (Job, DataCopier, BlockNode)
    sim = Sim(2)
    sim.be_orderly()
    world = JobWorld(sim, KINDS[name])
    others: Marks = {}
    mark(kinds, others)
    if how == "failed":
        world.fails = lambda side, disk, what: 5 * (side == "target" and what == "write")
    world.start_job("report")
    marks: Marks = {}
    for _ in range(5):
        mark(kinds, marks)
        steps = iter(range(20))
        sim.run(lambda steps=steps: next(steps, None) is None)  # type: ignore[misc]
    world.finish(complete=how != "cancelled", cancel=how == "cancelled")
    marks = {number: one for number, one in marks.items() if number not in others}
    assert any(world.told), "there was a job"
    there = list(world.machine.graph.nodes.values())
    assert [thing for thing in left(marks) if thing not in there] == []


FILE = {"driver": "file", "filename": "raw"}

NODES: dict[str, dict[str, Any]] = {
    "file": FILE,
    "direct": {**FILE, "cache": {"direct": True}},
    "volume": {**FILE, "x-physical-size": MIB},
    "raw": {"driver": "raw", "file": FILE, "offset": 512},
    "null-co": {"driver": "null-co"},
    "blkdebug": {
        "driver": "blkdebug",
        "image": FILE,
        "inject-error": [{"event": "none", "errno": 5, "sector": 100}],
        "set-state": [{"event": "read_aio", "new_state": 2}],
    },
    "qcow2": {"driver": "qcow2", "file": {"driver": "file", "filename": "base.qcow2"}},
    "chain": {"driver": "qcow2", "file": {"driver": "file", "filename": "top.qcow2"}},
}


@pytest.mark.parametrize("name", NODES)
def test_nothing_is_left_of_a_node(name: str, tmp_path: Path) -> None:
    """Nor of the tables of an image."""
    (tmp_path / "raw").write_bytes(bytes(MIB))
    create(tmp_path / "base.qcow2", MIB)
    create(tmp_path / "top.qcow2", MIB, backing_file="base.qcow2", backing_fmt="qcow2")
    machine = new_machine(Sim(2))
    machine.graph.directory = str(tmp_path)
    marks: Marks = {}
    perform(use(machine, {**NODES[name], "node-name": "n"}, marks))
    assert not machine.graph.nodes and marks
    assert left(marks) == []


async def use(machine: Machine, definition: dict[str, Any], marks: Marks) -> None:
    await blockdev_add(machine, parse_blockdev_options(definition))
    node = machine.graph.nodes["n"]
    buffer = memoryview(bytearray(BLOCK))
    for offset in (0, 16 * BLOCK):
        await node.pwrite(offset, buffer)
        await node.zero(offset, BLOCK, may_unmap=True)
        await node.discard(offset, BLOCK)
        await node.pread(offset, buffer)
    await node.flush()
    for one in machine.graph.nodes.values():
        marks[id(one)] = weakref.ref(one)
        if (mapping := getattr(one, "mapping", None)) is not None:
            marks[id(mapping)] = weakref.ref(mapping)
    del one, node, mapping
    await blockdev_del(machine, "n")
