# SPDX-License-Identifier: MIT
"""Images that are damaged, or made to do harm."""

from __future__ import annotations

import errno
import struct
import zlib
from pathlib import Path
from random import Random

import pytest

from blockcore.nodes.drivers.qcow2.compressed import inflater
from blockcore.nodes.drivers.qcow2.header import ZLIB, ZSTD
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.qapi.events import BlockImageCorrupted
from blockcore.qapi.names import QmpError
from bounds import bounded
from qcow2_disk import Disk, judge, put
from qcow2_images import Around, create, open_file, open_on, qemu_img, qemu_io, read
from sim import perform

pytestmark = pytest.mark.both_ways

OPEN_ERRORS: dict[str, tuple[int, bytes]] = {
    "magic": (0, b"QFJ"),
    "version": (4, struct.pack(">I", 4)),
    "cluster bits too small": (20, struct.pack(">I", 8)),
    "cluster bits too large": (20, struct.pack(">I", 22)),
    "an unknown feature": (72, struct.pack(">Q", 1 << 15)),
    "two unknown features": (72, struct.pack(">Q", (1 << 15) | (1 << 62))),
    "corrupt": (72, struct.pack(">Q", 2)),
    "refcount order": (96, struct.pack(">I", 7)),
    "header too short": (100, struct.pack(">I", 96)),
    "header too long": (100, struct.pack(">I", 1 << 17)),
    "backing file offset": (8, struct.pack(">Q", 1 << 40)),
    "backing file name": (8, struct.pack(">QI", 512, 5000)),
    "extension": (112, struct.pack(">II", 0x1234, 1 << 20)),
    "no refcount table": (56, struct.pack(">I", 0)),
    "refcount table too large": (56, struct.pack(">I", 1 << 30)),
    "refcount table unaligned": (48, struct.pack(">Q", 65537)),
    "L1 too large": (36, struct.pack(">I", 1 << 30)),
    "L1 too small": (36, struct.pack(">I", 0)),
    "L1 unaligned": (40, struct.pack(">Q", 65537)),
    "L1 beyond everything": (40, struct.pack(">Q", 1 << 63)),
    "image too big": (24, struct.pack(">Q", 1 << 62)),
    "encryption": (32, struct.pack(">I", 3)),
    "encryption that looks negative": (32, struct.pack(">I", 0xFFFFFFFE)),
    "snapshots at an odd place": (64, struct.pack(">Q", 65537)),
    "a raw data file that is not there": (88, struct.pack(">Q", 2)),
    "longer than anything": (24, struct.pack(">Q", (1 << 64) - 1)),
    "an extension that begins at the end": (8, struct.pack(">QI", 114, 1)),
    "encryption, and a table too small": (32, struct.pack(">III", 3, 0, 0)),
    "an unknown feature, and compression": (72, struct.pack(">Q", (1 << 15) | 8)),
    "compression type": (104, b"\7"),
    "compression type without the bit": (104, b"\1"),
    "compression bit without the type": (72, struct.pack(">Q", 8)),
}


def open_error(data: bytes) -> str:
    around = Around()
    with pytest.raises(QmpError) as caught:
        open_on(Disk(data, around), around)
    return caught.value.desc


@pytest.mark.parametrize(("offset", "change"), OPEN_ERRORS.values(), ids=OPEN_ERRORS)
def test_refused_in_qemus_words(tmp_path: Path, offset: int, change: bytes) -> None:
    path = create(tmp_path / "image", "100M")
    data = bytearray(path.read_bytes())
    put(data, offset, change)
    path.write_bytes(data)
    said = qemu_io(path, "read 0 512").strip()
    assert said == f"qemu-io: can't open device {path}: {open_error(bytes(data))}"


