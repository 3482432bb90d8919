# SPDX-License-Identifier: MIT
"""An image of 1 TiB: what is read of its file, and what of it is kept in memory."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from blockcore.nodes.drivers.file import FileNode
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.drivers.qcow2.settings import Qcow2Settings
from qcow2_images import Around, check_clean, close, create, options, qemu_io
from sim import perform

CLUSTER = 64 << 10
TIB = 1 << 40
TABLE = CLUSTER // 8 * CLUSTER
"""How much of the guest's disk one L2 table maps: 512 MiB."""

PLACES = (0, 300 << 30, 700 << 30, TIB - CLUSTER)


class Watched(FileNode):
    """A file that says which bytes of it have been read."""

    def __init__(self, path: Path, around: Around, *, read_only: bool) -> None:
        super().__init__(options("file", read_only=read_only), around, str(path), str(path))
        self.ranges: list[tuple[int, int]] = []
        self.on_read: Callable[[], object] = lambda: None

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        self.ranges.append((offset, len(buf)))
        self.on_read()
        await super().do_pread(offset, buf)

    def taken(self) -> list[tuple[int, int]]:
        ranges, self.ranges = self.ranges, []
        return ranges


class Places:
    """Where things are in an image's file, by its bytes alone."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as self._file:
            fields = struct.unpack(">IIQIIQIIQQIIQ", self._file.read(72))
            self.l1 = (fields[8], fields[7] * 8)
            self.reftable = (fields[9], fields[10] * CLUSTER)
            self._l1 = self._numbers(*self.l1)
            self.tables = {n: entry & ~(1 << 63) for n, entry in enumerate(self._l1) if entry}
            self.blocks = [offset for offset in self._numbers(*self.reftable) if offset]
            self.data = {place: self._data(place) for place in PLACES if self._has(place)}

    def _numbers(self, offset: int, length: int) -> tuple[int, ...]:
        self._file.seek(offset)
        data = self._file.read(length).ljust(length, b"\0")
        return struct.unpack(f">{length // 8}Q", data)

    def _has(self, place: int) -> bool:
        return place // TABLE in self.tables

    def _data(self, place: int) -> int:
        table = self._numbers(self.tables[place // TABLE], CLUSTER)
        return table[place // CLUSTER % (CLUSTER // 8)] & ~(1 << 63)


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    """A few clusters far apart, so that every one has an L2 table of its own."""
    path = create(tmp_path / "image", "1T", cluster_size=CLUSTER)
    said = qemu_io(path, *(f"write -q -P {n + 1} {at} 64k" for n, at in enumerate(PLACES)))
    assert not said, said
    return path


def open_watched(
    path: Path, *, read_only: bool = False, cache: int = 32 << 20
) -> tuple[Watched, Qcow2Node]:
    around = Around()
    file = Watched(path, around, read_only=read_only)
    perform(file.do_open())
    settings = Qcow2Settings(l2_cache_size=cache)
    node = Qcow2Node(options("top", read_only=read_only), around, file, settings)
    file.parents.append(node)
    perform(node.do_open())
    return file, node


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "far apart"])
def test_opening_reads_three_tables(
    tmp_path: Path, path: Path, filled: bool, read_only: bool
) -> None:
    """The header, the L1 table and the refcount table, however much there is behind them."""
    if not filled:
        path = create(tmp_path / "empty", "1T", cluster_size=CLUSTER)
    file, node = open_watched(path, read_only=read_only)
    places = Places(path)
    assert places.l1[1] == TIB // TABLE * 8 and len(places.tables) == (4 if filled else 0)
    assert file.taken() == [(0, 512), (0, CLUSTER), places.l1, places.reftable]
    close(node)


def test_reading_loads_the_tables_on_its_way(path: Path) -> None:
    """One L2 table for each part of the disk, once; none for parts that have none."""
    file, node = open_watched(path)
    places, buf = Places(path), bytearray(4096)
    file.taken()
    for number, place in enumerate(PLACES):
        for _ in range(2):
            perform(node.pread(place + CLUSTER - 4096, memoryview(buf)))
            assert bytes(buf) == bytes([number + 1]) * 4096
        data = (places.data[place] + CLUSTER - 4096, 4096)
        assert file.taken() == [(places.tables[place // TABLE], CLUSTER), data, data]
    for place in (TIB // 2, 10 << 30, TIB - TABLE - 4096):
        perform(node.pread(place, memoryview(buf)))
        assert not any(buf)
    assert file.taken() == []
    close(node)


def test_writing_loads_one_refcount_block(path: Path) -> None:
    """None for a cluster that is there; for new ones, the one that has a free cluster."""
    file, node = open_watched(path)
    places, data = Places(path), memoryview(b"\xee" * CLUSTER)
    file.taken()
    perform(node.pwrite(PLACES[1], data))
    assert file.taken() == [(places.tables[PLACES[1] // TABLE], CLUSTER)]
    for place in (PLACES[1] + CLUSTER, TIB // 2, TIB // 2 + CLUSTER):
        perform(node.pwrite(place, data))
    assert file.taken() == [(places.blocks[0], CLUSTER)]
    close(node)
    perform(node.children["file"].do_close())
    check_clean(path)


def test_tables_in_memory_stay_within_the_cache(tmp_path: Path) -> None:
    """However many are written and read, of either kind."""
    path = create(tmp_path / "image", "1T", cluster_size=4096)
    file, node = open_watched(path, cache=64 << 10)
    tables, refcounts = node.mapping.tables, node.write_back.refcounts
    assert (tables.limit, refcounts.blocks.limit) == (16, (4 << 20) // 4096)
    refcounts.blocks.limit = 2
    each = 4096 // 8 * 4096
    places = [number * (TIB // 24) // each * each for number in range(24)]
    for place in places:
        perform(node.pwrite(place, memoryview(b"\xee" * each)))
    perform(node.flush())
    buf = bytearray(1)
    for place in places:
        perform(node.pread(place, memoryview(buf)))
        assert buf == b"\xee"
        assert len(node.mapping.cached) == len(tables) <= 16
    held: list[int] = []
    file.on_read = lambda: held.append(len(refcounts.blocks))
    perform(node.discard(0, TIB))
    perform(node.flush())
    assert len([entry for entry in refcounts.table if entry]) > 5
    assert max(held) <= refcounts.blocks.limit + 1
    assert len(node.mapping.cached) <= len(tables) <= 16
    close(node)
    perform(file.do_close())
    check_clean(path)
