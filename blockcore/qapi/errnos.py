# SPDX-License-Identifier: MIT
"""Errnos: their names, as outcomes of an I/O, and as reasons in messages."""

from __future__ import annotations

import errno
import os

_NUMBERS: dict[str, int] = {
    name: getattr(errno, name) for name in dir(errno) if name.startswith("E")
}
"""The numbers of all errnos of this system, by name; synonyms included."""


def errno_named(name: str) -> int | None:
    """Return the number of the errno called `name` (``ENOSPC``), or None."""
    return _NUMBERS.get(name)


def failure(number: int) -> OSError:
    """Return the outcome of an I/O that fails with errno `number`, to be raised."""
    return OSError(number, os.strerror(number))


class HungUp(OSError):
    """The outcome of a request whose connection was hung up instead: ESHUTDOWN, told nobody."""

    def __init__(self) -> None:
        super().__init__(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))


def reason_of(error: OSError) -> str:
    """Return strerror's text for a failed I/O; that of EIO if the error has no errno."""
    return os.strerror(error.errno or errno.EIO)
