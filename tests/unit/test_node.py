# SPDX-License-Identifier: MIT
"""Nodes and stacks of them: what the I/O core owes, and blkdebug as recorded."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blockcore.faults.options import FaultOptions
from blockcore.faults.states import StateChange
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.flat_options import open_options
from blockcore.nodes.definitions.options import parse_blockdev_options
from blockcore.nodes.driver import Extent, NodeOptions
from blockcore.nodes.drivers.blkdebug import BlkdebugLimits, BlkdebugNode
from blockcore.nodes.drivers.file import FileNode
from blockcore.nodes.drivers.null import NullNode
from blockcore.nodes.drivers.raw import RawNode
from blockcore.nodes.node import BlockNode
from blockcore.nodes.zeroes import ZEROES
from blockcore.qapi.events import BlockWriteThreshold, Event
from blockcore.qapi.keyval import parse_opts
from blockcore.qapi.names import (
    BlkdebugEvent,
    BlkdebugIOType,
    BlockdevDetectZeroesOptions,
    QmpError,
    UInt64,
)
from rules import fail
from sim import MemoryNode, Sim, add_node, number_of, perform
from tree import RECORDINGS

pytestmark = pytest.mark.both_ways

SIZE = 2 << 20
K = 1024
ZEROES_MAX = len(ZEROES)


@pytest.fixture(name="machine")
def _machine() -> Machine:
    sim = Sim(0)
    return Machine(sim, 0, region=sim.lock.region, directory="/")


def memory(machine: Machine, name: str = "disk", size: int = SIZE, **more: Any) -> MemoryNode:
    return MemoryNode(NodeOptions(node_name=name, **more), machine, size)


def fault(**members: Any) -> FaultOptions:
    return fail(id="f", **members)


def pread(node: BlockNode, offset: int, length: int) -> bytes:
    buf = bytearray(b"\xee" * length)
    perform(node.pread(offset, memoryview(buf)))
    return bytes(buf)


def pwrite(node: BlockNode, offset: int, data: bytes, *, fua: bool = False) -> None:
    perform(node.pwrite(offset, memoryview(data), fua=fua))


class Watched(MemoryNode):
    """A disk that writes down what reaches its driver."""

    driver = "watched"
    refuses_zeroes = False

    def __init__(self, machine: Machine, size: int = SIZE, **more: Any) -> None:
        self.log: list[Any] = []
        super().__init__(NodeOptions(node_name="disk", **more), machine, size)

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        self.log.append(("read", offset, len(buf)))
        await super().do_pread(offset, buf)

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        self.log.append(("write", offset, len(buf)))
        await super().do_pwrite(offset, buf)

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        self.log.append(("unmap" if may_unmap else "zero", offset, length))
        if self.refuses_zeroes:
            raise OSError(errno.ENOTSUP, "no zeroes")
        await super().do_zero(offset, length, may_unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        self.log.append(("discard", offset, length))
        await super().do_discard(offset, length)

    async def do_flush(self) -> None:
        self.log.append("flush")
        await super().do_flush()

    def debug_event(self, event: BlkdebugEvent) -> None:
        self.log.append(event)
        super().debug_event(event)

    def taken(self, *, events: bool = False) -> list[Any]:
        log, self.log = self.log, []
        return [entry for entry in log if events or not isinstance(entry, BlkdebugEvent)]


# What every node owes.


def test_fua_flushes_what_it_wrote(machine: Machine) -> None:
    disk = Watched(machine)
    pwrite(disk, 0, b"a", fua=True)
    perform(disk.zero(0, 512, may_unmap=False, fua=True))
    assert disk.taken() == [("write", 0, 1), "flush", ("zero", 0, 512), "flush"]


def test_flushes_only_what_was_written(machine: Machine) -> None:
    """bdrv_co_flush's generations: reads need no flush, each change needs one."""
    disk = Watched(machine)
    perform(disk.flush())
    pread(disk, 0, 1)
    perform(disk.flush())
    assert "flush" not in disk.taken()
    for change in (
        lambda: pwrite(disk, 0, b"a"),
        lambda: perform(disk.zero(0, 1, may_unmap=False)),
        lambda: perform(disk.discard(0, 512)),
        lambda: perform(disk.truncate(SIZE)),
        lambda: disk.traces.reached(5),
    ):
        change()
        perform(disk.flush())
        perform(disk.flush())
        assert disk.taken().count("flush") == 1


