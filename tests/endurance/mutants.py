# SPDX-License-Identifier: MIT
"""Damaged qcow2 images by the thousand: structured fields changed, bytes flipped, ends cut off.

    scripts/endure mutants [--count N] [--seed SEED] [--keep DIRECTORY]

Each mutant is opened read-only and read, as QEMU's tools do it, which have to
find the same: a refusal, nearly always in the same words, or the same bytes and
the same places that cannot be read.  Then it is opened for writing and used.
There is no other way to fail than that of I/O, no hang, no flood of memory,
and what a request has written reads back.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from blockcore.machine.machine import Machine
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import QmpError
from bounds import bounded
from qcow2_images import create, qemu_img, qemu_io
from sim import Sim, execute, new_machine, perform

SIZE = 256 << 10
SECTOR = 512
SECONDS = 20
MEMORY = 400 << 20

OFFSETS = 0x00FF_FFFF_FFFF_FE00

OURS = re.compile(
    r"Reference counts of \d+ bits are not supported|internal snapshots are not supported"
    r"|External data files|Extended L2 entries|LUKS encrypted|AES-CBC|stored bitmaps"
    r"|zstandard|creates an infinite loop"
)
"""Refusals of what this driver does not have."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A kind of image: how qemu-img makes it, and what is in it."""

    options: dict[str, str] = field(default_factory=dict)
    backing: str | None = None
    commands: tuple[str, ...] = ("write -P 1 0 60k", "write -P 2 100k 9k", "write -P 3 200k 30k")
    then: Callable[[Path], object] = lambda path: None
    external: bool = False

    def make(self, path: Path) -> None:
        more = ("-b", self.backing, "-F", self.backing) if self.backing else ()
        cluster = int(self.options.get("cluster_size", "4096"))
        rest = {key: value for key, value in self.options.items() if key != "cluster_size"}
        if self.backing == "qcow2":
            create(path.with_name("qcow2"), SIZE - 8192, cluster_size=1024)
            qemu_io(path.with_name("qcow2"), "write -P 9 40k 100k", "write -P 8 220k 8k")
        elif self.backing == "raw":
            path.with_name("raw").write_bytes(b"\7" * (SIZE // 2))
        if self.external:
            rest["data_file"] = str(path.with_name("external"))
        create(path, SIZE, *more, cluster_size=cluster, **rest)
        said = qemu_io(path, *self.commands)
        assert "failed" not in said and "error" not in said, said
        self.then(path)


ZEROES = ("write -P 1 0 60k", "write -z 8k 8k", "discard 20k 8k", "write -z -u 32k 8k")
COMPRESSED = ("write -c -P 3 0 64k", "write -P 1 64k 30k", "write -c -P 4 128k 64k")


def bitmaps(path: Path) -> None:
    for name in ("first", "second"):
        qemu_img("bitmap", "--add", "--enable", path, name)
    qemu_io(path, "write -P 5 150k 20k")


def snapshots(path: Path) -> None:
    qemu_img("snapshot", "-c", "one", path)
    qemu_io(path, "write -P 5 10k 20k")
    qemu_img("snapshot", "-c", "two", path)


def dirty(path: Path) -> None:
    qemu_io(path, "write -P 6 120k 20k", "flush", "abort")


SHAPES = {
    "512": Shape(options={"cluster_size": "512"}, commands=ZEROES),
    "4k": Shape(options={"cluster_size": "4096"}, commands=ZEROES),
    "64k": Shape(options={"cluster_size": "65536"}),
    "v2": Shape(options={"compat": "0.10", "cluster_size": "1024"}),
    "zlib": Shape(options={"cluster_size": "65536"}, commands=COMPRESSED),
    "zlib 4k": Shape(commands=("write -c -P 3 0 4k", "write -c -P 4 8k 4k", *ZEROES[1:])),
    "zstd": Shape(
        options={"cluster_size": "65536", "compression_type": "zstd"}, commands=COMPRESSED
    ),
    "raw below": Shape(backing="raw", commands=ZEROES),
    "qcow2 below": Shape(backing="qcow2", options={"cluster_size": "2048"}),
    "v2 on raw": Shape(backing="raw", options={"compat": "0.10", "cluster_size": "512"}),
    "subclusters": Shape(options={"extended_l2": "on", "cluster_size": "16384"}),
    "data file": Shape(external=True),
    "bitmaps": Shape(then=bitmaps),
    "snapshots": Shape(then=snapshots),
    "lazy": Shape(options={"lazy_refcounts": "on"}, then=dirty),
    "refcounts of a byte": Shape(options={"refcount_bits": "8"}),
}


class Places:
    """Where things are in an image, as far as it says so."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.cluster = 1 << (self.number(20, 4) & 31)
        l1, reftable = self.number(40), self.number(48)
        l2 = self.first(l1, 8) & OFFSETS
        tables = {"l1": l1, "l2": l2, "reftable": reftable, "refblock": self.first(reftable, 8)}
        tables["snapshots"] = self.number(64) if self.number(60, 4) else 0
        tables["backing name"] = self.number(8)
        directory = self.bitmap_directory()
        if directory:
            tables["bitmap directory"] = directory
            tables["bitmap table"] = self.number(directory)
        self.tables = {name: at for name, at in tables.items() if 0 < at < len(data)}

    def number(self, at: int, size: int = 8) -> int:
        return int.from_bytes(self.data[at : at + size], "big")

    def first(self, table: int, count: int) -> int:
        """The first entry that is not 0."""
        return next(filter(None, (self.number(table + 8 * n) for n in range(count))), 0)

    def bitmap_directory(self) -> int:
        at = 72 if self.number(4, 4) == 2 else self.number(100, 4)
        while at + 8 <= min(len(self.data), self.cluster):
            kind, length = self.number(at, 4), self.number(at + 4, 4)
            if kind == 0x23852875:
                return self.number(at + 24)
            if not kind:
                return 0
            at += 8 + (length + 7) // 8 * 8
        return 0


HEADER_FIELDS = (
    *((4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8), (56, 4)),
    *((60, 4), (64, 8), (72, 8), (80, 8), (88, 8), (96, 4), (100, 4), (104, 1)),
    *((112, 4), (116, 4), (120, 8)),
)
"""Offset and size of each, and of the beginning of the extensions."""


def mutate(data: bytearray, random: Random) -> None:
    """Change an image a little, in one to four places."""
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        places = Places(data)
        kind = random.choices(["table", "field", "bytes", "bit", "cut"], [10, 5, 2, 2, 1])[0]
        if kind == "cut":
            del data[random.randrange(len(data)) :]
            data.extend(bytes(max(0, 104 - len(data))))
        elif kind == "field":
            at, size = random.choice(HEADER_FIELDS)
            value = _value(random, places) >> random.choice([0, 0, 8, 32])
            data[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "big")
        elif kind == "table" and places.tables:
            table = places.tables[random.choice([*places.tables, "l2", "l1"])] if (
                "l2" in places.tables and "l1" in places.tables
            ) else random.choice([*places.tables.values()])
            step = random.choice([8, 8, 8, 4, 2, 1])
            at = table + step * random.randrange(64)
            if at + 8 <= len(data):
                value = _value(random, places) | random.choice([0, 1 << 63, 1 << 62, 1])
                data[at : at + 8] = struct.pack(">Q", value & (1 << 64) - 1)
        else:
            at = random.choice([0, *places.tables.values()]) + random.randrange(256)
            at = at if random.random() < 0.8 else random.randrange(len(data))
            if at < len(data):
                part = random.randbytes(random.choice([1, 2, 8, 64]))
                if kind == "bit":
                    part = bytes((data[at] ^ 1 << random.randrange(8),))
                data[at : at + len(part)] = part[: len(data) - at]


def _value(random: Random, places: Places) -> int:
    """A number that means something there, or is at an edge."""
    near = random.choice([0, *places.tables.values(), len(places.data)])
    return random.choice(
        [
            near,
            near + random.choice([1, 8, 256, SECTOR, places.cluster, -places.cluster]),
            random.randrange(64) * places.cluster,
            random.getrandbits(64),
            random.getrandbits(56) & ~(places.cluster - 1),
            random.choice([0, 1, 2, 4, 8, 16, 32]),
            1 << random.randrange(64),
            (1 << random.randrange(64)) - 1,
            (1 << 64) - random.choice([1, SECTOR, places.cluster]),
        ]
    ) & (1 << 64) - 1


@dataclass
class Found:
    """What opening an image and reading it has come to."""

    refusal: str | None = None
    data: bytes = b""
    unreadable: frozenset[int] = frozenset()
    """Sectors."""


def opened(directory: Path, **more: object) -> tuple[Machine, BlockNode]:
    """The image of a directory, with all that it is on, in a machine of its own; QmpError."""
    machine = new_machine(Sim(0))
    machine.graph.directory = str(directory)
    file = {"driver": "file", "filename": str(directory / "image")}
    perform(execute(machine, "blockdev-add", driver="qcow2", node_name="q", file=file, **more))
    return machine, machine.graph.nodes["q"]


def end(machine: Machine) -> None:
    """Nothing may be left open, whatever happens."""
    perform(machine.graph.close_all())


def ours(directory: Path) -> Found:
    """Read-only, sector by sector where something cannot be read."""
    before = len(os.listdir("/proc/self/fd"))
    try:
        machine, node = opened(directory, read_only=True)
    except QmpError as exc:
        assert len(os.listdir("/proc/self/fd")) == before, "it is left open"
        return Found(exc.desc)
    length = min(node.size, 4 * SIZE)
    data, bad = bytearray(length), set()
    for start in range(0, length, 8192):
        part = memoryview(data)[start : start + 8192]
        try:
            perform(node.pread(start, part))
        except OSError:
            for at in range(0, len(part), SECTOR):
                try:
                    perform(node.pread(start + at, part[at : at + SECTOR]))
                except OSError as exc:
                    assert exc.errno in (errno.EIO, errno.EINVAL), exc
                    bad.add((start + at) // SECTOR)
                    part[at : at + SECTOR] = bytes(SECTOR)
    at = 0
    while at < length:
        try:
            status = perform(node.block_status(at, length - at))
            at += status.length
        except OSError:
            at += SECTOR
    perform(execute(machine, "query-named-block-nodes"))
    end(machine)
    return Found(data=bytes(data), unreadable=frozenset(bad))


def qemus(directory: Path) -> Found:
    """The same by qemu-img."""
    out = directory / "out"
    out.unlink(missing_ok=True)
    image = directory / "image"
    done = subprocess.run(
        ["qemu-img", "convert", "-U", "--salvage", "-f", "qcow2", "-O", "raw", image, out],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        timeout=60,
        preexec_fn=_small_files,
    )
    said = done.stderr
    if (found := re.search(r"qemu-img: Could not open '.*?/image': (.*)", said)) is not None:
        return Found(found[1])
    if done.returncode:
        return Found(f"? {said.splitlines()[-1] if said else done.returncode}")
    sectors = set()
    for place in re.findall(r"error while reading offset (\d+):", said):
        sectors.add(int(place) // SECTOR)
    return Found(data=out.read_bytes(), unreadable=frozenset(sectors))


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def compare(mine: Found, theirs: Found) -> str:
    """What differs that should not, or nothing."""
    if mine.refusal is not None and OURS.search(mine.refusal):
        return ""
    if theirs.refusal is not None and theirs.refusal.startswith("?"):
        return ""  # it could be opened, but not be copied: too long for a file, say
    if mine.refusal is not None and theirs.refusal is not None:
        return ""  # of several things that are wrong the first is named, and reading finds another
    if theirs.refusal is not None and "Could not read bitmap" in theirs.refusal:
        return ""  # the bitmaps themselves are not read here
    if mine.refusal != theirs.refusal:
        return f"opening: {mine.refusal!r}, QEMU {theirs.refusal!r}"
    length = min(len(mine.data), len(theirs.data))
    for sector in range(length // SECTOR):
        place = slice(sector * SECTOR, (sector + 1) * SECTOR)
        if (sector in mine.unreadable) != (sector in theirs.unreadable):
            return f"sector {sector} cannot be read here: {sector in mine.unreadable}"
        if sector not in mine.unreadable and mine.data[place] != theirs.data[place]:
            return f"sector {sector} differs"
    return ""


def use(directory: Path, random: Random) -> str:
    """Open an image for writing, and let a guest loose on it; what has become of it."""
    before = len(os.listdir("/proc/self/fd"))
    try:
        machine, node = opened(directory, discard="unmap")
    except QmpError:
        assert len(os.listdir("/proc/self/fd")) == before, "it is left open"
        return "refused"
    failures = 0
    for _ in range(25):
        offset = random.randrange(max(min(node.size, SIZE), 1)) // SECTOR * SECTOR
        length = min(random.choice([SECTOR, 4096, 20000, 70000]), node.size - offset)
        if length <= 0:
            break
        try:
            _request(node, random, offset, length)
        except (OSError, QmpError):
            failures += 1
    if node.inserted:
        perform(execute(machine, "query-named-block-nodes"))
    end(machine)
    assert len(os.listdir("/proc/self/fd")) == before, "it is left open"
    return "some fail" if failures else "all work"


def _request(node: BlockNode, random: Random, offset: int, length: int) -> None:
    kind = random.choice(["read", "write", "write", "zero", "discard", "status", "flush", "resize"])
    match kind:
        case "read":
            perform(node.pread(offset, memoryview(bytearray(length))))
        case "write":
            byte = random.randrange(1, 255)
            length = min(length, SECTOR)
            perform(node.pwrite(offset, memoryview(bytes([byte]) * length)))
            back = bytearray(length)
            perform(node.pread(offset, memoryview(back)))
            assert back == bytes([byte]) * length, "what was written does not read back"
        case "zero":
            perform(node.zero(offset, length, may_unmap=random.random() < 0.5))
        case "discard":
            perform(node.discard(offset, length))
        case "status":
            perform(node.block_status(offset, length))
        case "flush":
            perform(node.flush())
        case "resize":
            perform(node.truncate(random.choice([offset, offset + SECTOR, offset + SIZE])))


class Failed(Exception):
    """A mutant that shows a fault; `args` say which and how."""


def originals(directory: Path) -> dict[str, bytes]:
    """The images, by the names of their shapes; what they are on is in the directory."""
    images = {}
    for name, shape in SHAPES.items():
        path = directory / "image"
        path.unlink(missing_ok=True)
        shape.make(path)
        images[name] = path.read_bytes()
    return images


def run(directory: Path, images: dict[str, bytes], shape: str, seed: int) -> str:
    """One mutant; what has become of it, or Failed."""
    random = Random(f"{shape}/{seed}")
    data = bytearray(images[shape])
    mutate(data, random)
    image = directory / "image"
    image.write_bytes(data)
    try:
        with bounded(SECONDS, MEMORY):
            mine = ours(directory)
        assert image.read_bytes() == data, "a read-only image has been written"
        theirs = qemus(directory)
        difference = compare(mine, theirs)
        assert not difference, difference
        with bounded(SECONDS, MEMORY):
            used = use(directory, random)
    except Exception as exc:
        raise Failed(shape, seed, f"{type(exc).__name__}: {exc}") from exc
    if mine.refusal is None:
        return used
    other = theirs.refusal is not None and theirs.refusal != mine.refusal
    return f"not read, {used}" + " (QEMU has other words)" * (
        other and not OURS.search(mine.refusal)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Try damaged qcow2 images.")
    parser.add_argument("--count", type=int, default=5000, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="number of the first")
    parser.add_argument("--keep", help="where images with faults are left")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    directory = Path(tempfile.mkdtemp(prefix="mutants-"))
    images, names = originals(directory), list(SHAPES)
    for number in range(options.seed, options.seed + options.count):
        shape = names[number % len(names)]
        try:
            outcomes[run(directory, images, shape, number)] += 1
        except Failed as exc:
            outcomes["FAILED"] += 1
            print(*exc.args, flush=True)
            if options.keep is not None:
                data = bytearray(images[shape])
                mutate(data, Random(f"{shape}/{number}"))
                (Path(options.keep) / f"{number}.qcow2").write_bytes(data)
    shutil.rmtree(directory)
    print(f"{sum(outcomes.values())} mutants:", ", ".join(f"{n} {w}" for w, n in outcomes.items()))
    return 1 if outcomes["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
