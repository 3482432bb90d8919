# SPDX-License-Identifier: MIT
"""Which requests to an image go straight to its file, and where they land."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockcore.faults.gate import Gate
from blockcore.nodes.drivers.qcow2.entries import COMPRESSED, COPIED, ZERO
from blockcore.nodes.drivers.qcow2.shortcut import ClusterTranslation
from blockcore.nodes.file_calls import FileSystem
from blockcore.nodes.shortcut.slot import Slot
from blockcore.nodes.shortcut.way import Way

K = 1024
CLUSTER = 4 * K
CLUSTERS = 16
SHIFT = 512
"""The image begins here in the file: a raw node with an offset stands between."""

ENTRIES = {
    0: COPIED | 5 * CLUSTER,
    1: COPIED | 6 * CLUSTER,
    2: COPIED | 3 * CLUSTER,
    3: 8 * CLUSTER,
    4: 0,
    5: ZERO,
    6: COPIED | 9 * CLUSTER | ZERO,
    7: COMPRESSED | 9 * CLUSTER,
    8: COPIED | COMPRESSED | 9 * CLUSTER,
    9: COPIED | 9 * CLUSTER + 512,
    10: COPIED | 9 * CLUSTER | 1 << 56,
    11: COPIED | 9 * CLUSTER | 2,
    12: COPIED | 10 * CLUSTER,
    13: COPIED,
    14: COPIED | 15 * CLUSTER,
}
"""By guest cluster.  Cluster 10 of the file is metadata, 15 is behind the node's end."""


class File:
    """The node below."""

    size = 15 * CLUSTER

    def resized(self, size: int) -> None:
        raise AssertionError("it does not grow")


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    clusters = b"".join(bytes([number]) * CLUSTER for number in range(CLUSTERS))
    path.write_bytes(bytes(SHIFT) + clusters)
    return path


def translations(
    path: Path, reads: Gate | None = None, writes: Gate | None = None
) -> Iterator[ClusterTranslation]:
    """Of an image whose L2 table number 1 is cached; its entry 0 is for guest offset `GUEST`."""
    table = array("Q", bytes(CLUSTER))
    for number, entry in ENTRIES.items():
        table[number] = entry
    with path.open("r+b", buffering=0) as file:
        below = Way(file.fileno(), FileSystem(0), reads or Gate(), writes or Gate(), SHIFT)
        yield ClusterTranslation({1: table}, {10: "refcount block"}, 12, below, File(), None)


GUEST = CLUSTER // 8 * CLUSTER
"""Where the cached table's part of the guest's disk begins."""

WHERE: dict[str, tuple[int, int, bool, bool]] = {
    "a cluster": (0, CLUSTER, True, True),
    "within a cluster": (100, 50, True, True),
    "the end of a cluster": (CLUSTER - 1, 1, True, True),
    "two clusters, neighbours in the file": (CLUSTER - 2, 4, True, True),
    "three clusters, one elsewhere": (10, 2 * CLUSTER + 20, True, True),
    "shared": (3 * CLUSTER, 10, True, False),
    "the last own and a shared one": (3 * CLUSTER - 10, 20, True, False),
    "not there": (4 * CLUSTER, 1, False, False),
    "half of it there": (4 * CLUSTER - 1, 2, False, False),
    "zero": (5 * CLUSTER, 1, False, False),
    "zero, with a cluster": (6 * CLUSTER, 1, False, False),
    "compressed": (7 * CLUSTER, 1, False, False),
    "compressed, and says copied": (8 * CLUSTER, 1, False, False),
    "unaligned": (9 * CLUSTER, 1, False, False),
    "a reserved bit above": (10 * CLUSTER, 1, False, False),
    "a reserved bit below": (11 * CLUSTER, 1, False, False),
    "metadata": (12 * CLUSTER, 1, True, False),
    "copied, but nothing there": (13 * CLUSTER, 1, False, False),
    "behind the end of the file's node": (14 * CLUSTER, 1, True, False),
    "no table": (-1, 1, False, False),
    "half of it without a table": (-1, 2, False, False),
}


def host_bytes(offset: int, length: int) -> list[int]:
    """The places in the file of each byte, as the table has them."""
    places = []
    for at in range(offset, offset + length):
        start = ENTRIES[at // CLUSTER] & ~COPIED
        places.append(SHIFT + start + at % CLUSTER)
    return places


@pytest.mark.parametrize("gates", ["none", "elsewhere"])
@pytest.mark.parametrize(("offset", "length", "reads", "writes"), WHERE.values(), ids=WHERE)
def test_what_goes_straight(
    path: Path, gates: str, offset: int, length: int, reads: bool, writes: bool
) -> None:
    """With rules that concern other places of the file, too."""
    before, slot = path.read_bytes(), Slot()
    gate = Gate([(0, CLUSTER)]) if gates == "elsewhere" else Gate()
    for translation in translations(path, gate, gate):
        found = memoryview(bytearray(length))
        assert translation.pread(GUEST + offset, found) is reads
        if reads:
            assert list(found) == [before[place] for place in host_bytes(offset, length)]
        data = bytes(0x80 | number % 97 for number in range(length))
        assert translation.pwrite(slot, GUEST + offset, memoryview(data)) is writes
    wanted = bytearray(before)
    if writes:
        places = host_bytes(offset, length)
        for place, byte in zip(places, data, strict=True):
            wanted[place] = byte
        assert slot.wr_highest_below == max(places) + 1 - SHIFT
    else:
        assert slot.wr_highest_below == 0
    assert path.read_bytes() == wanted


def test_the_highest_offset_stays(path: Path) -> None:
    slot = Slot()
    for translation in translations(path):
        for offset in (CLUSTER, 0, 2 * CLUSTER - 1, 0):
            assert translation.pwrite(slot, GUEST + offset, memoryview(b"a"))
    assert slot.wr_highest_below == 7 * CLUSTER


@pytest.mark.parametrize("length", [1, CLUSTER + 1], ids=["in a cluster", "across"])
def test_rules_in_the_way(path: Path, length: int) -> None:
    """A rule is about a place in the file: that of guest cluster 1."""
    before, slot = path.read_bytes(), Slot()
    rule = Gate([(6 * CLUSTER, 6 * CLUSTER + 1)])
    for translation in translations(path, rule, rule):
        for offset, hit in ((0, length > CLUSTER), (CLUSTER, True)):
            assert translation.pread(GUEST + offset, memoryview(bytearray(length))) is not hit
            data = memoryview(b"\xee" * length)
            assert translation.pwrite(slot, GUEST + offset, data) is not hit
    assert (path.read_bytes() == before) is (length > CLUSTER)


def test_a_file_that_was_cut_off_is_left_to_the_long_way(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(SHIFT + 5 * CLUSTER + 10)
    for translation in translations(path):
        for offset, length in ((0, 10), (0, 11), (0, CLUSTER + 1)):
            done = translation.pread(GUEST + offset, memoryview(bytearray(length)))
            assert done is (length == 10)
