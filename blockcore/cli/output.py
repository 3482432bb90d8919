# SPDX-License-Identifier: MIT
"""The three standard streams: there from the start, and what is done when one cannot be written.

What a command has to say on stderr is never worth more than its exit status,
so a stderr that fails is let go.  A stdout that fails is a failure.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from contextlib import suppress
from typing import TextIO

import click

STDOUT_CLOSED = "standard output is closed"

WRITING = frozenset({errno.EAGAIN, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC})
"""What may be said of a file when it is written; nothing else that has no name is written here."""


def open_missing_streams() -> None:
    """Open what the launcher has closed.

    Otherwise the next file takes its number, and a child reads, or writes,
    something else there; nbdkit, for one, does not start.  A stdout that was
    closed stays one that cannot be written.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.set_inheritable(os.open(os.devnull, mode), True)
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115


def require_stdout() -> None:
    """ClickException if nobody can ever write there."""
    if fcntl.fcntl(1, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise click.ClickException(f"{STDOUT_CLOSED}: the ready line goes there")


def described(error: OSError) -> str:
    """What has failed, and why."""
    if error.filename is None and error.errno == errno.EBADF:
        return STDOUT_CLOSED
    reason = error.strerror or str(error)
    name = error.filename or ("standard output" if error.errno in WRITING else None)
    return reason if name is None else f"{name}: {reason}"


def tell(line: str) -> None:
    """A line on stderr, if that can be written."""
    try:
        click.echo(line, err=True)
    except OSError:
        abandon(sys.stderr)


def flush() -> None:
    """Write what stdout has kept; OSError if it cannot be."""
    sys.stdout.flush()


def abandon(stream: TextIO) -> None:
    """Throw away what the stream has kept, and what comes yet.

    Python would try once more at its end, and complain.
    """
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
