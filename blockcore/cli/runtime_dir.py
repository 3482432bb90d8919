# SPDX-License-Identifier: MIT
"""The private directory of a machine, for what is not named."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from blockcore.cli.listen import PATH_BYTES_MAX

LONGEST = "/faultline-xxxxxxxx/control"
"""What is added to the path of a directory by what is made in it."""

PREFIX = "faultline-"

LOCK = "lock"
"""A file in it, locked as long as the machine lives, whatever its end is."""


@contextmanager
def runtime_dir(
    embedded: bool, everything_named: bool, environ: Mapping[str, str]
) -> Iterator[Path | None]:
    """A private directory if there is anything for it, which goes if nbdkit does not start."""
    needed = embedded or not everything_named
    directory = make_runtime_dir(embedded, environ) if needed else None
    try:
        yield directory
    except BaseException as exc:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)
        if isinstance(exc, OSError):
            raise click.ClickException(f"nbdkit: {exc.strerror}") from exc
        raise


def make_runtime_dir(embedded: bool, environ: Mapping[str, str]) -> Path:
    """Make it: for sockets where the session keeps them, for a disk where disks fit.

    ClickException if there is no place for it.
    """
    parent = first_fitting(candidates(embedded, environ), _is_writable)
    remove_dead(parent)
    try:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    except OSError as exc:
        raise click.ClickException(f"no place for a private directory: {exc.strerror}") from exc
    _lock(directory)
    return directory


def remove_dead(parent: str) -> None:
    """Remove what machines have left that were killed: directories whose lock nobody has.

    One without a lock may be about to get it, or be somebody else's.
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


def _lock(directory: Path) -> None:
    """Lock it for this process and the program that it becomes.

    The lock has its name when it is locked, so that nobody finds it free.
    Where there are no locks, nothing is removed but by the machine itself.
    """
    with suppress(OSError):
        new = directory / f"{LOCK}.new"
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
        os.set_inheritable(descriptor, True)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(directory / LOCK)


def candidates(embedded: bool, environ: Mapping[str, str]) -> list[str]:
    """Directories in which it can be, the best first; `embedded` tells of a disk."""
    names = ("TMPDIR",) if embedded else ("XDG_RUNTIME_DIR", "TMPDIR")
    named = [os.path.abspath(environ[name]) for name in names if environ.get(name)]
    return [*named, *(("/var/tmp",) if embedded else ()), "/tmp"]


def first_fitting(directories: Iterable[str], is_usable: Callable[[str], bool]) -> str:
    """The first one that leaves room for the path of a socket; else /tmp, which says why not."""
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
