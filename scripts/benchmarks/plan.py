# SPDX-License-Identifier: MIT
"""What a run is to do, and where: the drive is a file on tmpfs, so that no disk is measured."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TMPFS = Path("/dev/shm")

COPIES = 3
"""The drive's file, and what rows put beside it: an overlay as large for each of two servers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes and durations of a run; `image` is a raw file of `size` bytes without holes."""

    directory: Path
    image: Path
    size: int
    rounds: int
    seconds: float
    held: int
    connections: int


@contextlib.contextmanager
def workplace(size: int, directory: Path | None) -> Iterator[tuple[Path, Path]]:
    """A place with a written raw file of `size` bytes; both are removed at the end.

    It is made in `directory`, or if that is None where there is room.
    """
    where = directory or _roomy(size)
    with tempfile.TemporaryDirectory(prefix="faultline-bench-", dir=where) as name:
        image = Path(name) / "drive.img"
        write_pattern(image, size)
        yield Path(name), image


def write_pattern(path: Path, size: int) -> None:
    """Make a file of `size` bytes without holes."""
    piece = bytes(range(256)) * 4096
    with path.open("wb") as file:
        for start in range(0, size, len(piece)):
            file.write(piece[: size - start])


def on_tmpfs(directory: Path) -> bool:
    return directory.is_relative_to(TMPFS)


def _roomy(size: int) -> Path | None:
    """tmpfs if it takes all files, else wherever temporary files go."""
    try:
        return TMPFS if shutil.disk_usage(TMPFS).free > COPIES * size + (64 << 20) else None
    except OSError:
        return None
