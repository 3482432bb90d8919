# SPDX-License-Identifier: MIT
"""The five invariants of the shortcut (`blockcore.nodes.shortcut`), one step at a time.

A thread that comes in between is played by what the step under test calls or
looks at, so that each of them fails whenever its invariant is violated.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from bitarray import bitarray

from blockcore.bql.big_lock import BigLock
from blockcore.bql.clock import SystemClock
from blockcore.drive.block_backend import BlockBackend
from blockcore.faults.injector import FaultInjector
from blockcore.nodes import shortcut
from blockcore.nodes.drivers.qcow2.grace import Grace
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.shortcut.guest import GuestShortcut
from blockcore.nodes.shortcut.slot import Slot
from blockcore.process.connection import Connection
from blockcore.process.gathering import Gathering
from blockcore.qapi.names import BlkdebugEvent, FaultIOType
from blockcore.rules.bitmap import DirtyBitmap
from qcow2_images import Around, close, create, open_file, open_on
from rules import Host, fail
from sim import perform

CLUSTER = 4096


def test_each_is_told_with_its_test() -> None:
    told = set(re.findall(r"`(test_\w+)`", shortcut.__doc__ or ""))
    assert told == {name for name in globals() if name.startswith("test_")} - {
        "test_each_is_told_with_its_test"
    }


# Busy before look.


class Watched:
    """A drive whose shortcut is taken away by whoever looks at it while no slot is busy."""

    read_only = False

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self.looks: list[bool] = []

    @property
    def shortcut(self) -> GuestShortcut | None:
        self.looks.append(self._slot.busy)
        return None


def test_busy_before_look() -> None:
    """And not busy any more before the look that finds out whether somebody waits."""
    slot = Slot()
    drive = Watched(slot)
    blk, lock = cast(BlockBackend, drive), BigLock(SystemClock())
    connection = Connection(1, lock, blk, False, Gathering(lock.clock))
    for request in (connection.shortcut_pread, connection.shortcut_pwrite):
        assert request(slot, 0, memoryview(bytearray(1))) is False
    assert drive.looks == [True, False] * 2


# An entry changes in one step.


class Steps(array):  # type: ignore[type-arg]
    """A table that notes each change of an entry, and how often one was looked at."""

    changes: list[tuple[int, int]]
    looks = 0

    def __setitem__(self, index: Any, value: Any) -> None:
        self.changes.append((index, value))
        super().__setitem__(index, value)

    def __getitem__(self, index: Any) -> Any:
        self.looks += isinstance(index, int)
        return super().__getitem__(index)


@pytest.fixture(name="node")
def _node(tmp_path: Path) -> Iterator[Qcow2Node]:
    around = Around()
    path = create(tmp_path / "image", 1 << 20, cluster_size=CLUSTER)
    node = open_on(open_file(path, around, no_flush=True), around)
    perform(node.pwrite(0, memoryview(bytes(4 * CLUSTER))))
    yield node
    close(node)


def steps_of(node: Qcow2Node) -> Steps:
    """Let the image's table note what becomes of it."""
    table = node.mapping.own_table(0)
    assert table is not None
    steps = Steps("Q", table.values)
    steps.changes = []
    table.values = node.mapping.cached[0] = steps
    return steps


REQUESTS: dict[str, Callable[[Qcow2Node], Any]] = {
    "a new cluster": lambda node: node.pwrite(8 * CLUSTER, memoryview(bytes(CLUSTER))),
    "a part of one": lambda node: node.pwrite(9 * CLUSTER + 1, memoryview(b"a")),
    "several": lambda node: node.pwrite(8 * CLUSTER, memoryview(bytes(3 * CLUSTER))),
    "zeroes": lambda node: node.zero(0, CLUSTER, may_unmap=False),
    "zeroes, unmapped": lambda node: node.zero(0, 2 * CLUSTER, may_unmap=True),
    "a discard": lambda node: node.discard(0, 3 * CLUSTER),
}


@pytest.mark.parametrize("request_to", REQUESTS.values(), ids=REQUESTS)
def test_an_entry_changes_in_one_step(
    node: Qcow2Node, request_to: Callable[[Qcow2Node], Any]
) -> None:
    """Who looks in between finds what was there or what comes, and nothing else."""
    steps = steps_of(node)
    perform(request_to(node))
    entries = [index for index, _ in steps.changes]
    assert entries and all(isinstance(index, int) for index in entries)
    assert len(entries) == len(set(entries))


@pytest.mark.parametrize("clusters", [1, 3])
def test_an_entry_is_looked_at_once(node: Qcow2Node, clusters: int) -> None:
    """A second look might find another entry; what is across clusters is looked for anew."""
    steps = steps_of(node)
    way = node.way()
    assert way is not None and way.translation is not None
    steps.looks = 0
    assert way.translation.pread(0, memoryview(bytearray(clusters * CLUSTER)))
    assert steps.looks == (1 if clusters == 1 else 1 + clusters)


# `_counted` before and after.


class Between(bitarray):
    """Bits that somebody counts in the middle of their change."""

    count_them: Callable[[], int]
    counts: list[int]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.counts.append(self.count_them())
        super().__setitem__(index, value)
        self.counts.append(self.count_them())


def test_counted_before_and_after() -> None:
    """Who counts before the bits are set does not keep what is wrong from then on."""
    bitmap = DirtyBitmap(1 << 20, 512)
    bits = Between(bitmap._bits)
    bits.count_them, bits.counts = lambda: bitmap.count, []
    bitmap._bits = bits
    assert bitmap.count == 0
    bitmap.set_unlocked(0, 1024)
    assert bits.counts[0] == 0
    assert bitmap.count == 1024
    # Who counts when the bits are set, and nobody has before, counts them.
    late = DirtyBitmap(1 << 20, 512)
    told: list[int] = []

    class Late(Between):
        def __setitem__(self, index: Any, value: Any) -> None:
            bitarray.__setitem__(self, index, value)
            told.append(late.count)

    late._bits = Late(late._bits)
    late.set_unlocked(0, 1024)
    assert told == [1024]


# Only the last request counts.


def test_only_the_last_request_counts() -> None:
    """Each event replaces the active rules; many requests on the shortcut leave one trace."""
    injector = FaultInjector(Host())
    read, write = BlkdebugEvent.READ_AIO, BlkdebugEvent.WRITE_AIO
    for event, at in ((read, 0), (write, 1 << 20)):
        injector.add(fail(event=event, offset=at, length=512, iotype=FaultIOType.READ))
    reads, writes = injector.trace([read]), injector.trace([write])
    assert reads is not None and writes is not None
    for trace in (reads, writes) * 3:
        trace()
    assert injector.check(FaultIOType.READ, 0, 512) is None
    hit = injector.check(FaultIOType.READ, 1 << 20, 512)
    assert hit is not None and hit.options.event is write


# Mark right after the reference has gone.


def test_mark_right_after_the_reference_has_gone(
    node: Qcow2Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a mark is taken no table has the cluster: who begins later cannot find it."""
    steps, mark, marked = steps_of(node), Grace.mark, list[set[int]]()
    offsets = {steps[index] & 0x00FF_FFFF_FFFF_FE00 for index in range(2)}

    def noted(grace: Grace) -> Any:
        marked.append({entry & 0x00FF_FFFF_FFFF_FE00 for entry in steps} & offsets)
        return mark(grace)

    monkeypatch.setattr(Grace, "mark", noted)
    perform(node.discard(0, 2 * CLUSTER))
    assert [len(left) for left in marked] == [1, 0]
