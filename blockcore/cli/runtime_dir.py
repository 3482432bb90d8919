"""The private directory of a machine, for what is not named."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from blockcore.cli.listen import PATH_BYTES_MAX

LONGEST = "/faultline-xxxxxxxx/control"
"""What is added to the path of a directory by what is made in it."""


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
    try:
        return Path(tempfile.mkdtemp(prefix="faultline-", dir=parent))
    except OSError as exc:
        raise click.ClickException(f"no place for a private directory: {exc.strerror}") from exc


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
