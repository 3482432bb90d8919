# SPDX-License-Identifier: MIT
"""A raw node's window is all that anybody above can reach, whatever an image says."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

import pytest

from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.drivers.raw import RawNode
from blockcore.nodes.shortcut.slot import Slot
from blockcore.qapi.names import QmpError
from qcow2_disk import Disk
from qcow2_images import Around, close, create, open_file, open_on, options, read
from sim import perform

pytestmark = pytest.mark.both_ways

K = 1024
BEFORE, WINDOW, BEHIND = 1 << 20, 1 << 20, 3 << 20
SIZE = BEFORE + WINDOW + BEHIND

REQUESTS: dict[str, tuple[Callable[[RawNode, int, int], Coroutine[Any, Any, object]], int]] = {
    "read": (lambda raw, at, n: raw.pread(at, memoryview(bytearray(n))), errno.EINVAL),
    "write": (lambda raw, at, n: raw.pwrite(at, memoryview(bytes(n))), errno.ENOSPC),
    "write with FUA": (
        lambda raw, at, n: raw.pwrite(at, memoryview(b"1" * n), fua=True),
        errno.ENOSPC,
    ),
    "zero": (lambda raw, at, n: raw.zero(at, n, may_unmap=False), errno.ENOSPC),
    "unmap": (lambda raw, at, n: raw.zero(at, n, may_unmap=True), errno.ENOSPC),
    "discard": (lambda raw, at, n: raw.discard(at, n), errno.ENOSPC),
    "keep": (lambda raw, at, n: raw.keep(at, memoryview(bytes(n))), errno.ENOSPC),
    "block status": (lambda raw, at, n: raw.block_status(at, n), errno.EINVAL),
    "is allocated": (lambda raw, at, n: raw.is_allocated(at, n), errno.EINVAL),
}


@pytest.mark.parametrize(("request_to", "number"), REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize(("at", "length"), [(WINDOW - 1, 2), (WINDOW, 1), (1 << 62, K)])
def test_nothing_reaches_beyond(
    request_to: Callable[..., Coroutine[Any, Any, object]], number: int, at: int, length: int
) -> None:
    around = Around()
    disk = Disk(b"\xaa" * SIZE, around)
    raw = RawNode(options("raw"), around, disk, BEFORE, WINDOW)
    perform(raw.do_open())
    with pytest.raises(OSError) as caught:
        perform(request_to(raw, at, length))
    assert caught.value.errno == number
    assert raw.size == WINDOW
    assert disk.data == b"\xaa" * SIZE


def test_the_whole_window_can_be_used() -> None:
    around = Around()
    disk = Disk(b"\xaa" * SIZE, around)
    raw = RawNode(options("raw"), around, disk, BEFORE, WINDOW)
    perform(raw.do_open())
    perform(raw.pwrite(0, memoryview(b"\xbb" * WINDOW)))
    assert disk.data == b"\xaa" * BEFORE + b"\xbb" * WINDOW + b"\xaa" * BEHIND


def test_growth() -> None:
    around = Around()
    disk = Disk(bytes(SIZE), around)
    fixed = RawNode(options("raw"), around, disk, BEFORE, WINDOW)
    perform(fixed.do_open())
    with pytest.raises(QmpError, match="^Cannot resize fixed-size raw disks$"):
        perform(fixed.truncate(WINDOW + K))
    rest = RawNode(options("raw"), around, disk, BEFORE)
    perform(rest.do_open())
    with pytest.raises(QmpError, match="^Disk size too large for the chosen offset$"):
        perform(rest.truncate((1 << 63) - BEFORE))
    assert disk.size == SIZE


class Framed:
    """A qcow2 image in a window of a file, in the middle of what must stay as it is."""

    def __init__(self, directory: Path, size: str, **more: Any) -> None:
        self.around = Around()
        image = create(directory / "image", size, **more).read_bytes()
        assert len(image) <= WINDOW
        self.path = directory / "file"
        self.path.write_bytes(
            b"\xaa" * BEFORE + image + b"\xaa" * (WINDOW - len(image)) + b"\xaa" * BEHIND
        )

    def open(self) -> Qcow2Node:
        file = open_file(self.path, self.around)
        raw = RawNode(options("raw"), self.around, file, BEFORE, WINDOW)
        file.parents.append(raw)
        perform(raw.do_open())
        return open_on(raw, self.around)

    def check(self) -> None:
        data = self.path.read_bytes()
        assert len(data) == SIZE
        assert data[:BEFORE] == b"\xaa" * BEFORE, "in front of the window"
        assert data[BEFORE + WINDOW :] == b"\xaa" * BEHIND, "behind the window"


def write(node: Qcow2Node, offset: int, data: bytes) -> int:
    """As a drive does it, straight to the file if that can be; gives the errno, or 0."""
    way = node.way()
    assert way is not None and way.translation is not None
    try:
        if not way.translation.pwrite(Slot(), offset, memoryview(data)):
            perform(node.pwrite(offset, memoryview(data)))
    except OSError as exc:
        return exc.errno or -1
    return 0


@pytest.mark.one_way
@pytest.mark.parametrize("cluster_size", [512, 4096, 65536])
def test_an_image_fills_its_window_and_no_more(tmp_path: Path, cluster_size: int) -> None:
    """Data, tables and refcount blocks meet the end; what was written before stays."""
    framed = Framed(tmp_path, "16M", cluster_size=cluster_size)
    node = framed.open()
    random = Random(cluster_size)
    written: dict[int, int] = {}
    outcomes = set()
    for at in random.sample(range(0, 16 << 20, 16 * K), 200):
        byte = random.randrange(1, 255)
        outcome = write(node, at, bytes([byte]) * 16 * K)
        outcomes.add(outcome)
        if not outcome:
            written[at] = byte
    assert outcomes == {0, errno.ENOSPC}
    for at, byte in written.items():
        assert read(node, at, 16 * K) == bytes([byte]) * 16 * K
    close(node)
    framed.check()


@pytest.mark.one_way
def test_an_entry_that_points_behind_the_window(tmp_path: Path) -> None:
    """It reads as zeroes, as beyond the end of a file, and cannot be written: on every path."""
    framed = Framed(tmp_path, "512k", cluster_size=4096, preallocation="metadata")
    places = (WINDOW + 4096, WINDOW - 8192, WINDOW - 4096, WINDOW)
    with framed.path.open("r+b") as file:
        file.seek(BEFORE + 40)
        (l1,) = struct.unpack(">Q", file.read(8))
        file.seek(BEFORE + l1)
        (l2,) = struct.unpack(">Q", file.read(8))
        file.seek(BEFORE + (l2 & ~(1 << 63)))
        file.write(struct.pack(">4Q", *((1 << 63) | place for place in places)))
    node = framed.open()
    way = node.way()
    assert way is not None and way.translation is not None
    read(node, 0, 4096 * 4)
    buf = memoryview(bytearray(4096))
    assert not way.translation.pread(0, buf)
    assert way.translation.pread(4096, buf)
    assert not way.translation.pread(8192, memoryview(bytearray(8192)))
    assert read(node, 0, 4096) == bytes(4096)
    assert read(node, 12288, 4096) == bytes(4096)
    for at in (0, 12288):
        assert write(node, at, b"\xcc" * 4096) == errno.ENOSPC
    close(node)
    framed.check()


@pytest.mark.one_way
def test_files_without_a_window_still_grow(tmp_path: Path) -> None:
    path = create(tmp_path / "image", "16M")
    around = Around()
    file = open_file(path, around)
    raw = RawNode(options("raw"), around, file)
    file.parents.append(raw)
    perform(raw.do_open())
    node = open_on(raw, around)
    before = os.stat(path).st_size
    assert write(node, 0, b"\xcc" * (2 << 20)) == 0
    assert os.stat(path).st_size > before + (2 << 20) - 65536
    close(node)
