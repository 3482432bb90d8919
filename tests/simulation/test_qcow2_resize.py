# SPDX-License-Identifier: MIT
"""Images that shrink: the file with them, as with qemu-img, and nothing that is left suffers."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from random import Random

import pytest

from blockcore.qapi.names import QmpError
from qcow2_disk import Disk, crashes, judge, power_cuts
from qcow2_guest import Failing, look
from qcow2_images import Around, check_clean, content, create, open_on, opened, qemu_img, qemu_io
from sim import perform

pytestmark = pytest.mark.both_ways

KIB = 1 << 10
MIB = 1 << 20

SHAPES = {
    "512": (512, "1.1", 2 * MIB),
    "512, v2": (512, "0.10", 2 * MIB),
    "4k": (4096, "1.1", 8 * MIB),
    "64k": (65536, "1.1", 40 * MIB),
    "64k, v2": (65536, "0.10", 40 * MIB),
    "2M": (2 * MIB, "1.1", 40 * MIB),
}


SIZES: dict[tuple[object, ...], int] = {}
"""How long QEMU makes the file of a shape for a new size: asked once for both ways."""


def filled(path: Path, cluster_size: int, compat: str, size: int) -> Path:
    """With data everywhere, in an order that is not the guest's."""
    create(path, size, cluster_size=cluster_size, compat=compat)
    step = size // 8
    order = [5, 0, 7, 2, 4, 1, 6, 3]
    qemu_io(path, *(f"write -P {n + 1} {n * step} {step}" for n in order))
    return path


def shrunk_by_qemu(path: Path, size: int) -> Path:
    theirs = path.with_suffix(".theirs")
    shutil.copy(path, theirs)
    qemu_img("resize", "-f", "qcow2", "--shrink", theirs, size)
    return theirs


@pytest.mark.parametrize("part", [512, 0.25, 0.5, 0.999, 1])
@pytest.mark.parametrize(("cluster_size", "compat", "size"), SHAPES.values(), ids=SHAPES)
def test_the_file_is_as_short_as_qemu_makes_it(
    tmp_path: Path, cluster_size: int, compat: str, size: int, part: float
) -> None:
    path = filled(tmp_path / "image", cluster_size, compat, size)
    before = path.stat().st_size
    new = int(part if part > 1 else size * part) // 512 * 512
    expected = content(path)[:new]
    shape = (cluster_size, compat, size, new)
    if shape not in SIZES:
        theirs = shrunk_by_qemu(path, new)
        assert content(theirs) == expected
        SIZES[shape] = theirs.stat().st_size
    with opened(path) as node:
        perform(node.truncate(new))
    assert path.stat().st_size == SIZES[shape] <= before
    check_clean(path)
    assert content(path) == expected


@pytest.mark.parametrize("cluster_size", [512, 65536])
def test_a_sparse_image_is_no_longer_than_qemu_makes_it(
    tmp_path: Path, cluster_size: int
) -> None:
    """QEMU may allocate L2 tables in order to find that there is nothing to discard."""
    path = create(tmp_path / "image", "20M", cluster_size=cluster_size)
    qemu_io(path, "write 0 64k", "write 9M 1M", "discard 0 32k", "write 19M 64k")
    theirs = shrunk_by_qemu(path, 512)
    with opened(path) as node:
        perform(node.truncate(512))
    assert path.stat().st_size <= theirs.stat().st_size
    check_clean(path)


def test_discarded_in_the_middle_whatever_the_options(tmp_path: Path) -> None:
    """What is cut off in front of what is left becomes a hole (QCOW2_DISCARD_ALWAYS)."""
    path = create(tmp_path / "image", "8M")
    qemu_io(path, "write -P 1 4M 4M", "write -P 2 0 4M")
    theirs = shrunk_by_qemu(path, 4 * MIB)
    before = path.stat()
    with opened(path) as node:
        perform(node.truncate(4 * MIB))
    after = path.stat()
    assert after.st_size == theirs.stat().st_size == before.st_size
    assert after.st_blocks <= before.st_blocks - 4 * MIB // 512


def test_blocks_of_refcounts_go_and_come_back(tmp_path: Path) -> None:
    path = filled(tmp_path / "image", 512, "1.1", 2 * MIB)
    with opened(path) as node:
        blocks = sum(map(bool, node.write_back.refcounts.table))
        perform(node.truncate(64 * KIB))
        assert sum(map(bool, node.write_back.refcounts.table)) < blocks
        perform(node.truncate(2 * MIB))
        perform(node.pwrite(64 * KIB, memoryview(b"x" * MIB)))
        perform(node.flush())
        assert node.children["file"].size == path.stat().st_size
    check_clean(path)
    assert content(path)[64 * KIB :] == b"x" * MIB + bytes(960 * KIB)


def on_a_disk(tmp_path: Path) -> Disk:
    """An image of 128 KiB, full, whose tables are of several clusters."""
    return Disk(filled(tmp_path / "image", 512, "1.1", 128 * KIB).read_bytes(), Around())


def test_a_crash_at_any_time(tmp_path: Path) -> None:
    """Also of the host: whatever the size is then, the part that stays is there."""
    disk = on_a_disk(tmp_path)
    before = content(tmp_path / "image")
    node = open_on(disk, Around())
    perform(node.truncate(40 * KIB))
    assert len(disk.data) < len(disk.start)
    perform(node.truncate(100 * KIB))
    perform(node.pwrite(40 * KIB, memoryview(bytes(60 * KIB))))
    perform(node.do_close())
    assert judge(disk.data) == ([], 0)
    gone = frozenset(range(80, 256))
    for number, data in crashes(disk):
        look(data, before, gone, tmp_path if number % 20 == 0 else None)
    for _, data in power_cuts(disk, Random(1), 200):
        look(data, before, gone, None)


@pytest.mark.slow
def test_any_request_below_fails(tmp_path: Path) -> None:
    """The size stays as it was, unless the file merely could not be cut; then it works."""
    image = on_a_disk(tmp_path).data
    before = content(tmp_path / "image")
    after, refused = 0, 0
    while True:
        disk = Disk(bytes(image), Around())
        node = open_on(disk, Around())
        failing = disk.on_io = Failing(after, 1, errno.ENOSPC)
        try:
            perform(node.truncate(40 * KIB))
            assert node.size == node.header.size == 40 * KIB
        except (OSError, QmpError):
            refused += 1
            assert node.size == node.header.size == 128 * KIB
            perform(node.truncate(40 * KIB))
        perform(node.do_close())
        assert judge(disk.data) == ([], 0), after
        look(disk.data, before[: 40 * KIB], frozenset(), None)
        if not failing.fired:
            break
        after += 1
    assert after > refused > 20