def test_a_failed_write_needs_a_flush(machine: Machine) -> None:
    """Part of it may have been written."""
    disk = Watched(machine)
    disk.injector().add(fault(iotype=BlkdebugIOType.WRITE, count=1))
    assert number_of(disk.pwrite(0, memoryview(b"a"))) == errno.EIO
    perform(disk.flush())
    assert disk.taken() == ["flush"]


def test_a_failed_flush_is_tried_again(machine: Machine) -> None:
    disk = Watched(machine)
    pwrite(disk, 0, b"a")
    disk.injector().add(fault(iotype=BlkdebugIOType.FLUSH, count=1))
    assert number_of(disk.flush()) == errno.EIO
    assert disk.stable[:1] == b"\0"
    perform(disk.flush())
    assert disk.stable[:1] == b"a"


def test_no_flush(machine: Machine) -> None:
    """cache.no-flush: neither the disk nor the rules hear of it."""
    disk = Watched(machine, no_flush=True)
    disk.injector().add(fault(iotype=BlkdebugIOType.FLUSH))
    pwrite(disk, 0, b"a", fua=True)
    assert disk.taken() == [("write", 0, 1)]


def test_flush_reaches_the_children_that_can_be_written(machine: Machine) -> None:
    disk = Watched(machine)
    raw = RawNode(NodeOptions(node_name="r"), machine, disk)
    perform(raw.do_open())
    pwrite(raw, 0, b"a")
    perform(raw.flush())
    assert disk.taken() == [("write", 0, 1), "flush"]
    pwrite(disk, 0, b"a")
    disk.options = replace(disk.options, read_only=True)
    perform(raw.flush())
    assert disk.taken() == [("write", 0, 1)]


def test_events_of_a_flush_go_to_the_child(machine: Machine) -> None:
    disk = Watched(machine)
    raw = RawNode(NodeOptions(node_name="r"), machine, disk)
    perform(raw.do_open())
    perform(raw.flush())
    assert disk.taken(events=True) == [BlkdebugEvent.FLUSH_TO_OS]
    pwrite(raw, 0, b"a")
    disk.taken()
    perform(raw.flush())
    flush = [BlkdebugEvent.FLUSH_TO_OS, BlkdebugEvent.FLUSH_TO_DISK, "flush"]
    assert disk.taken(events=True) == flush
    perform(disk.flush())
    assert disk.taken(events=True) == []


def test_events_of_reads_and_writes(machine: Machine) -> None:
    disk = Watched(machine)
    raw = RawNode(NodeOptions(node_name="r"), machine, disk)
    perform(raw.do_open())
    pread(raw, 0, 1)
    assert disk.taken(events=True) == [BlkdebugEvent.READ_AIO, ("read", 0, 1)]
    pwrite(raw, 0, b"a")
    assert disk.taken(events=True) == [
        BlkdebugEvent.WRITE_AIO,
        BlkdebugEvent.PWRITEV,
        ("write", 0, 1),
        BlkdebugEvent.PWRITEV_DONE,
    ]
    perform(raw.zero(0, 1, may_unmap=True))
    assert disk.taken(events=True) == [
        BlkdebugEvent.PWRITEV_ZERO,
        ("unmap", 0, 1),
        BlkdebugEvent.PWRITEV_DONE,
    ]


def test_highest_offset(machine: Machine) -> None:
    """Written, zeroed, even failed writes count; discards and reads do not (semantics 7.2)."""
    disk = memory(machine)
    pread(disk, 8 * K, K)
    perform(disk.discard(8 * K, K))
    assert disk.wr_highest_offset == 0
    pwrite(disk, K, b"a" * K)
    assert disk.wr_highest_offset == 2 * K
    perform(disk.zero(0, 3 * K, may_unmap=True))
    assert disk.wr_highest_offset == 3 * K
    disk.injector().add(fault())
    assert number_of(disk.pwrite(3 * K, memoryview(b"a" * K))) == errno.EIO
    assert disk.wr_highest_offset == 4 * K
    disk.traces.reached(5 * K)
    disk.traces.reached(K)
    assert disk.wr_highest_offset == 5 * K


