# SPDX-License-Identifier: MIT
"""The speed limit: slices, quotas, and a stream that takes as long as QEMU's (semantics 3.10)."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockcore.nodes.definitions.options import BlockdevOptionsFile, BlockdevOptionsQcow2
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.drivers.qcow2.settings import Qcow2Settings
from blockcore.nodes.graph.links import attach
from blockcore.qapi.events import Event, JobStatusChange
from blockcore.qapi.names import JobStatus
from blockcore.rules.ratelimit import SLICE_NS, RateLimit
from qcow2_disk import Disk
from qcow2_images import create, read
from sim import MemoryNode, Sim, add_drive, execute, new_machine, perform

MIB = 1 << 20
MS = 10**6


def limited(speed: int) -> RateLimit:
    limit = RateLimit()
    limit.set_speed(speed)
    return limit


def test_without_a_limit_nothing_waits() -> None:
    limit = RateLimit()
    assert [limit.delay_ns(now, 1 << 40) for now in (1, 2, 3)] == [0, 0, 0]


def test_below_the_quota_of_a_slice_nothing_waits() -> None:
    limit = limited(1000)
    assert [limit.delay_ns(1000, nbytes) for nbytes in (0, 50, 49)] == [0, 0, 0]
    assert limit.delay_ns(1000, 1) == SLICE_NS


def test_the_slice_ends_later_the_more_was_dispatched() -> None:
    limit = limited(1000)
    assert limit.delay_ns(0, 250) == 250 * MS
    assert limit.delay_ns(10 * MS, 250) == 490 * MS


def test_a_new_slice_begins_after_the_end_of_the_last() -> None:
    """At the very moment of its end the last one still counts."""
    early, late = limited(1000), limited(1000)
    assert early.delay_ns(5, 100) == late.delay_ns(5, 100) == SLICE_NS
    assert early.delay_ns(5 + SLICE_NS, 50) == SLICE_NS // 2
    assert late.delay_ns(5 + SLICE_NS + 1, 50) == 0
    assert late.delay_ns(5 + SLICE_NS + 1, 50) == SLICE_NS


def test_nobody_waits_for_what_others_have_paid_for() -> None:
    limit = limited(1000)
    assert limit.delay_ns(0, 99) == 0
    assert limit.delay_ns(SLICE_NS + 1, 99) == 0


@pytest.mark.parametrize(("speed", "delay_ns"), [(1, SLICE_NS), (10, SLICE_NS), (11, 0)])
def test_the_quota_is_a_byte_at_least(speed: int, delay_ns: int) -> None:
    assert limited(speed).delay_ns(0, 1) == delay_ns


def test_another_speed_counts_from_now_on() -> None:
    """What was dispatched in this slice is measured by the new quota."""
    limit = limited(1000)
    assert limit.delay_ns(0, 100) == SLICE_NS
    limit.set_speed(10_000)
    assert limit.delay_ns(0, 900) == SLICE_NS
    limit.set_speed(0)
    assert limit.delay_ns(0, 1 << 30) == 0


def test_stream_of_four_mib_at_one_mib_a_second(tmp_path: Path) -> None:
    """Recorded: stream-speed-timing.  The last chunk is not followed by a wait."""
    sim = Sim(1)
    machine = new_machine(sim)
    reads: list[int] = []
    status: dict[JobStatus, int] = {}

    def listen(event: Event, now_ns: int) -> None:
        if isinstance(event, JobStatusChange):
            status[event.status] = sim.now_ns

    def on_io(what: str) -> None:
        reads.append(sim.now_ns)

    base = MemoryNode(NodeOptions(node_name="base", read_only=True), machine, 4 * MIB, on_io)
    base.data[:] = b"\x11" * (4 * MIB)
    disk = Disk(create(tmp_path / "top", 4 * MIB).read_bytes(), machine)
    top = Qcow2Node(NodeOptions(node_name="top"), machine, disk, Qcow2Settings())
    disk.parents.append(top)
    perform(top.do_open())
    for node in (base, disk):
        node.definition = BlockdevOptionsFile(driver="file", filename=node.node_name)
        machine.graph.nodes[node.node_name] = node
    top.definition = BlockdevOptionsQcow2(driver="qcow2", file=disk.node_name)
    attach(top, "backing", base)
    add_drive(machine, top)
    machine.listeners.append(listen)
    sim.be_orderly()
    sim.start("stream", execute(machine, "block-stream", device="vda", speed=MIB))
    sim.run()
    started = status[JobStatus.RUNNING]
    assert [now - started for now in reads] == [n * 500 * MS for n in range(8)]
    assert status[JobStatus.NULL] - started == 3500 * MS
    assert bytes(base.data) == read(top)
