# SPDX-License-Identifier: MIT
"""The drive that `faultline serve` makes if its user names none."""

from __future__ import annotations

from pathlib import Path

SIZE = 1 << 30
"""Bytes of the drive."""

NAME = "vda.img"
"""The name of its file in the private directory."""


def temporary_drive(directory: Path) -> str:
    """Create the sparse file of the drive in `directory`; return its key, drive=..."""
    image = directory / NAME
    with image.open("xb") as file:
        file.truncate(SIZE)
    name = str(image).replace(",", ",,")
    return f"drive=id=vda,file={name},format=raw,rerror=stop,werror=enospc"
