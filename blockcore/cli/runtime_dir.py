# SPDX-License-Identifier: MIT
"""The private directory of a machine, for sockets and a disk that the user has not named."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from blockcore.bql.later import later
from blockcore.cli.listen import PATH_BYTES_MAX
from blockcore.qapi.record import dataclass

_mkdtemp = later("tempfile:mkdtemp")

LONGEST = "/faultline-xxxxxxxx/control"
"""The longest path of a socket below the directory in which a private directory is made."""

PREFIX = "faultline-"
"""The beginning of the name of a private directory."""

LOCK = "lock"
"""A file in the private directory, locked while the machine lives; the kernel drops the lock
however the process ends."""


@dataclass(frozen=True, slots=True)
class PrivateDirectory:
    """A private directory, and the descriptor that locks it; None where there are no locks."""

    path: Path
    lock: int | None


@contextmanager
def runtime_dir(
    embedded: bool, everything_named: bool, environ: Mapping[str, str]
) -> Iterator[PrivateDirectory | None]:
    """Make a private directory for the body if one is needed; None if not.

    It is removed if the body raises, that is, if nbdkit does not start.  `embedded`
    says that the directory gets a disk.  Raises ClickException if there is no
    place for the directory.
    """
    needed = embedded or not everything_named
    directory = make_runtime_dir(embedded, environ) if needed else None
    try:
        yield directory
    except BaseException:
        if directory is not None:
            shutil.rmtree(directory.path, ignore_errors=True)
        raise


def make_runtime_dir(embedded: bool, environ: Mapping[str, str]) -> PrivateDirectory:
    """Make a private directory, locked for this process.

    Sockets go to XDG_RUNTIME_DIR, a disk (`embedded`) to a directory with room for
    disks.  Removes the directories of killed machines there.  Raises
    ClickException if no directory can be made.
    """
    parent = first_fitting(candidates(embedded, environ), _is_writable)
    remove_dead(parent)
    try:
        directory = Path(_mkdtemp()(prefix=PREFIX, dir=parent))
    except OSError as exc:
        raise click.ClickException(f"no place for a private directory: {exc.strerror}") from exc
    return PrivateDirectory(directory, _lock(directory))


def remove_dead(parent: str) -> None:
    """Remove the directories of killed machines: those whose lock no process has.

    A directory without a lock file is kept: its process may be about to make the
    file, or it is no private directory of a machine.
    """
    for lock in Path(parent).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError):
            if {lock.lstat().st_uid, lock.parent.lstat().st_uid} != {os.geteuid()}:
                continue
            descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
            finally:
                os.close(descriptor)


def _lock(directory: Path) -> int | None:
    """Lock a private directory for this process and whoever gets the returned descriptor.

    The lock file gets its name after it is locked, so that `remove_dead` of
    another process never finds it unlocked.  On a file system without locks there
    is no lock file, and only the machine itself removes the directory.
    """
    new = directory / f"{LOCK}.new"
    descriptor = None
    with suppress(OSError):
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(directory / LOCK)
    return descriptor


def candidates(embedded: bool, environ: Mapping[str, str]) -> list[str]:
    """Return the directories in which a private directory can be made, the best first.

    `embedded` says that it gets a disk.
    """
    names = ("TMPDIR",) if embedded else ("XDG_RUNTIME_DIR", "TMPDIR")
    named = [os.path.abspath(environ[name]) for name in names if environ.get(name)]
    return [*named, *(("/var/tmp",) if embedded else ()), "/tmp"]


def first_fitting(directories: Iterable[str], is_usable: Callable[[str], bool]) -> str:
    """Return the first usable directory whose path leaves room for that of a socket.

    If there is none, /tmp: the attempt to use it says why it cannot be used.
    """
    return next(
        (
            directory
            for directory in directories
            if len(os.fsencode(directory + LONGEST)) <= PATH_BYTES_MAX and is_usable(directory)
        ),
        "/tmp",
    )


def _is_writable(directory: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK)
