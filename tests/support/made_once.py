# SPDX-License-Identifier: MIT
"""Images that many recordings begin with: made once by QEMU's programs, and copied."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from blockcore.process.recording_header import extents_of


def put_images(directory: Path, files: Mapping[str, str], setup: Sequence[str]) -> None:
    """Put the files there, and what the commands make beside them."""
    made = _made(tuple(files.items()), tuple(setup))
    shutil.copytree(made.name, directory, copy_function=copy_sparse, dirs_exist_ok=True)


@cache
def _made(
    files: tuple[tuple[str, str], ...], setup: tuple[str, ...]
) -> tempfile.TemporaryDirectory[str]:
    # Beside pytest's, so that the file system, and what it makes of holes, is the same.
    made = tempfile.TemporaryDirectory(prefix="recording-")
    for name, text in files:
        Path(made.name, name).write_text(text)
    for command in setup:
        subprocess.run(shlex.split(command), cwd=made.name, check=True, capture_output=True)
    return made


def copy_sparse(source: str, target: str) -> None:
    """Copy a file with its holes, which are seen in what a job copies, and with its mode."""
    with open(source, "rb") as reading, open(target, "xb") as writing:
        one, other = reading.fileno(), writing.fileno()
        size = os.fstat(one).st_size
        os.truncate(other, size)
        for start, length in extents_of(one, size):
            os.pwrite(other, os.pread(one, length, start), start)
    shutil.copymode(source, target)
