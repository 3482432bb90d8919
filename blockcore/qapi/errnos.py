# SPDX-License-Identifier: MIT
"""Errnos: their names, as outcomes of an I/O, as reasons in messages, and in NBD."""

from __future__ import annotations

import errno
import os
from typing import Final

_NUMBERS: dict[str, int] = {
    name: getattr(errno, name) for name in dir(errno) if name.startswith("E")
}
"""The numbers of all errnos of this system, by name; synonyms included."""


NBD_ERRNOS: Final = frozenset(
    (errno.EPERM, errno.EIO, errno.ENOMEM, errno.EINVAL, errno.ENOSPC, errno.ESHUTDOWN)
)
"""The errnos that NBD clients are told as they are.

EOVERFLOW is none of them: it exists for a flag of requests that plugins do not see.
"""


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


def told_by_nbd(number: int | None, fast: bool = False) -> int:
    """Return the errno that an NBD client is told for one; what NBD does not have becomes EIO.

    nbdkit would turn it into EINVAL.  ENOMEDIUM becomes EINVAL, as in QEMU's server
    (system_errno_to_nbd_errno).  ENOTSUP exists for fast zeroes only, which `fast` is for.
    """
    if number == errno.ENOMEDIUM:
        return errno.EINVAL
    if number in NBD_ERRNOS or (fast and number == errno.ENOTSUP):
        return number or errno.EIO
    return errno.EIO
