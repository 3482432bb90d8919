# SPDX-License-Identifier: MIT
"""The pidfile: a file with the number of the process, there while the machine serves.

A file that a killed process has left is replaced, that of a live process is not.
Numbers are given again: a process counts only if it was there when the file was
written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from blockcore.qapi.errnos import failure
from blockcore.qapi.errors import QmpError

CONTENT_MAX = 32
"""More bytes than a number and a line break have."""

SLACK_S = 2.0
"""How much later than a file's time its process may have begun, in seconds.

The kernel tells a process's start in ticks after the boot, and the time of the boot
in whole seconds.
"""


def require_room(path: str) -> None:
    """Raise QmpError unless a pidfile can be made at `path`: it is free, or a dead process's."""
    with _named(path):
        _remove_stale(path)
        if not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
            os.stat(os.path.dirname(path))
            raise failure(errno.EACCES)


def write(path: str, pid: int) -> None:
    """Make the pidfile; raises QmpError if it cannot be made, or a live process has it.

    Whoever sees the file finds the number in it.
    """
    new = f"{path}.{os.getpid()}"
    with _named(path):
        try:
            with open(new, "w") as file:
                file.write(f"{pid}\n")
            _remove_stale(path)
            os.link(new, path)
        finally:
            with suppress(OSError):
                os.unlink(new)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Turn an OSError of the body into a QmpError that names the file."""
    try:
        yield
    except OSError as exc:
        raise QmpError(f"{path}: {exc.strerror}") from None


def _remove_stale(path: str) -> None:
    """Remove the file of a dead process, or an empty one, as mktemp makes it.

    Raises QmpError if it is another file, or a live process's.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise failure(errno.EEXIST) from None
        return
    if not stat.S_ISREG(found.st_mode) or found.st_size > CONTENT_MAX:
        raise QmpError(f"{path} exists and is no pidfile")
    text = _content(path).strip()
    if text and not text.isdigit():
        raise QmpError(f"{path} exists and is no pidfile")
    if text and was_there(int(text), found.st_mtime):
        raise QmpError(f"{path}: process {int(text)} has it, and lives")
    os.unlink(path)


def was_there(pid: int, when_s: float) -> bool:
    """Return whether a process lives that has begun before a time (seconds since the epoch).

    This process counts as another: in a container, numbers are the same in each run.
    """
    if pid == os.getpid():
        return False
    try:
        # The name, in parentheses, may have anything in it; the state comes after it.
        fields = _content(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        (boot,) = (
            int(line.split()[1])
            for line in _content("/proc/stat").splitlines()
            if line.startswith(b"btime ")
        )
    except OSError:
        return False
    state, start_ticks = fields[0], int(fields[19])
    started_s = boot + start_ticks / os.sysconf("SC_CLK_TCK")
    return state != b"Z" and started_s <= when_s + SLACK_S


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
