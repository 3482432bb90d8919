# SPDX-License-Identifier: MIT
"""Information that only file nodes give about their file (raw_get_specific_info)."""

from __future__ import annotations

from blockcore.nodes.specific import ImageInfoSpecific
from blockcore.qapi.names import Size
from blockcore.qapi.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfoSpecificFile:
    """QAPI's struct; the hint is missing if the file system has none (FS_IOC_FSGETXATTR)."""

    extent_size_hint: Size | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfoSpecificFileWrapper(ImageInfoSpecific):
    data: ImageInfoSpecificFile


def file_info(extent_size_hint: int | None) -> ImageInfoSpecificFileWrapper:
    """Return the information about a file with an extent size hint in bytes, or None."""
    hint = None if extent_size_hint is None else Size(extent_size_hint)
    data = ImageInfoSpecificFile(extent_size_hint=hint)
    return ImageInfoSpecificFileWrapper(type="file", data=data)
