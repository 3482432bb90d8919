# SPDX-License-Identifier: MIT
"""The machines of the tests: drives that stop on errors, thin volumes, targets of jobs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Literal

from faultline import Drive, Machine

IMAGE_SIZE = 16 << 20


def stopping(image: str | Path | None = None, format: str = "raw", **options: str) -> Drive:
    """Return the drive vda, of 16 MiB if it has no image, which stops the machine on errors."""
    size = IMAGE_SIZE if image is None else None
    return Drive(
        image, id="vda", size=size, format=format, rerror="stop", werror="stop", options=options
    )


def thin(physical: str, *, id: str = "vda") -> Drive:
    """Return a drive of 16 MiB on a volume of `physical` bytes, whose file is the node ID-file."""
    volume = {"file.node-name": f"{id}-file", "file.x-physical-size": physical}
    return Drive(
        size=IMAGE_SIZE, id=id, format="raw", rerror="stop", werror="enospc", options=volume
    )


def add_target(
    machine: Machine, format: Literal["raw", "qcow2"] = "raw", physical: int | None = None
) -> None:
    """Add the node `target` for jobs: an image of that name, on a volume if `physical` is given."""
    create("-f", format, "target", str(IMAGE_SIZE))
    file = {"driver": "file", "node-name": "target-file", "filename": "target"}
    volume = {} if physical is None else {"x-physical-size": physical}
    machine.blockdev_add(driver=format, node_name="target", file=file | volume)


def overlay(base: str | Path) -> str:
    """Make an overlay on a raw image; return its name."""
    create("-f", "qcow2", "-b", base, "-F", "raw", "overlay")
    return "overlay"


def create(*arguments: str | Path) -> None:
    """Make an image with qemu-img."""
    subprocess.run(["qemu-img", "create", "-q", *arguments], check=True)


def file_of(machine: Machine) -> str:
    """Return the image of the first drive."""
    return str(machine.query_block()[0]["inserted"]["file"])
