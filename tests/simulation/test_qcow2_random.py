# SPDX-License-Identifier: MIT
"""Random requests, carried out by our driver and, on a copy of the image, by QEMU.

After every batch both images have the same content and the same map, and
qemu-img finds neither errors nor leaks in ours.  FAULTLINE_QCOW2_OPERATIONS
sets how many requests there are in all (default 10,000).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.shortcut.slot import Slot
from qcow2_images import check_clean, create, image_map, opened, qemu_img, qemu_io, read
from sim import perform

OPERATIONS = int(os.environ.get("FAULTLINE_QCOW2_OPERATIONS", "10000"))
BATCH = 70
KIB = 1024


@dataclass(frozen=True)
class Shape:
    """A kind of image; `backing` is what lies below, if anything."""

    cluster_size: int
    compat: str = "1.1"
    backing: str | None = None
    size: int = 1 << 20

    def __str__(self) -> str:
        return f"{self.cluster_size}-{self.compat}-{self.backing}"


SHAPES = [
    Shape(512, size=700 * KIB),
    Shape(512, "0.10"),
    Shape(512, backing="qcow2"),
    Shape(4096),
    Shape(4096, "0.10", "raw"),
    Shape(4096, backing="short"),
    Shape(65536, size=5 << 20),
    Shape(65536, "0.10", size=5 << 20),
    Shape(65536, backing="chain", size=(5 << 20) + 512),
    Shape(65536, backing="compressed", size=5 << 20),
    Shape(65536, "0.10", "compressed", 5 << 20),
    Shape(2 << 20, backing="raw", size=(9 << 20) + 1024),
]


def pattern(random: Random, length: int) -> bytes:
    return random.randbytes(length)


def make_base(path: Path, shape: Shape, random: Random) -> None:
    """The backing file of a shape."""
    size = shape.size // 2 // 512 * 512 if shape.backing == "short" else shape.size
    if shape.backing in ("raw", "short"):
        data = bytearray(size)
        for _ in range(20):
            at = random.randrange(size)
            length = min(random.randrange(1, size // 8), size - at)
            data[at : at + length] = pattern(random, length)
        path.write_bytes(data)
        return
    raw = path.with_suffix(".tmp")
    raw.write_bytes(pattern(random, size // 4) + bytes(size // 4) + pattern(random, size // 4 + 9))
    compress = ("-c",) if shape.backing == "compressed" else ()
    qemu_img("convert", *compress, "-f", "raw", "-O", "qcow2", raw, path)
    if shape.backing == "chain":
        for level in range(4):
            above = path.with_suffix(f".{level}")
            path.rename(above)
            create(path, size, "-b", above, "-F", "qcow2", cluster_size=4096 << level)
            at = level * size // 5 // 512 * 512
            qemu_io(path, f"write -P {level + 1} {at} 70k", f"write -z {at + 100 * KIB} 64k")


def make_image(path: Path, shape: Shape, random: Random) -> None:
    if shape.backing is None:
        create(path, shape.size, cluster_size=shape.cluster_size, compat=shape.compat)
        return
    base = path.with_name("base")
    make_base(base, shape, random)
    fmt = "raw" if shape.backing in ("raw", "short") else "qcow2"
    create(
        *(path, shape.size, "-b", "base", "-F", fmt),
        cluster_size=shape.cluster_size,
        compat=shape.compat,
    )


def write(node: Qcow2Node, offset: int, data: bytes) -> None:
    """As a drive does it: straight to the file if that can be."""
    way = node.way()
    assert way is not None and way.translation is not None
    if not way.translation.pwrite(Slot(), offset, memoryview(data)):
        perform(node.pwrite(offset, memoryview(data)))


def read_short(node: Qcow2Node, offset: int, length: int) -> bytes | None:
    """What is read straight from the file, if that can be."""
    way = node.way()
    assert way is not None and way.translation is not None
    data = bytearray(length)
    return bytes(data) if way.translation.pread(offset, memoryview(data)) else None


class Player:
    """Invents requests, and has them carried out on both sides."""

    def __init__(self, shape: Shape, random: Random) -> None:
        self.shape = shape
        self.random = random
        self.size = shape.size

    def extent(self) -> tuple[int, int]:
        """Where: whole clusters, sectors, or any bytes."""
        unit = self.random.choice([self.shape.cluster_size, 512, 1])
        most = min(self.size, self.random.choice([3, 12]) * max(self.shape.cluster_size, 4096))
        offset = self.random.randrange(self.size) // unit * unit
        length = self.random.randrange(1, most + 1)
        length = max(length // unit * unit, unit)
        if self.random.random() < 0.05:
            length = self.size
        return offset, min(length, self.size - offset)

    def one(self, node: Qcow2Node) -> str:
        """Do one request on the node; gives it for qemu-io."""
        offset, length = self.extent()
        kind = self.random.choices(
            ["write", "zero", "unmap", "discard", "flush", "truncate", "read"],
            [40, 12, 12, 15, 5, 2, 14],
        )[0]
        match kind:
            case "write":
                byte = self.random.randrange(1, 255)
                write(node, offset, bytes([byte]) * length)
                return f"write -q -P {byte} {offset} {length}"
            case "zero":
                perform(node.zero(offset, length, may_unmap=False))
                return f"write -q -z {offset} {length}"
            case "unmap":
                perform(node.zero(offset, length, may_unmap=True))
                return f"write -q -z -u {offset} {length}"
            case "discard":
                perform(node.discard(offset, length))
                return f"discard -q {offset} {length}"
            case "flush":
                perform(node.flush())
                return "flush"
            case "read":
                assert read_short(node, offset, length) in (None, read(node, offset, length))
                return f"read -q {offset} {length}"
        return self.truncate(node)

    def truncate(self, node: Qcow2Node) -> str:
        highest = self.shape.size if self.shape.compat == "0.10" else 2 * self.shape.size
        if self.shape.compat == "0.10" and self.shape.backing is not None:
            return "flush"  # growing is refused, since there are no zero clusters
        self.size = self.random.randrange(1, highest // 512 + 1) * 512
        perform(node.truncate(self.size))
        return f"truncate {self.size}"


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_like_qemu(tmp_path: Path, shape: Shape) -> None:
    random = Random(str(shape))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    make_image(ours, shape, random)
    shutil.copy(ours, theirs)
    player = Player(shape, random)
    for _ in range(max(1, OPERATIONS // len(SHAPES) // BATCH + 1)):
        with opened(ours) as node:
            commands = [player.one(node) for _ in range(BATCH)]
            before = read(node)
        printed = qemu_io(theirs, *commands)
        story = "\n".join(commands)
        assert not printed, f"{printed}\n{story}"
        compared = qemu_img("compare", "-f", "qcow2", "-F", "qcow2", ours, theirs, check=False)
        assert "identical" in compared, f"{compared}\n{story}"
        assert image_map(ours) == image_map(theirs), story
        check_clean(ours)
        with opened(theirs) as node:
            assert read(node) == before
