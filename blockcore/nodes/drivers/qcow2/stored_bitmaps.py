# SPDX-License-Identifier: MIT
"""Dirty bitmaps that are stored in an image: listed, checked and removed.

(`block/qcow2-bitmap.c`.)  This driver does not keep them up to date, so writing
an image with bitmaps would make them wrong.  Only read-only images keep them.
"""

from __future__ import annotations

import errno
import os
import struct
from array import array
from typing import Final

from blockcore.bql.effects import LaneCall
from blockcore.nodes.driver import OPENING
from blockcore.nodes.drivers.qcow2.entries import used
from blockcore.nodes.drivers.qcow2.extensions import BITMAPS
from blockcore.nodes.drivers.qcow2.header import VALID_BITMAPS, Header, rewritten_header
from blockcore.nodes.drivers.qcow2.image import Image
from blockcore.nodes.drivers.qcow2.tables import L2_TYPE, from_disk, read_table
from blockcore.nodes.drivers.qcow2.write_back import WriteBack
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass

_EXTENSION = struct.Struct(">IIQQ")
_ENTRY = struct.Struct(">QIIBBHI")

# QEMU's limits (QCOW2_MAX_BITMAP* in block/qcow2.h, BME_MAX_* in block/qcow2-bitmap.c).
MAX_BITMAPS: Final = 65535
MAX_DIRECTORY_BYTES: Final = MAX_BITMAPS * 1024
MAX_TABLE_ENTRIES: Final = 0x8000000
MAX_BITMAP_BYTES: Final = 0x20000000
MAX_NAME_BYTES: Final = 1023

IN_USE: Final = 1 << 0
AUTO: Final = 1 << 1
_DIRTY_TRACKING: Final = 1

_ALL_ONES: Final = 1 << 0
_OFFSET: Final = 0x00FF_FFFF_FFFF_FE00
_RESERVED: Final = 0xFF00_0000_0000_01FE

_WORD_BITS: Final = 64
"""Bits of a word; a stored bitmap consists of whole words."""


@dataclass(frozen=True, slots=True)
class StoredBitmap:
    """A bitmap of the directory; its table has `entries` entries at offset `table`."""

    name: str
    granularity_bits: int
    flags: int
    table: int
    entries: int


@dataclass(frozen=True, slots=True)
class Directory:
    """The place of the directory of bitmaps (bytes), and how many bitmaps it should have."""

    count: int
    offset: int
    length: int


def directory_of(header: Header) -> Directory | None:
    """Return the directory that the header extension describes, or None.

    None if there is no extension, or if its autoclear bit is cleared: then a
    program that does not know bitmaps has written the image.  Raises QmpError in
    QEMU's words, with its order of checks (qcow2_read_extensions).
    """
    bodies = [body for kind, body in header.extensions if kind == BITMAPS]
    if not bodies:
        return None
    if len(bodies[-1]) != _EXTENSION.size:
        raise QmpError("bitmaps_ext: Invalid extension length")
    if not header.autoclear & VALID_BITMAPS or header.version < 3:
        return None
    count, reserved, length, offset = _EXTENSION.unpack(bodies[-1])
    if reserved:
        raise QmpError("bitmaps_ext: Reserved field is not zero")
    if count > MAX_BITMAPS:
        raise QmpError(
            f"bitmaps_ext: Image has {count} bitmaps, exceeding the QEMU supported maximum"
            f" of {MAX_BITMAPS}"
        )
    if not count:
        raise QmpError("found bitmaps extension with zero bitmaps")
    if offset % header.cluster_size:
        raise QmpError("bitmaps_ext: invalid bitmap directory offset")
    if length > MAX_DIRECTORY_BYTES:
        raise QmpError(
            f"bitmaps_ext: bitmap directory size ({length}) exceeds the maximum supported size"
            f" ({MAX_DIRECTORY_BYTES})"
        )
    return Directory(count, offset, length)


async def read_bitmaps(image: Image) -> list[StoredBitmap]:
    """Return the bitmaps of an image (bitmap_list_load).

    The directory is read as a whole and walked entry by entry; then the tables of
    the bitmaps are checked.  Raises OSError, or QmpError in QEMU's words and with
    its order of checks.
    """
    directory = directory_of(image.header)
    if directory is None:
        return []
    if not directory.length:
        raise QmpError("Requested bitmap directory size is zero")
    data = bytearray(directory.length)
    await image.read(directory.offset, memoryview(data))
    bitmaps: list[StoredBitmap] = []
    at = 0
    while at < len(data):
        if at + _ENTRY.size > len(data):
            raise QmpError("Broken bitmap directory")
        if len(bitmaps) == directory.count:
            raise QmpError("More bitmaps found than specified in header extension")
        table, entries, flags, kind, bits, name_bytes, extra = _ENTRY.unpack_from(data, at)
        end = at + (_ENTRY.size + extra + name_bytes + 7) // 8 * 8
        # QEMU's length is a C int: an extra size from 2 GiB on is negative, and passes.
        if end > len(data) and extra < 1 << 31:
            raise QmpError("Broken bitmap directory")
        if extra:
            raise QmpError("Bitmap extra data is not supported")
        at += _ENTRY.size
        text = bytes(data[at : at + name_bytes]).split(b"\0")[0]
        name = text.decode(errors="surrogateescape")
        bitmap = StoredBitmap(name, bits, flags, table, entries)
        if kind != _DIRTY_TRACKING or not _makes_sense(bitmap, name_bytes, image.header):
            raise QmpError(f"Bitmap '{name}' doesn't satisfy the constraints")
        bitmaps.append(bitmap)
        at = end
    if len(bitmaps) != directory.count:
        raise QmpError("Less bitmaps found than specified in header extension")
    await _check(image, bitmaps)
    return bitmaps


