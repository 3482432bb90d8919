# SPDX-License-Identifier: MIT
"""What a file node tells of its file besides what all nodes do (raw_get_specific_info)."""

from __future__ import annotations

from dataclasses import dataclass

from blockcore.nodes.specific import ImageInfoSpecific
from blockcore.qapi.names import Size


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfoSpecificFile:
    """QAPI's: the hint is known only of a file whose file system has one (FS_IOC_FSGETXATTR)."""

    extent_size_hint: Size | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfoSpecificFileWrapper(ImageInfoSpecific):
    data: ImageInfoSpecificFile


def file_info(extent_size_hint: int | None) -> ImageInfoSpecificFileWrapper:
    """Say so of a file whose extents are to be of so many bytes, None without a hint."""
    hint = None if extent_size_hint is None else Size(extent_size_hint)
    data = ImageInfoSpecificFile(extent_size_hint=hint)
    return ImageInfoSpecificFileWrapper(type="file", data=data)