def test_zeroes_that_a_driver_cannot_make_are_written(machine: Machine) -> None:
    disk = Watched(machine, size=4 * ZEROES_MAX)
    disk.refuses_zeroes = True
    pwrite(disk, 0, b"\xaa" * 4 * ZEROES_MAX)
    disk.taken()
    perform(disk.zero(1, 2 * ZEROES_MAX, may_unmap=True))
    assert disk.taken() == [
        ("unmap", 1, 2 * ZEROES_MAX),
        ("write", 1, ZEROES_MAX),
        ("write", 1 + ZEROES_MAX, ZEROES_MAX),
    ]
    assert disk.data == b"\xaa" + bytes(2 * ZEROES_MAX) + b"\xaa" * (2 * ZEROES_MAX - 1)
    assert number_of(disk.zero(0, 1, may_unmap=True, no_fallback=True)) == errno.ENOTSUP


@pytest.mark.parametrize("detect", BlockdevDetectZeroesOptions)
@pytest.mark.parametrize("discard_unmap", [True, False])
def test_detect_zeroes(
    machine: Machine, detect: BlockdevDetectZeroesOptions, discard_unmap: bool
) -> None:
    disk = Watched(machine, detect_zeroes=detect, discard_unmap=discard_unmap)
    pwrite(disk, 0, bytes(512))
    pwrite(disk, 512, bytes(511) + b"a")
    unmap = detect is BlockdevDetectZeroesOptions.UNMAP and discard_unmap
    kind = "write" if detect is BlockdevDetectZeroesOptions.OFF else "unmap" if unmap else "zero"
    assert disk.taken() == [(kind, 0, 512), ("write", 512, 512)]


UNMAPPED: list[tuple[tuple[bool, ...], str]] = [
    ((False,), "unmap"),
    ((True,), "unmap"),
    ((False, True), "unmap"),
    ((True, True), "unmap"),
    ((False, False), "zero"),
    ((True, False), "zero"),
    ((False, True, True), "unmap"),
    ((True, True, False), "zero"),
    ((True, False, True), "zero"),
]
"""Of a stack of nodes from the top, whether they have discard=unmap; asked QEMU with files."""


@pytest.mark.parametrize(("discards", "outcome"), UNMAPPED)
@pytest.mark.parametrize("kind", [RawNode, BlkdebugNode])
def test_zeroes_that_may_unmap(
    machine: Machine, kind: Any, discards: tuple[bool, ...], outcome: str
) -> None:
    """Only what stands between two nodes is asked; the top node's `discard` is about discards."""
    disk = Watched(machine, discard_unmap=discards[-1])
    node: BlockNode = disk
    for unmap in reversed(discards[:-1]):
        node = kind(NodeOptions(node_name="above", discard_unmap=unmap), machine, node)
        perform(node.do_open())
    perform(node.zero(0, K, may_unmap=True))
    perform(node.zero(0, K, may_unmap=False))
    done = [entry for entry in disk.log if isinstance(entry, tuple)]
    assert done == [(outcome, 0, K), ("zero", 0, K)]


def test_discard_needs_unmap(machine: Machine) -> None:
    """Semantics 1.3: without it discards cannot even fail."""
    disk = Watched(machine, discard_unmap=False)
    disk.injector().add(fault())
    perform(disk.discard(0, 512))
    assert disk.taken() == []
    disk = Watched(machine)
    perform(disk.discard(0, 512))
    assert disk.taken() == [("discard", 0, 512)]


def test_block_status_stays_within_the_question(machine: Machine) -> None:
    class Big(MemoryNode):
        async def do_block_status(self, offset: int, length: int) -> Extent:
            return Extent(SIZE, data=False, zero=True)

    node = Big(NodeOptions(node_name="big"), machine, SIZE)
    assert perform(node.block_status(0, 512)) == Extent(512, data=False, zero=True)


THRESHOLD: dict[str, tuple[str, int, int, int | None]] = {
    # kind of request, offset, length, by how much the threshold of 512 KiB is exceeded
    "write, to it": ("write", 512 * K - 1, 1, None),
    "write, beyond": ("write", 512 * K, 1, 1),
    "write, across": ("write", 510 * K, 4 * K, 2 * K),
    "zero": ("zero", 512 * K, K, K),
    "discard": ("discard", 512 * K, K, K),
    "read": ("read", 512 * K, K, None),
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    ("kind", "offset", "length", "exceeded"), THRESHOLD.values(), ids=THRESHOLD
)
def test_write_threshold(
    machine: Machine, kind: str, offset: int, length: int, exceeded: int | None, fails: bool
) -> None:
    """One shot, said when the request begins, whatever comes of it (semantics 5.7)."""
    said: list[Event] = []
    machine.listeners.append(lambda event, now_ns: said.append(event))
    disk = memory(machine)
    disk.set_write_threshold(512 * K)
    if fails:
        disk.injector().add(fault())
    for _ in range(2):
        number_of(_request(disk, kind, offset, length))
    if exceeded is None:
        assert not said and disk.write_threshold == 512 * K
    else:
        assert disk.write_threshold == 0
        assert said == [
            BlockWriteThreshold(
                node_name="disk",
                amount_exceeded=UInt64(exceeded),
                write_threshold=UInt64(512 * K),
            )
        ]


