# SPDX-License-Identifier: MIT
"""What an image is: the part of query-block that is about files and formats."""

from __future__ import annotations

from typing import Annotated, ClassVar

from blockcore.nodes.graph.abilities import allocated_file_size, is_dirty
from blockcore.nodes.graph.backing import backing_name
from blockcore.nodes.graph.chain import skip_implicit_filters
from blockcore.nodes.graph.make import IMAGE_INFO_SPECIFIC
from blockcore.nodes.node import BlockNode
from blockcore.nodes.specific import ImageInfoSpecific
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass
from blockcore.rules.ranges import align_up

SECTOR = 512
"""The unit in which QEMU counts lengths, in bytes; lengths are rounded up to it."""

@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """QAPI's ImageInfo; sizes in bytes.

    `backing_image` is also what a filter shows.
    """

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
"""What one command has found out already: of each node its image, and how many are below it."""


async def image_info(
    node: BlockNode, *, flat: bool, of_drive: bool, known: Known
) -> tuple[ImageInfo, int]:
    """Return the image, and the number of images below it, which `flat` leaves out.

    Seen from a drive, implicit filters are not there (bdrv_block_device_info).
    `known` is used and filled, so that a chain is looked at once for each command.
    """
    # Down to the lowest image that is not known, then up: a recursion would be as deep as the
    # chain is long.
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
    dirty = is_dirty(node)
    actual_size = await allocated_file_size(node)
    backing_file = node.backing_file
    return ImageInfo(
        filename=node.filename,
        format=node.driver,
        dirty_flag=dirty,
        actual_size=actual_size,
        virtual_size=align_up(node.size, SECTOR),
        cluster_size=node.cluster_size,
        backing_filename=None if backing_file is None else backing_file.name,
        full_backing_filename=_full_backing_filename(node),
        backing_filename_format=None if backing_file is None else backing_file.format,
        backing_image=backing,
        format_specific=await node.do_specific_info(),
    )


def _full_backing_filename(node: BlockNode) -> str | None:
    if node.backing_file is None:
        return None
    try:
        return backing_name(node, node.backing_file.name)
    except QmpError:
        return None
