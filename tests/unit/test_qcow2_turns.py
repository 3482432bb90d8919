# SPDX-License-Identifier: MIT
"""Images with tables of any size: nobody else waits while they are looked at."""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockcore.nodes.drivers.qcow2.entries import STRETCH, used
from blockcore.nodes.drivers.qcow2.metadata import LARGE, Metadata
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.qapi.names import QmpError
from qcow2_images import Around, check_clean, create, open_file, options, qemu_io, read
from turns import longest

pytestmark = pytest.mark.both_ways

ENTRIES = 1 << 16
"""Of the large tables here; the format allows 64 times as many."""

LINES = 6000
"""Of code, that may be run under the big lock without a pause; a few milliseconds."""

FAR = 1 << 40


def table(path: Path, entries: Callable[[int], int], *, at: int, header: int, count: int) -> None:
    """Put a large table at the end, in place of the one that the header has at `header`.

    It begins with the entry of the one before.
    """
    with path.open("r+b") as file:
        file.seek(header)
        (old,) = struct.unpack(">Q", file.read(8))
        file.seek(old)
        values = array("Q", file.read(8) + bytes(8 * (ENTRIES - 1)))
        values.byteswap()
        values[1:] = array("Q", map(entries, range(1, ENTRIES)))
        values.byteswap()
        file.seek(at)
        file.write(values.tobytes())
        file.seek(header)
        file.write(struct.pack(">Q", at))
        file.seek(count)
        clusters = ENTRIES * 8 // 512
        file.write(struct.pack(">I", ENTRIES if count == 36 else clusters))


def l1_table(path: Path, entries: Callable[[int], int]) -> None:
    table(path, entries, at=1 << 30, header=40, count=36)


def refcount_table(path: Path, entries: Callable[[int], int]) -> None:
    table(path, entries, at=2 << 30, header=48, count=56)


def begin(path: Path) -> bytearray:
    """Only the header's sector: the files are of gigabytes, though nearly all of that is holes."""
    with path.open("rb") as file:
        return bytearray(file.read(512))


def node_on(path: Path, **more: Any) -> Qcow2Node:
    around = Around()
    return Qcow2Node(options("top", **more), around, open_file(path, around))


def close(node: Qcow2Node) -> int:
    most = longest(node.do_close())
    assert node.file is not None
    return max(most, longest(node.file.do_close()))


TABLES: dict[str, Callable[[int], int]] = {
    "empty": lambda index: 0,
    "full": lambda index: FAR + index * 512,
    "all the same": lambda index: FAR,
}


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("entries", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("put", [l1_table, refcount_table])
def test_a_large_table_is_opened_and_closed(
    tmp_path: Path, put: Callable[..., None], entries: Callable[[int], int], read_only: bool
) -> None:
    path = create(tmp_path / "image", "1M", cluster_size=512)
    qemu_io(path, "write -P 5 0 512")
    put(path, entries)
    node = node_on(path, read_only=read_only)
    assert longest(node.do_open()) < LINES
    assert read(node, 0, 512) == b"\5" * 512
    full, same = (entries is TABLES[name] and not read_only for name in ("full", "all the same"))
    assert ((FAR >> 9) + ENTRIES - 1 in node.image.metadata) == full
    assert (node.image.conflict is not None) == same
    assert close(node) < LINES


def test_metadata_of_millions_of_clusters_grows_in_small_parts() -> None:
    """What is copied when it grows, and freed in the end."""
    metadata = Metadata()
    for cluster in range(LARGE + 1):
        assert metadata.claim(cluster * 7, "table") is None
    assert metadata.is_large()
    assert max(map(len, metadata.shards)) < LARGE // 8
    assert metadata.claim(7, "other") == "table" == metadata[7]
    assert metadata.touches(8, 7) and not metadata.touches(8, 6)
    assert sum(1 for _ in metadata) == LARGE + 1
    metadata.release(7)
    assert 7 not in metadata and 14 in metadata
    metadata.clear()
    assert not metadata.touches(0, 100) and not metadata.is_large()


@pytest.mark.parametrize("length", [0, 1, STRETCH - 1, STRETCH, STRETCH + 1, 3 * STRETCH])
def test_what_is_used_of_a_table(length: int) -> None:
    values = array("Q", bytes(8 * length))
    assert not list(used(values))
    places = [place for place in (0, STRETCH - 1, STRETCH, 2 * STRETCH + 7) if place < length]
    for place in places:
        values[place] = place + 1
    assert list(used(values)) == [(place, place + 1) for place in places]


@pytest.mark.one_way
def test_repair_of_a_large_image(tmp_path: Path) -> None:
    """Tables of 8192 entries, of which each is looked at twice; and a long, empty L1 table."""
    path = create(tmp_path / "image", "1G", lazy_refcounts="on")
    qemu_io(path, "write -P 1 0 1M", "write -P 2 600M 1M", "flush", "abort")
    assert begin(path)[79] == 1, "not dirty"
    node = node_on(path)
    assert longest(node.do_open()) < LINES
    assert close(node) < LINES
    check_clean(path)
    path = create(tmp_path / "wide", "1M", cluster_size=512, lazy_refcounts="on")
    refcount_table(path, TABLES["empty"])
    l1_table(path, TABLES["empty"])
    data = begin(path)
    data[79] |= 1
    with path.open("r+b") as file:
        file.write(data)
    node = node_on(path)
    with pytest.raises(QmpError, match="Could not repair dirty image"):
        # Nothing counts where the tables are, and there is nobody to give room for it.
        assert longest(node.do_open()) < LINES


def test_shrinking_an_image_in_a_long_file(tmp_path: Path) -> None:
    """Neither the length of the refcount table nor that of the file is work."""
    path = create(tmp_path / "image", "1M", cluster_size=512)
    qemu_io(path, "write -P 3 0 256k")
    refcount_table(path, TABLES["empty"])
    os.truncate(path, 1 << 42)
    node = node_on(path)
    longest(node.do_open())
    assert longest(node.do_truncate(512 << 10)) < LINES
    assert close(node) < LINES