async def _check(image: Image, bitmaps: list[StoredBitmap]) -> None:
    """Raise QmpError if a bitmap could not be loaded (load_bitmap).

    QEMU does not load the data of bitmaps that were in use when the image was not
    closed; these are not checked.
    """
    names: set[str] = set()
    for bitmap in bitmaps:
        if bitmap.name in names:
            raise QmpError(f"Bitmap already exists: {bitmap.name}")
        names.add(bitmap.name)
        if bitmap.flags & IN_USE:
            continue
        what = f"Could not read bitmap_table table from image for bitmap '{bitmap.name}'"
        try:
            table = await read_table(image, L2_TYPE, bitmap.table, bitmap.entries * 8)
        except OSError as exc:
            raise QmpError(f"{what}: {reason_of(exc)}") from None
        if not await LaneCall(OPENING, _has_sense, table, image.cluster_mask):
            raise QmpError(f"{what}: {os.strerror(errno.EINVAL)}")
        bits = -(-image.header.size // (1 << bitmap.granularity_bits))
        if bitmap.entries != image.clusters((bits + _WORD_BITS - 1) // _WORD_BITS * 8):
            raise QmpError(
                f"Could not read bitmap '{bitmap.name}' from image: {os.strerror(errno.EINVAL)}"
            )


def _has_sense(table: array[int], cluster_mask: int) -> bool:
    """Tell whether all entries are valid (check_table_entry); runs without the big lock."""
    for _, entry in used(table):
        if entry & _RESERVED or (entry & _OFFSET and entry & (_ALL_ONES | cluster_mask)):
            return False
    return True


def _makes_sense(bitmap: StoredBitmap, name_bytes: int, header: Header) -> bool:
    """Tell whether a directory entry is valid (check_dir_entry)."""
    cluster = header.cluster_size
    stored = bitmap.entries * cluster
    return (
        0 < bitmap.entries <= MAX_TABLE_ENTRIES
        and bitmap.table > 0
        and not bitmap.table % cluster
        and 9 <= bitmap.granularity_bits <= 31
        and not bitmap.flags & ~(IN_USE | AUTO)
        and 0 < name_bytes <= MAX_NAME_BYTES
        and stored <= MAX_BITMAP_BYTES
        and (bool(bitmap.flags & IN_USE) or header.size <= stored * 8 << bitmap.granularity_bits)
    )


async def drop_bitmaps(
    image: Image, write_back: WriteBack, bitmaps: list[StoredBitmap], *, free: bool
) -> None:
    """Remove the bitmaps from an image; with `free`, free their clusters too.

    The header changes first: if a later step fails, clusters are leaked, but
    nothing refers to freed ones.  Raises QmpError or OSError.
    """
    header = image.header
    directory = directory_of(header)
    places = await _places(image, bitmaps) if free else []
    if directory is not None and free:
        places.append((directory.offset, directory.length))
    header.extensions = [one for one in header.extensions if one[0] != BITMAPS]
    header.autoclear = 0
    await image.write_header(0, rewritten_header(header))
    await image.lock.free()
    with image.lock.held():
        for offset, length in places:
            first = offset >> image.cluster_bits
            for cluster in range(first, first + image.clusters(length)):
                if cluster not in image.metadata:
                    await write_back.refcounts.drop(cluster)
        await write_back.run()


async def _places(image: Image, bitmaps: list[StoredBitmap]) -> list[tuple[int, int]]:
    """Return offset and length in bytes of each table and each data cluster of bitmaps."""
    if sum(bitmap.entries * 8 for bitmap in bitmaps) > image.file.size:
        raise QmpError("Broken bitmap directory")
    places: list[tuple[int, int]] = []
    for bitmap in bitmaps:
        data = bytearray(bitmap.entries * 8)
        await image.read(bitmap.table, memoryview(data))
        for entry in from_disk(L2_TYPE, data):
            offset = entry & _OFFSET
            if offset and not entry & _ALL_ONES and not offset & image.cluster_mask:
                places.append((offset, image.cluster_size))
        places.append((bitmap.table, len(data)))
    return places