def _request(node: BlockNode, kind: str, offset: int, length: int) -> Coroutine[Any, Any, None]:
    match kind:
        case "read":
            return node.pread(offset, memoryview(bytearray(length)))
        case "write":
            return node.pwrite(offset, memoryview(b"w" * length))
        case "zero":
            return node.zero(offset, length, may_unmap=False)
        case "discard":
            return node.discard(offset, length)
    return node.flush()


def test_a_fault_does_not_reach_the_disk(machine: Machine) -> None:
    disk = Watched(machine)
    pwrite(disk, 0, b"a")
    disk.taken()
    disk.injector().add(fault(errno=errno.ENOSPC))
    for kind in ("read", "write", "zero", "discard", "flush"):
        assert number_of(_request(disk, kind, 0, 1)) == errno.ENOSPC
    assert disk.taken() == []


@pytest.mark.parametrize("number", [0, -5])
def test_errno_that_lets_through(machine: Machine, number: int) -> None:
    disk = memory(machine)
    disk.injector().add(fault(errno=number))
    pwrite(disk, 0, b"a")
    assert pread(disk, 0, 1) == b"a"


# The drivers.


def test_null(machine: Machine) -> None:
    null = NullNode(NodeOptions(node_name="n"), machine)
    assert null.size == 1 << 30
    pwrite(null, 0, b"abc")
    assert pread(null, 0, 3) == b"\0\0\0"
    perform(null.zero(0, 512, may_unmap=True))
    perform(null.discard(0, 512))
    perform(null.flush())
    with pytest.raises(QmpError, match="^Image format driver does not support resize$"):
        perform(null.truncate(512))
    assert perform(null.block_status(0, 512)) == Extent(512, data=True, zero=False)
    null = NullNode(NodeOptions(node_name="n"), machine, size=5, read_zeroes=True)
    assert perform(null.block_status(0, 5)) == Extent(5, data=False, zero=True)


@pytest.mark.parametrize("kind", ["read", "write", "zero", "flush"])
def test_null_takes_its_time(kind: str) -> None:
    sim = Sim(0)
    machine = Machine(sim, 0, region=sim.lock.region, directory="/")
    null = NullNode(NodeOptions(node_name="n"), machine, size=K, latency_ns=1000)
    null.traces.reached(0)
    sim.start(kind, _request(null, kind, 0, 512))
    started_ns = sim.now_ns
    sim.run()
    assert sim.now_ns == started_ns + 1000 and not sim.running


def test_raw_window(machine: Machine) -> None:
    disk = memory(machine)
    raw = RawNode(NodeOptions(node_name="r"), machine, disk, 4 * K, 8 * K)
    perform(raw.do_open())
    assert raw.size == 8 * K
    pwrite(raw, 1, b"abc")
    assert disk.data[4 * K : 4 * K + 5] == b"\0abc\0"
    assert pread(raw, 0, 5) == b"\0abc\0"
    perform(raw.zero(2, 1, may_unmap=True))
    perform(raw.discard(3, 1))
    assert disk.data[4 * K : 4 * K + 5] == b"\0a\0\0\0"
    with pytest.raises(QmpError, match="^Cannot resize fixed-size raw disks$"):
        perform(raw.truncate(4 * K))


def test_raw_to_the_end(machine: Machine) -> None:
    raw = RawNode(NodeOptions(node_name="r"), machine, memory(machine), 4 * K)
    perform(raw.do_open())
    assert raw.size == SIZE - 4 * K
    perform(raw.truncate(16 * K))
    assert raw.size == 16 * K and raw.below.size == 20 * K


def make_blkdebug(machine: Machine, disk: BlockNode, **more: Any) -> BlkdebugNode:
    node = BlkdebugNode(NodeOptions(node_name="b"), machine, disk, **more)
    perform(node.do_open())
    return node


