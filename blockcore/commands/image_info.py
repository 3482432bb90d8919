# SPDX-License-Identifier: MIT
"""What an image is: the part of query-block that is about files and formats."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from blockcore.nodes.drivers.file import FileNode
from blockcore.nodes.drivers.null import NullNode
from blockcore.nodes.drivers.qcow2.header import CORRUPT, DIRTY, LAZY_REFCOUNTS, ZSTD
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.drivers.qcow2.stored_bitmaps import AUTO, IN_USE, StoredBitmap
from blockcore.nodes.graph.backing import backing_name
from blockcore.nodes.graph.chain import skip_implicit_filters
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import QmpError, Size, UInt32
from blockcore.qapi.schema import FlatUnion
from blockcore.rules.ranges import align_up


class Qcow2CompressionType(StrEnum):
    ZLIB = "zlib"
    ZSTD = "zstd"


SECTOR = 512
"""QEMU counts lengths in sectors, and rounds up."""

REFCOUNT_BITS = 16
"""The only width that the driver opens."""


class Qcow2BitmapInfoFlags(StrEnum):
    IN_USE = "in-use"
    AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2BitmapInfo:
    """A bitmap that is stored in the image; `granularity` in bytes."""

    name: str
    granularity: UInt32
    flags: list[Qcow2BitmapInfoFlags]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfoSpecificQCow2:
    """QAPI's: `compat` is 0.10 for version 2, of which the rest is not known, or 1.1."""

    answer: ClassVar[bool] = True
    compat: str
    lazy_refcounts: bool | None = None
    corrupt: bool | None = None
    extended_l2: bool | None = None
    refcount_bits: int = REFCOUNT_BITS
    compression_type: Qcow2CompressionType
    bitmaps: list[Qcow2BitmapInfo] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfoSpecific:
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfoSpecificQCow2Wrapper(ImageInfoSpecific):
    data: ImageInfoSpecificQCow2


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfoSpecificFile:
    """QAPI's: the hint is known only of a file whose file system has one (FS_IOC_FSGETXATTR)."""

    extent_size_hint: Size | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfoSpecificFileWrapper(ImageInfoSpecific):
    data: ImageInfoSpecificFile


IMAGE_INFO_SPECIFIC = FlatUnion(
    "ImageInfoSpecific",
    tag="type",
    base=ImageInfoSpecific,
    variants={"qcow2": ImageInfoSpecificQCow2Wrapper, "file": ImageInfoSpecificFileWrapper},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """QAPI's ImageInfo; sizes in bytes.  `backing_image` is also what a filter is on."""

    answer: ClassVar[bool] = True
    filename: str
    format: str
    dirty_flag: bool | None = None
    actual_size: int | None = None
    virtual_size: int
    cluster_size: int | None = None
    backing_filename: str | None = None
    full_backing_filename: str | None = None
    backing_filename_format: str | None = None
    backing_image: ImageInfo | None = None
    format_specific: Annotated[ImageInfoSpecific, IMAGE_INFO_SPECIFIC] | None = None


Known = dict[BlockNode, tuple[ImageInfo, int]]
"""What one command has found out already: an image, and how many there are below it."""


async def image_info(
    node: BlockNode, *, flat: bool, of_drive: bool, known: Known
) -> tuple[ImageInfo, int]:
    """The image, and how many there are below it, which `flat` leaves out.

    Seen from a drive, implicit filters are not there (bdrv_block_device_info).
    From the lowest image upwards, without recursion: chains may be long.
    """
    unknown: list[BlockNode] = []
    here: BlockNode | None = node
    while here is not None and here not in known:
        unknown.append(here)
        below = here.filtered or here.cow
        if below is not None and of_drive:
            below = skip_implicit_filters(below)
        here = None if flat else below
    backing, depth = (None, -1) if here is None else known[here]
    for image in reversed(unknown):
        depth += 1
        backing = await _info(image, backing)
        known[image] = backing, depth
    return known[node]


async def _info(node: BlockNode, backing: ImageInfo | None) -> ImageInfo:
    return ImageInfo(
        filename=node.filename,
        format=node.driver,
        dirty_flag=_is_dirty(node),
        actual_size=await _actual_size(node),
        virtual_size=align_up(node.size, SECTOR),
        cluster_size=node.cluster_size,
        backing_filename=_backing_filename(node),
        full_backing_filename=_full_backing_filename(node),
        backing_filename_format=_backing_format(node),
        backing_image=backing,
        format_specific=await _specific(node),
    )


def _is_dirty(node: BlockNode) -> bool | None:
    """None where QEMU's bdrv_get_info has nothing to say: without an image or a file below."""
    if isinstance(node, Qcow2Node):
        return bool(node.header.incompatible & DIRTY)
    if isinstance(node, FileNode):
        return False
    below = node.file or node.filtered
    return None if below is None else _is_dirty(below)


async def _actual_size(node: BlockNode) -> int | None:
    """Bytes on the host, where a file or nothing at all is the only thing below.

    QEMU's blkdebug does not pass the question on (recorded in guest-*).
    """
    if isinstance(node, FileNode):
        return await node.actual_size()
    if isinstance(node, NullNode):
        return 0
    below = node.file if node.filters is None else node.filtered
    if below is None or node.driver == "blkdebug":
        return None
    return await _actual_size(below)


def _backing_filename(node: BlockNode) -> str | None:
    return node.header.backing_file if isinstance(node, Qcow2Node) else None


def _backing_format(node: BlockNode) -> str | None:
    if not isinstance(node, Qcow2Node) or node.header.backing_file is None:
        return None
    return node.header.backing_format


def _full_backing_filename(node: BlockNode) -> str | None:
    name = _backing_filename(node)
    if name is None:
        return None
    try:
        return backing_name(node, name)
    except QmpError:
        return None


async def _specific(node: BlockNode) -> ImageInfoSpecific | None:
    """qcow2_get_specific_info, raw_get_specific_info."""
    if isinstance(node, FileNode):
        hint = await node.extent_size_hint()
        data = ImageInfoSpecificFile(extent_size_hint=None if hint is None else Size(hint))
        return ImageInfoSpecificFileWrapper(type="file", data=data)
    if not isinstance(node, Qcow2Node):
        return None
    header = node.header
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
            bitmaps=[_bitmap(stored) for stored in node.stored_bitmaps] or None,
        )
    return ImageInfoSpecificQCow2Wrapper(type="qcow2", data=qcow2)


def _bitmap(stored: StoredBitmap) -> Qcow2BitmapInfo:
    flags = {IN_USE: Qcow2BitmapInfoFlags.IN_USE, AUTO: Qcow2BitmapInfoFlags.AUTO}
    return Qcow2BitmapInfo(
        name=stored.name,
        granularity=UInt32(1 << stored.granularity_bits),
        flags=[flag for bit, flag in flags.items() if stored.flags & bit],
    )
