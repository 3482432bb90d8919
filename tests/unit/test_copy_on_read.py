# SPDX-License-Identifier: MIT
"""Copy-on-read: what is kept, what fails, and guest writes that come in between."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.node import BlockNode
from blockcore.nodes.tracking import RequestTracker
from blockcore.qapi.names import BlkdebugEvent, BlkdebugIOType
from qcow2_disk import Disk, judge
from qcow2_images import Around, create, open_on, options, qemu_img, read
from rules import fail
from sim import Every, MemoryNode, Sim, pause, perform

KIB = 1024
CLUSTER = 4096
SIZE = 64 * KIB


def below(around: Around, size: int = SIZE, data: bytes | None = None) -> MemoryNode:
    """A backing file with something everywhere but in the third cluster, which is zero."""
    node = MemoryNode(options("base", read_only=True), around, size)
    node.data[:] = Random(1).randbytes(size) if data is None else data
    node.data[2 * CLUSTER : 3 * CLUSTER] = bytes(len(node.data[2 * CLUSTER : 3 * CLUSTER]))
    return node


def overlay(
    tmp_path: Path, size: int = SIZE, backing_size: int = SIZE, **opts: str
) -> tuple[Qcow2Node, MemoryNode, Disk]:
    around = Around()
    image = create(tmp_path / "empty", size, cluster_size=CLUSTER, **opts).read_bytes()
    backing = below(around, backing_size)
    disk = Disk(image, around)
    node = open_on(disk, around, backing)
    node.enable_copy_on_read()
    return node, backing, disk


def allocated(node: BlockNode) -> set[int]:
    """The clusters that are in the image itself."""
    clusters = range(-(-node.size // CLUSTER))
    return {n for n in clusters if perform(node.is_allocated(n * CLUSTER, 1))[0]}


@pytest.mark.parametrize(
    ("offset", "length", "kept"),
    [
        pytest.param(CLUSTER, CLUSTER, {1}, id="one cluster"),
        pytest.param(CLUSTER + 7, 1, {1}, id="a byte"),
        pytest.param(CLUSTER - 1, 2, {0, 1}, id="two bytes of two clusters"),
        pytest.param(0, SIZE, set(range(16)), id="all"),
        pytest.param(5 * CLUSTER, 3 * CLUSTER, {5, 6, 7}, id="around what is there"),
    ],
)
def test_reads_keep_whole_clusters(
    tmp_path: Path, offset: int, length: int, kept: set[int]
) -> None:
    node, backing, _ = overlay(tmp_path)
    wanted = bytearray(backing.data)
    wanted[6 * CLUSTER : 6 * CLUSTER + 3] = b"new"
    perform(node.pwrite(6 * CLUSTER, memoryview(b"new")))
    assert read(node, offset, length) == wanted[offset : offset + length]
    assert allocated(node) == kept | {6}
    backing.on_io = lambda what: pytest.fail("it is in the image by now")
    assert read(node, offset, length) == wanted[offset : offset + length]


def test_zeroes_are_kept_as_zeroes(tmp_path: Path) -> None:
    node, _, _ = overlay(tmp_path)
    assert read(node, 2 * CLUSTER, CLUSTER) == bytes(CLUSTER)
    extent = perform(node.block_status(2 * CLUSTER, CLUSTER))
    assert allocated(node) == {2} and extent == (CLUSTER, False, True)


def test_zeroes_of_version_2_are_kept_as_data(tmp_path: Path) -> None:
    node, _, _ = overlay(tmp_path, compat="0.10")
    assert read(node, 2 * CLUSTER, CLUSTER) == bytes(CLUSTER)
    extent = perform(node.block_status(2 * CLUSTER, CLUSTER))
    assert allocated(node) == {2} and extent == (CLUSTER, True, False)


def test_beyond_a_short_backing_file(tmp_path: Path) -> None:
    node, backing, _ = overlay(tmp_path, backing_size=5 * CLUSTER + 512)
    wanted = bytes(backing.data).ljust(SIZE, b"\0")
    assert read(node) == wanted
    assert allocated(node) == set(range(16))


def test_last_part_of_an_image(tmp_path: Path) -> None:
    node, backing, disk = overlay(tmp_path, size=SIZE - 512)
    assert read(node, SIZE - 1024, 512) == backing.data[SIZE - 1024 : SIZE - 512]
    assert allocated(node) == {15} and node.size == SIZE - 512
    perform(node.do_close())
    assert judge(disk.data) == ([], 0)


def test_populate_reads_nothing_for_anybody(tmp_path: Path) -> None:
    node, backing, _ = overlay(tmp_path)
    perform(node.populate(CLUSTER + 1, 1))
    assert allocated(node) == {1}
    backing.data[:] = bytes(SIZE)
    assert any(read(node, CLUSTER, CLUSTER))


def test_nothing_becomes_dirty(tmp_path: Path) -> None:
    node, _, _ = overlay(tmp_path)
    node.set_write_threshold(1)
    read(node)
    assert node.write_threshold == 1 and node.wr_highest_offset == 0


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_failed_write_fails_the_read(tmp_path: Path) -> None:
    node, backing, disk = overlay(tmp_path)

    def full(what: str) -> None:
        if what == "write":
            raise FULL

    disk.on_io = full
    with pytest.raises(OSError) as caught:
        read(node, CLUSTER, 512)
    assert caught.value.errno == errno.ENOSPC and allocated(node) == set()
    disk.on_io = lambda what: None
    assert read(node, CLUSTER, 512) == backing.data[CLUSTER : CLUSTER + 512]
    perform(node.do_close())
    assert judge(disk.data) == ([], 0)


@pytest.mark.parametrize("cluster", [1, 2], ids=["data", "zeroes"])
def test_event_and_rules_of_the_image(tmp_path: Path, cluster: int) -> None:
    node, _, _ = overlay(tmp_path)
    iotype = BlkdebugIOType.WRITE if cluster == 1 else BlkdebugIOType.WRITE_ZEROES
    node.injector().add(
        fail(id="f", event=BlkdebugEvent.COR_WRITE, iotype=iotype, errno=errno.ENOSPC)
    )
    with pytest.raises(OSError) as caught:
        read(node, cluster * CLUSTER, 512)
    assert caught.value.errno == errno.ENOSPC and allocated(node) == set()


@dataclass
class Guest:
    """Owns runs of sectors, in clusters that others write and read as well."""

    node: Qcow2Node
    random: Random
    runs: list[int]
    model: dict[int, bytes]

    async def work(self, requests: int) -> None:
        for _ in range(requests):
            offset = self.random.choice(self.runs)
            if self.random.random() < 0.4:
                data = self.random.randbytes(512)
                await until_done(lambda: self.node.pwrite(offset, memoryview(data)))
                self.model[offset] = data
            elif self.random.random() < 0.1:
                await until_done(lambda: self.node.zero(offset, 512, may_unmap=True))
                self.model[offset] = bytes(512)
            else:
                first = max(offset - 512 * self.random.randrange(4), 0)
                buf = memoryview(bytearray(offset - first + 512))
                await until_done(lambda: self.node.pread(first, buf))
                assert buf[offset - first :] == self.model[offset]


async def until_done(request: Callable[[], object]) -> None:
    while True:
        try:
            await request()  # type: ignore[misc]
        except OSError as exc:
            assert exc.errno == errno.ENOSPC
            continue
        return


@pytest.mark.parametrize("faults", [False, True], ids=["no faults", "faults"])
def test_guests_beside_each_other(tmp_path: Path, faults: bool) -> None:
    for seed in range(40):
        node, backing, disk = overlay(tmp_path, size=4 * CLUSTER, backing_size=4 * CLUSTER)
        sim = Sim(seed)
        dice = Random(seed)
        start = bytes(backing.data)

        def on_io(what: str) -> None:
            if faults and what != "read" and dice.random() < 0.1:
                raise FULL

        disk.on_io = on_io
        guests = []
        for number in range(4):
            runs = [n * 512 for n in range(len(start) // 512) if n % 4 == number]
            model = {at: start[at : at + 512] for at in runs}
            guests.append(Guest(node, Random(seed * 4 + number), runs, model))
            sim.start(f"guest {number}", guests[-1].work(12))
        sim.run()
        assert not sim.running, sim.story()
        disk.on_io = lambda what: None
        for guest in guests:
            for offset, data in guest.model.items():
                assert read(node, offset, 512) == data, sim.story()
        perform(node.do_close())
        assert judge(disk.data) == ([], 0), f"seed {seed}"


def test_a_write_never_gets_between(tmp_path: Path) -> None:
    """All ways in which a read that keeps and a write to the same cluster can meet."""
    runs = 0
    for choose in Every():
        node, backing, _ = overlay(tmp_path, size=CLUSTER, backing_size=CLUSTER)
        sim = Sim(choose)
        seen = memoryview(bytearray(512))
        sim.start("reader", node.pread(0, seen))
        sim.start("writer", node.pwrite(512, memoryview(b"w" * 512)))
        sim.run()
        assert not sim.running, sim.story()
        assert seen == backing.data[:512]
        assert read(node)[512:1024] == b"w" * 512, sim.story()
        runs += 1
    assert runs > 10


class Recorded:
    """Requests with a tracker of their own, and what was on at the same time."""

    def __init__(self, sim: Sim) -> None:
        self.tracker = RequestTracker()
        self.sim = sim
        self.on: list[tuple[str, int, int, bool]] = []

    async def request(self, name: str, offset: int, length: int, align: int) -> None:
        with self.tracker.tracked(offset, length) as request:
            if align:
                await self.tracker.serialise(request, align)
            else:
                await self.tracker.settled(request)
            mine = (name, request.start, request.end, bool(align))
            for _, start, end, serialising in self.on:
                if start < request.end and request.start < end:
                    assert not serialising and not align, self.sim.story()
            self.on.append(mine)
            await pause()
            self.on.remove(mine)


@pytest.mark.parametrize(
    "requests",
    [
        [(0, 1, 8), (7, 1, 0), (8, 1, 0)],
        [(0, 1, 8), (4, 1, 8), (7, 1, 8)],
        [(0, 8, 0), (4, 8, 0), (6, 1, 4)],
        [(0, 16, 8), (0, 8, 8), (8, 8, 8)],
    ],
    ids=str,
)
def test_what_overlaps_is_not_on_together(requests: list[tuple[int, int, int]]) -> None:
    for choose in Every():
        sim = Sim(choose)
        recorded = Recorded(sim)
        for number, (offset, length, align) in enumerate(requests):
            sim.start(f"{number}", recorded.request(f"{number}", offset, length, align))
        sim.run()
        assert not sim.running, sim.story()


def test_others_go_side_by_side() -> None:
    sim = Sim(0)
    recorded = Recorded(sim)
    for number in range(8):
        sim.start(f"{number}", recorded.request(f"{number}", number * 8, 8, 8), now=True)
        sim.start(f"w{number}", recorded.request(f"w{number}", 64, 8, 0), now=True)
    assert len(recorded.on) == 16
    sim.run()
    assert not sim.running


def test_qemu_agrees(tmp_path: Path) -> None:
    """The same reads by qemu-io with copy-on-read give the same map and the same bytes."""
    reads = [(CLUSTER + 9, 1), (6 * CLUSTER - 1, 2 * CLUSTER), (2 * CLUSTER, 512)]
    data = below(Around()).data
    (tmp_path / "base.raw").write_bytes(data)
    theirs = create(
        tmp_path / "theirs", SIZE, "-b", tmp_path / "base.raw", "-F", "raw", cluster_size=CLUSTER
    )
    image = theirs.read_bytes()
    commands = [text for at, length in reads for text in ("-c", f"read {at} {length}")]
    subprocess.run(["qemu-io", "-C", "-f", "qcow2", *commands, theirs], check=True, stdout=-3)
    around = Around()
    disk = Disk(image, around)
    node = open_on(disk, around, below(around))
    node.enable_copy_on_read()
    for at, length in reads:
        assert read(node, at, length) == data[at : at + length]
    perform(node.do_close())
    ours = tmp_path / "ours"
    ours.write_bytes(disk.data)
    assert qemu_img("map", "-f", "qcow2", ours).splitlines() == [
        line.replace("theirs", "ours") for line in qemu_img("map", theirs).splitlines()
    ]
