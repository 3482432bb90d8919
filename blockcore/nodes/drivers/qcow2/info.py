# SPDX-License-Identifier: MIT
"""The qcow2 part of ``query-block``'s image information (qcow2_get_specific_info)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import ClassVar

from blockcore.nodes.drivers.qcow2.header import CORRUPT, LAZY_REFCOUNTS, ZSTD, Header
from blockcore.nodes.drivers.qcow2.stored_bitmaps import AUTO, IN_USE, StoredBitmap
from blockcore.nodes.specific import ImageInfoSpecific
from blockcore.qapi.names import UInt32
from blockcore.qapi.record import dataclass


class Qcow2CompressionType(StrEnum):
    ZLIB = "zlib"
    ZSTD = "zstd"


REFCOUNT_BITS = 16
"""The only width of refcounts that the driver supports."""


class Qcow2BitmapInfoFlags(StrEnum):
    IN_USE = "in-use"
    AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2BitmapInfo:
    """A bitmap that is stored in the image; `granularity` is in bytes."""

    name: str
    granularity: UInt32
    flags: list[Qcow2BitmapInfoFlags]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfoSpecificQCow2:
    """QAPI's struct; `compat` is 0.10 for version 2, which has no other members, or 1.1."""

    answer: ClassVar[bool] = True
    compat: str
    lazy_refcounts: bool | None = None
    corrupt: bool | None = None
    extended_l2: bool | None = None
    refcount_bits: int = REFCOUNT_BITS
    compression_type: Qcow2CompressionType
    bitmaps: list[Qcow2BitmapInfo] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfoSpecificQCow2Wrapper(ImageInfoSpecific):
    data: ImageInfoSpecificQCow2


def image_info(header: Header, bitmaps: Iterable[StoredBitmap]) -> ImageInfoSpecificQCow2Wrapper:
    """Return the information in a header, with the stored `bitmaps`."""
    zstd = header.compression == ZSTD
    compression = Qcow2CompressionType.ZSTD if zstd else Qcow2CompressionType.ZLIB
    if header.version == 2:
        qcow2 = ImageInfoSpecificQCow2(compat="0.10", compression_type=compression)
    else:
        qcow2 = ImageInfoSpecificQCow2(
            compat="1.1",
            lazy_refcounts=bool(header.compatible & LAZY_REFCOUNTS),
            corrupt=bool(header.incompatible & CORRUPT),
            extended_l2=False,
            compression_type=compression,
            bitmaps=[_bitmap(stored) for stored in bitmaps] or None,
        )
    return ImageInfoSpecificQCow2Wrapper(type="qcow2", data=qcow2)


def _bitmap(stored: StoredBitmap) -> Qcow2BitmapInfo:
    flags = {IN_USE: Qcow2BitmapInfoFlags.IN_USE, AUTO: Qcow2BitmapInfoFlags.AUTO}
    return Qcow2BitmapInfo(
        name=stored.name,
        granularity=UInt32(1 << stored.granularity_bits),
        flags=[flag for bit, flag in flags.items() if stored.flags & bit],
    )