OURS = {
    "refcount bits": ((96, struct.pack(">I", 5)), "Reference counts of 32 bits are not supported"),
    "snapshots": ((60, struct.pack(">I", 1)), "with internal snapshots are not supported"),
    "AES": ((32, struct.pack(">I", 1)), "Use of AES-CBC encrypted qcow2 images"),
    "LUKS": ((32, struct.pack(">I", 2)), "LUKS encrypted qcow2 images are not supported"),
    "data file": ((72, struct.pack(">Q", 4)), "External data files"),
    "extended L2": ((72, struct.pack(">Q", 16)), "Extended L2 entries of qcow2 images"),
}


@pytest.mark.parametrize(("change", "words"), OURS.values(), ids=OURS)
def test_what_only_this_driver_lacks(
    tmp_path: Path, change: tuple[int, bytes], words: str
) -> None:
    data = bytearray(create(tmp_path / "image", "1M").read_bytes())
    put(data, *change)
    assert words in open_error(bytes(data))


@pytest.mark.parametrize("length", [0, 3, 4, 71, 80])
def test_a_truncated_header(tmp_path: Path, length: int) -> None:
    path = create(tmp_path / "image", "1M")
    data = path.read_bytes()[:length]
    path.write_bytes(data)
    said = qemu_io(path, "read 0 512").strip()
    assert said == f"qemu-io: can't open device {path}: {open_error(data)}"


def with_data(tmp_path: Path, cluster_size: int = 512) -> bytearray:
    """An image with some clusters of every kind."""
    path = create(tmp_path / "image", 64 << 10, cluster_size=cluster_size)
    qemu_io(path, "write -P 1 0 30k", "write -z 8k 4k", "discard 16k 2k", "write -c -P 3 40k 512")
    return bytearray(path.read_bytes())


class Places:
    """Where the tables of an image are."""

    def __init__(self, data: bytes | bytearray) -> None:
        self.size = 1 << struct.unpack_from(">I", data, 20)[0]
        (self.l1,) = struct.unpack_from(">Q", data, 40)
        (self.reftable,) = struct.unpack_from(">Q", data, 48)
        self.l2 = struct.unpack_from(">Q", data, self.l1)[0] & 0xFFFFFFFFFFFE00
        (self.refblock,) = struct.unpack_from(">Q", data, self.reftable)


ODD = (1 << 63) | 0x10200

CORRUPTIONS = {
    "a cluster is the L1 table": ("l2", "l1", "write", "(overlaps with active L1 table)"),
    "a cluster is an L2 table": ("l2", "l2", "write", "(overlaps with active L2 table)"),
    "a cluster is a refcount block": ("l2", "refblock", "write", "(overlaps with refcount block)"),
    "an unaligned cluster": ("l2", ODD, "read", "Cluster allocation offset 0x10200"),
    "an unaligned L2 table": ("l1", ODD, "read", "L2 table offset 0x10200 unaligned"),
    "L2 table is the L1 table": ("l1", "l1", "alloc", "(overlaps with active L1 table)"),
}


@pytest.mark.parametrize(
    ("table", "entry", "request_kind", "words"), CORRUPTIONS.values(), ids=CORRUPTIONS
)
def test_corruption_is_reported_and_stops_everything(
    tmp_path: Path, table: str, entry: int | str, request_kind: str, words: str
) -> None:
    """EIO, the event, the corrupt bit; then nothing goes any more."""
    data = with_data(tmp_path, 4096)
    places = Places(data)
    if isinstance(entry, str):
        entry = (1 << 63) | getattr(places, entry)
    put(data, getattr(places, table), struct.pack(">Q", entry))
    around = Around()
    disk = Disk(bytes(data), around)
    node = open_on(disk, around)
    before, concerns = bytes(disk.data), around.concerns
    with pytest.raises(OSError) as caught:
        if request_kind == "read":
            read(node, 0, 512)
        else:
            at = 0 if request_kind == "write" else 60 << 10
            perform(node.pwrite(at, memoryview(bytes(512))))
    assert caught.value.errno == errno.EIO
    (event,) = around.events
    assert isinstance(event, BlockImageCorrupted) and words in event.msg and event.fatal
    assert disk.data[72:80] == struct.pack(">Q", 2)
    assert disk.data[80:] == before[80:] and disk.data[:72] == before[:72]
    for request in (
        node.pread(4096, memoryview(bytearray(1))),
        node.pwrite(4096, memoryview(b"1")),
        node.zero(0, 4096, may_unmap=True),
        node.discard(0, 4096),
        node.flush(),
        node.block_status(0, 4096),
        node.is_allocated(0, 4096),
    ):
        with pytest.raises(OSError) as caught:
            perform(request)
        assert caught.value.errno == errno.ENOMEDIUM
    with pytest.raises(QmpError, match="^No medium inserted$"):
        perform(node.truncate(4096))
    assert around.concerns > concerns and node.way() is None and not node.inserted
    perform(node.do_close())
    assert disk.data[80:] == before[80:]
    assert "cannot be opened read/write" in open_error(bytes(disk.data))
    if table == "l2":
        read(open_on(Disk(bytes(before), around), around, read_only=True), 4096, 4096)


