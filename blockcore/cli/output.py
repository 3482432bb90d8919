# SPDX-License-Identifier: MIT
"""The three standard streams: they are always open, and failures to write them are handled.

If stderr cannot be written, the command goes on, because its exit status matters
more than its messages.  If stdout cannot be written, the command fails.
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
"""The errnos of writing a file.

An OSError with one of them and without a file name is about stdout: nothing
else without a name is written here.
"""


def open_missing_streams() -> None:
    """Open the standard streams that the launcher has closed.

    Otherwise the next file that is opened would get the number of a stream, and a
    child process would read or write that file; nbdkit does not even start.  A
    stdout that was closed is opened for reading only, so that writing it fails.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # open() returns the lowest free number, which is `number`.
            os.set_inheritable(os.open(os.devnull, mode), True)
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115


def require_stdout() -> None:
    """Raise ClickException if stdout can never be written."""
    if fcntl.fcntl(1, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise click.ClickException(f"{STDOUT_CLOSED}: the ready line goes there")


def described(error: OSError) -> str:
    """Return a text that says what has failed and why, without a full stop."""
    if error.filename is None and error.errno == errno.EBADF:
        return STDOUT_CLOSED
    reason = error.strerror or str(error)
    name = error.filename or ("standard output" if error.errno in WRITING else None)
    return reason if name is None else f"{name}: {reason}"


def tell(line: str) -> None:
    """Print a line on stderr, if stderr can be written."""
    try:
        click.echo(line, err=True)
    except OSError:
        abandon(sys.stderr)


def flush() -> None:
    """Write what is in stdout's buffer; raises OSError if that fails."""
    sys.stdout.flush()


def abandon(stream: TextIO) -> None:
    """Discard what is in the stream's buffer, and everything written to it later.

    Otherwise Python would try to write the buffer at its end, and print an error.
    """
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
