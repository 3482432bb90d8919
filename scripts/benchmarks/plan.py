# SPDX-License-Identifier: MIT
"""The plan of a run, and its directory: on tmpfs if possible, so that no disk is measured."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TMPFS = Path("/dev/shm")

COPIES = 3
"""The most files of the drive's size that a row has at once: the drive, and two overlays."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes and durations of a run.

    `image` is a raw file of `size` bytes without holes.  `seconds` is the length
    of a turn.  `held` requests are held at once, spread over `connections`.
    `rules` is the number of fault rules in a row of rules, `drives` the number by
    which the memory of one drive is measured.
    """

    directory: Path
    image: Path
    size: int
    rounds: int
    seconds: float
    held: int
    connections: int
    rules: int
    drives: int


@contextlib.contextmanager
def workplace(size: int, directory: Path | None) -> Iterator[tuple[Path, Path]]:
    """Make a directory with a raw file of `size` bytes, and remove both after the body.

    They are made in `directory`; if that is None, on tmpfs if there is room.
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
    """Return tmpfs if it has room for all files, else None: the default for temporary files."""
    try:
        return TMPFS if shutil.disk_usage(TMPFS).free > COPIES * size + (64 << 20) else None
    except OSError:
        return None