def test_corruption_of_a_read_only_image_is_reported_once(tmp_path: Path) -> None:
    data = with_data(tmp_path, 4096)
    put(data, Places(data).l2, struct.pack(">Q", (1 << 63) | 0x10200))
    around = Around()
    disk = Disk(bytes(data), around)
    node = open_on(disk, around, read_only=True)
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            read(node, 0, 512)
        assert caught.value.errno == errno.EIO
    (event,) = around.events
    assert isinstance(event, BlockImageCorrupted) and not event.fatal
    assert read(node, 4096, 512) == b"\1" * 512
    assert disk.data == data


def mistreat(data: bytearray, random: Random) -> None:
    """Change the image's metadata a little."""
    places = Places(data)
    offsets = [places.l1, places.l2, places.reftable, places.refblock, 0, len(data)]
    for _ in range(random.randrange(1, 5)):
        table = random.choice(["header", "l1", "l2", "l2", "reftable", "refblock"])
        if table == "header":
            at = random.randrange(112)
            put(data, at, random.randbytes(random.choice([1, 1, 4])))
            continue
        at = getattr(places, table) + 8 * random.randrange(min(places.size // 8, 16))
        value = random.choice(
            [
                random.choice(offsets),
                random.choice(offsets) + random.choice([1, 8, 256, places.size]),
                random.getrandbits(64),
                random.getrandbits(56) & ~511,
                1 << random.randrange(64),
            ]
        )
        put(data, at, struct.pack(">Q", (value | random.choice([0, 1 << 63])) & (1 << 64) - 1))


def use(node: Qcow2Node, random: Random) -> None:
    """Requests of all kinds; they may fail, in the one way in which I/O fails."""
    for _ in range(25):
        offset = random.randrange(max(min(node.size, 64 << 10), 1)) // 512 * 512
        length = min(random.choice([512, 4096, 20000]), node.size - offset)
        if length <= 0:
            return
        requests = (
            lambda: node.pread(offset, memoryview(bytearray(length))),
            lambda: node.pwrite(offset, memoryview(bytes([7]) * length)),
            lambda: node.zero(offset, length, may_unmap=True),
            lambda: node.discard(offset, length),
            lambda: node.block_status(offset, length),
            lambda: node.flush(),
            lambda: node.truncate(offset // 512 * 512 + 512),
        )
        try:
            perform(random.choice(requests)())
        except (OSError, QmpError):
            continue


@pytest.mark.slow
@pytest.mark.parametrize("cluster_size", [512, 4096, 65536])
def test_damaged_images(tmp_path: Path, cluster_size: int) -> None:
    """No exception but those of I/O, no hang, no flood of memory."""
    image = with_data(tmp_path, cluster_size)
    for seed in range(400):
        random = Random(seed)
        data = bytearray(image)
        mistreat(data, random)
        around = Around()
        path = tmp_path / "damaged"
        path.write_bytes(data)
        with bounded(20, 400 << 20):
            for read_only in (True, False):
                disk = Disk(bytes(data), around, limit=16 << 20)
                try:
                    node = open_on(disk, around, read_only=read_only)
                except QmpError:
                    continue
                use(node, random)
                perform(node.do_close())


def test_the_largest_l1_table_with_nothing_in_it(tmp_path: Path) -> None:
    data = with_data(tmp_path, 512)
    put(data, 36, struct.pack(">IQ", (32 << 20) // 8, 1 << 40))
    around = Around()
    with bounded(20, 300 << 20):
        node = open_on(Disk(bytes(data), around), around, read_only=True)
        assert read(node, 0, 512) == bytes(512)


def test_repair_of_a_dirty_image(tmp_path: Path) -> None:
    """What QEMU leaves behind when it is killed with lazy refcounts."""
    path = create(tmp_path / "image", "8M", cluster_size=4096, lazy_refcounts="on")
    qemu_io(path, "write -P 1 0 300k", "write -P 2 5M 100k", "flush", "abort")
    data = path.read_bytes()
    assert data[79] == 1 and judge(data)[0], "not dirty"
    around = Around()
    disk = Disk(data, around)
    node = open_on(disk, around)
    assert disk.data[79] == 0
    assert read(node, 0, 4096) == b"\1" * 4096
    perform(node.pwrite(4 << 20, memoryview(b"\3" * 70000)))
    perform(node.do_close())
    assert judge(disk.data) == ([], 0)
    path.write_bytes(disk.data)
    assert "No errors" in qemu_img("check", path)
    assert read(node, 5 << 20, 100 << 10) == b"\2" * (100 << 10)


def test_a_dirty_image_can_be_read_as_it_is(tmp_path: Path) -> None:
    path = create(tmp_path / "image", "8M", cluster_size=4096, lazy_refcounts="on")
    qemu_io(path, "write -P 1 0 300k", "flush", "abort")
    around = Around()
    disk = Disk(path.read_bytes(), around)
    assert read(open_on(disk, around, read_only=True), 0, 4096) == b"\1" * 4096
    assert disk.data == path.read_bytes()


REFTABLE_ENTRIES = {
    "negative": 1 << 63,
    "the last cluster there is": (1 << 64) - 512,
    "beyond the longest file": (1 << 63) - 512,
    "reserved bits": 0x1FF,
}


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("entry", REFTABLE_ENTRIES.values(), ids=REFTABLE_ENTRIES)
def test_refcount_blocks_where_there_is_no_file(
    tmp_path: Path, number: int, entry: int
) -> None:
    """Allocations fail or not, as the entry allows, one like the other; nothing is stuck."""
    path = create(tmp_path / "image", "4M", cluster_size=512)
    qemu_io(path, "write -P 7 0 100k")
    data = bytearray(path.read_bytes())
    at = Places(data).reftable + 8 * number
    before = struct.unpack_from(">Q", data, at)[0]
    put(data, at, struct.pack(">Q", entry | (before if entry < 512 else 0)))
    path.write_bytes(data)
    around = Around()
    file = open_file(path, around)
    node = open_on(file, around)
    for at in range(0, 4 << 20, 256 << 10):
        for request in (
            node.pwrite(at, memoryview(b"\3" * (64 << 10))),
            node.zero(at, 512, may_unmap=True),
            node.discard(at, 4096),
            node.flush(),
        ):
            try:
                perform(request)
            except OSError as exc:
                assert exc.errno == errno.EIO
            assert not node.image.lock.taken
    perform(node.do_close())
    perform(file.do_close())


@pytest.mark.one_way
def test_a_compressed_cluster_that_never_ends(tmp_path: Path) -> None:
    """Neither decompressor gives more than a cluster, whatever is in the file."""
    zstandard = pytest.importorskip("zstandard")
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 27))
    with bounded(20, 32 << 20):
        assert inflater(ZSTD)(bomb, 65536) == bytes(65536)
    packer = zlib.compressobj(wbits=-12)
    bomb = packer.compress(bytes(1 << 27)) + packer.flush()
    with bounded(20, 32 << 20):
        assert inflater(ZLIB)(bomb, 65536) == bytes(65536)