def test_blkdebug_limits(machine: Machine) -> None:
    disk = Watched(machine)
    limits = BlkdebugLimits(
        max_transfer=4 * K,
        opt_write_zero=8 * K,
        max_write_zero=16 * K,
        opt_discard=8 * K,
        max_discard=16 * K,
    )
    node = make_blkdebug(machine, disk, limits=limits)
    pwrite(node, 0, b"a" * 10 * K)
    assert disk.taken() == [("write", 0, 4 * K), ("write", 4 * K, 4 * K), ("write", 8 * K, 2 * K)]
    assert pread(node, K, 5 * K) == b"a" * 5 * K
    assert disk.taken() == [("read", K, 4 * K), ("read", 5 * K, K)]
    perform(node.zero(0, 40 * K, may_unmap=False))
    assert disk.taken() == [
        ("zero", 0, 16 * K),
        ("zero", 16 * K, 16 * K),
        ("zero", 32 * K, 8 * K),
    ]
    perform(node.zero(0, 4 * K, may_unmap=False))
    assert disk.taken() == [("write", 0, 4 * K)]
    perform(node.discard(0, 24 * K))
    assert disk.taken() == [("discard", 0, 16 * K), ("discard", 16 * K, 8 * K)]
    perform(node.discard(0, 4 * K))
    assert disk.taken() == []


def test_blkdebug_passes_the_rest_on(machine: Machine) -> None:
    disk = memory(machine)
    node = make_blkdebug(machine, disk)
    assert node.size == SIZE
    perform(node.truncate(K))
    assert node.size == disk.size == K
    assert perform(node.block_status(0, K)) == Extent(K, data=True, zero=False)


def test_blkdebug_changes_its_state(machine: Machine) -> None:
    change = StateChange(event=BlkdebugEvent.PWRITEV_DONE, state=1, new_state=2)
    rule = fault(event=BlkdebugEvent.PWRITEV, state=2)
    node = make_blkdebug(machine, memory(machine), rules=[rule], changes=[change])
    write = (node.pwrite(0, memoryview(b"a")) for _ in range(3))
    assert [number_of(coro) for coro in write] == [0, errno.EIO, errno.EIO]


# Files.


@pytest.fixture(name="image")
def _image(tmp_path: Path) -> Path:
    image = tmp_path / "disk.raw"
    image.write_bytes(b"\x11" * 64 * K)
    return image


def file_node(machine: Machine, image: Path, **more: Any) -> FileNode:
    node = FileNode(NodeOptions(node_name="file", **more), machine, image.name, str(image))
    perform(node.do_open())
    return node


@pytest.fixture(name="opened")
def _opened(machine: Machine, image: Path) -> Iterator[FileNode]:
    node = file_node(machine, image)
    yield node
    perform(node.do_close())


def test_file(opened: FileNode, image: Path) -> None:
    assert opened.size == 64 * K
    pwrite(opened, 5, b"abc", fua=True)
    assert image.read_bytes()[4:9] == b"\x11abc\x11"
    assert pread(opened, 4, 5) == b"\x11abc\x11"
    perform(opened.zero(6, 1, may_unmap=False))
    assert pread(opened, 4, 5) == b"\x11a\0c\x11"
    perform(opened.truncate(128 * K))
    assert image.stat().st_size == opened.size == 128 * K
    assert perform(opened.do_allocated_file_size()) == image.stat().st_blocks * 512


def test_file_shorter_than_it_was(opened: FileNode, image: Path) -> None:
    """Somebody has cut it off: what is missing reads as zeroes, as in QEMU."""
    os.truncate(image, K)
    assert pread(opened, 0, 2 * K) == b"\x11" * K + bytes(K)


def test_file_discard(opened: FileNode) -> None:
    perform(opened.discard(8 * K, 16 * K))
    assert pread(opened, 8 * K, 16 * K) == bytes(16 * K)
    assert (opened.discards_ok, opened.discard_bytes_ok, opened.discards_failed) == (1, 16 * K, 0)
    extents = []
    offset = 0
    while offset < opened.size:
        extents.append(perform(opened.block_status(offset, opened.size - offset)))
        offset += extents[-1].length
    assert extents == [
        Extent(8 * K, data=True, zero=False),
        Extent(16 * K, data=False, zero=True),
        Extent(40 * K, data=True, zero=False),
    ]


