# SPDX-License-Identifier: MIT
"""What QEMU's programs say about images, asked once for the same bytes."""

from __future__ import annotations

import hashlib
import struct
import subprocess
from pathlib import Path

_FOUND_GOOD: set[tuple[object, ...]] = set()
"""What qemu-img has been asked about images, by all that is in them and below them."""


def found_good(command: list[str], images: list[Path]) -> None:
    """Run a qemu-img that must succeed, unless it has with images of the same bytes."""
    key = (*command[: -len(images)], *map(_content, images))
    if None not in key and key in _FOUND_GOOD:
        return
    run(command, images[0].parent)
    _FOUND_GOOD.add(key)


def _content(image: Path) -> tuple[object, ...] | None:
    """The bytes of an image and of all below it, as digests; None if not all is beside it."""
    digest = hashlib.sha256(image.read_bytes()).digest()
    name = backing_name(image) if format_of(image.name) == "qcow2" else ""
    if not name:
        return (digest,)
    below = image.parent / name
    # With a colon it is a protocol's, or JSON that is too long for the name of a file.
    is_beside = ":" not in name and below.parent == image.parent and below.is_file()
    content = _content(below) if is_beside else None
    return None if content is None else (digest, *content)


def format_of(name: str) -> str:
    return "qcow2" if name.endswith(".qcow2") else "raw"


def run(command: list[str], directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def backing_name(path: Path) -> str:
    """What the header of a qcow2 image says is below."""
    data = path.read_bytes()
    offset, length = struct.unpack(">QI", data[8:20])
    return data[offset : offset + length].decode()