def test_file_discard_that_fails(machine: Machine, image: Path) -> None:
    """A descriptor that cannot be written to: EBADF."""
    node = file_node(machine, image, read_only=True)
    assert number_of(node.discard(0, 512)) == errno.EBADF
    assert (node.discards_ok, node.discards_failed) == (0, 1)
    perform(node.do_close())


def test_file_that_cannot_be_opened(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(QmpError) as caught:
        file_node(machine, tmp_path / "nope")
    assert caught.value.desc == "Could not open 'nope': No such file or directory"


def test_a_directory_is_no_file(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(QmpError) as caught:
        file_node(machine, tmp_path)
    wanted = f"'file' driver requires '{tmp_path.name}' to be a regular file"
    assert caught.value.desc == wanted


def test_closing_gives_the_descriptor_back(machine: Machine, image: Path) -> None:
    node = file_node(machine, image)
    fd = node.fd
    perform(node.do_close())
    with pytest.raises(OSError):
        os.fstat(fd)
    assert node.fd == -1
    perform(node.do_close())


def test_refused_name_leaves_no_descriptor_open(machine: Machine, image: Path) -> None:
    """Another node takes the name while the file below is being opened."""
    definition = {
        "driver": "raw",
        "node-name": "n",
        "file": {"driver": "file", "filename": str(image)},
    }
    before = len(os.listdir("/proc/self/fd"))
    opening = machine.graph.open(parse_blockdev_options(definition))
    call = opening.send(None)
    opened = call.perform()
    add_node(machine, memory(machine, "n"))
    with pytest.raises(QmpError, match="^Duplicate nodes with node-name='n'$"):
        _finish(opening, opened)
    assert len(os.listdir("/proc/self/fd")) == before


def _finish(coro: Coroutine[Any, Any, Any], value: Any) -> None:
    while True:
        value = coro.send(value).perform()


# Straight to the descriptor.


@pytest.mark.one_way
def test_a_way_through_a_stack(machine: Machine, opened: FileNode) -> None:
    """Gates are in the offsets of the node that is asked."""
    raw = RawNode(NodeOptions(node_name="r"), machine, opened, 4 * K)
    perform(raw.do_open())
    opened.injector().add(fault(iotype=BlkdebugIOType.READ, offset=8 * K, length=K))
    raw.injector().add(fault(iotype=BlkdebugIOType.WRITE, offset=0, length=K))
    way = raw.way()
    assert way is not None and way.fd == opened.fd and way.shift == 4 * K
    assert (way.read_gate.starts, way.read_gate.ends) == ([4 * K], [5 * K])
    assert (way.write_gate.starts, way.write_gate.ends) == ([0], [K])
    assert way.traces.nodes == [(opened.traces, 4 * K), (raw.traces, 0)]


def _threshold(node: BlockNode) -> None:
    node.set_write_threshold(1)


def _rule_anywhere(node: BlockNode) -> None:
    node.injector().add(fault(iotype=BlkdebugIOType.READ))


def _change_of_state(node: BlockNode) -> None:
    node.injector().load((), [StateChange(event=BlkdebugEvent.READ_AIO, new_state=2)])


def _detect_zeroes(node: BlockNode) -> None:
    node.options = replace(node.options, detect_zeroes=BlockdevDetectZeroesOptions.ON)


@pytest.mark.one_way
@pytest.mark.parametrize("concern", [_threshold, _rule_anywhere, _change_of_state, _detect_zeroes])
@pytest.mark.parametrize("where", ["top", "bottom"])
def test_what_closes_the_way(
    machine: Machine, opened: FileNode, where: str, concern: Any
) -> None:
    raw = RawNode(NodeOptions(node_name="r"), machine, opened)
    assert raw.way() is not None
    concern(raw if where == "top" else opened)
    assert raw.way() is None


@pytest.mark.one_way
def test_blkdebug_has_a_way_but_for_its_limits(machine: Machine, opened: FileNode) -> None:
    assert make_blkdebug(machine, opened).way() is not None
    limits = BlkdebugLimits(max_transfer=512)
    assert make_blkdebug(machine, opened, limits=limits).way() is None


@pytest.mark.one_way
def test_o_direct_has_no_way(machine: Machine, image: Path) -> None:
    """Its requests need a bounce buffer."""
    node = file_node(machine, image, direct=True)
    assert node.way() is None
    pwrite(node, 0, b"a" * 4 * K)
    pwrite(node, 1, b"b")
    assert pread(node, 0, 4 * K) == b"ab" + b"a" * (4 * K - 2)
    perform(node.do_close())


# blkdebug as recorded from qemu-io: every case.

RECORDED = json.loads((RECORDINGS["7.2"] / "blkdebug-cli.json").read_text())

DEVIATIONS = {"errno as name": "accepted here, as errno=EIO"}


class QemuIo:
    """qemu-io's commands on a node; `out` is what it prints, errors of its own last."""

    def __init__(self, node: BlockNode) -> None:
        self.node = node
        self.out: list[str] = []
        self.err: list[str] = []

    def run(self, line: str) -> None:
        command, *words = line.split()
        zero = "-z" in words
        numbers = [_bytes(word) for word in words if word != "-z"]
        match command:
            case "read":
                self.transfer("read", "read", "read", *numbers)
            case "write":
                self.transfer("write", "wrote", "zero" if zero else "write", *numbers)
            case "discard":
                self.transfer("discard", "discard", "discard", *numbers)
            case "flush":
                number_of(self.node.flush())
            case "alloc":
                if number := number_of(self.node.block_status(*numbers)):
                    self.out.append(f"is_allocated failed: {os.strerror(number)}")
            case "map":
                if number := number_of(self.node.block_status(0, self.node.size)):
                    text = f"Failed to get allocation status: {os.strerror(number)}"
                    self.err.append(f"qemu-io: {text}")
            case _:
                raise AssertionError(f"no command {command}")

    def transfer(self, verb: str, done: str, kind: str, offset: int, length: int) -> None:
        if number := number_of(_request(self.node, kind, offset, length)):
            self.out.append(f"{verb} failed: {os.strerror(number)}")
        else:
            self.out.append(f"{done} {length}/{length} bytes at offset {offset}")


def _bytes(word: str) -> int:
    factors = {"k": K, "M": K * K}
    return int(word.rstrip("kM")) * factors.get(word[-1], 1)


def open_recorded(machine: Machine, case: dict[str, Any], tmp_path: Path) -> BlockNode:
    """The recorded stack, on a disk in memory that the recorded file name stands for."""
    (tmp_path / "c.conf").write_text(case["config"])
    machine.graph.directory = str(tmp_path)
    add_node(machine, memory(machine))
    options = parse_opts(case["argv"][2])
    for prefix in ("", "file."):
        if options.pop(f"{prefix}image.filename", None):
            del options[f"{prefix}image.driver"]
            options[f"{prefix}image"] = "disk"
    node = perform(machine.graph.open(open_options(options)))
    assert isinstance(node, BlockNode)
    return node


@pytest.mark.parametrize("case", RECORDED, ids=[case["test"] for case in RECORDED])
def test_recorded_blkdebug(machine: Machine, case: dict[str, Any], tmp_path: Path) -> None:
    try:
        io = QemuIo(open_recorded(machine, case, tmp_path))
        for option, command in zip(case["argv"][3::2], case["argv"][4::2], strict=True):
            assert option == "-c"
            io.run(command)
        printed = io.out + io.err
    except QmpError as exc:
        printed = [f"qemu-io: can't open: {exc.desc}"]
    if case["test"] in DEVIATIONS:
        assert case["output"] == ["qemu-io: can't open: Parameter 'errno' expects a number"]
        assert printed == ["read failed: Input/output error"]
    else:
        assert printed == case["output"]


def test_recorded_cases_are_all_there() -> None:
    assert len(RECORDED) == 25
    assert set(DEVIATIONS) <= {case["test"] for case in RECORDED}


def test_a_pipe_is_no_file_to_wait_for(machine: Machine, tmp_path: Path) -> None:
    """Neither as rules, where it has none, nor as a disk; and what has no end is no rules."""
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    disk = {"driver": "null-co"}
    definition = {"driver": "blkdebug", "image": disk, "config": pipe}
    node = perform(machine.graph.open(parse_blockdev_options(definition)))
    assert isinstance(node, BlkdebugNode) and not node.injector().rules
    for endless in ({**definition, "config": "/dev/zero"}, {"driver": "file", "filename": pipe}):
        with pytest.raises(QmpError, match="File too large|to be a regular file"):
            perform(machine.graph.open(parse_blockdev_options(endless)))
