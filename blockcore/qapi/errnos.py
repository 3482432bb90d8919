# SPDX-License-Identifier: MIT
"""Errnos: as QMP and keys take them, as outcomes of an I/O, and as reasons in messages.

They are given by number or, which QEMU does not have, by name.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from blockcore.qapi.names import QmpError
from blockcore.qapi.types import Alternate
from blockcore.qapi.visitor import INT, Name

_NUMBERS: dict[str, int] = {
    name: getattr(errno, name) for name in dir(errno) if name.startswith("E")
}


class Errno(Alternate):
    """An errno by its number or by its name."""

    def visit(self, value: Any, name: Name) -> int:
        number = errno_named(value) if isinstance(value, str) else None
        return int(INT.visit(value, name)) if number is None else number


class KnownErrno(Errno):
    """An errno that exists, or 0, so that a slip is not a rule that nobody understands."""

    def visit(self, value: Any, name: Name) -> int:
        if isinstance(value, str) and errno_named(value) is None:
            raise QmpError(f"Parameter '{name.full}' does not accept value '{value}'")
        number = super().visit(value, name)
        if number and number not in errno.errorcode:
            raise name.expects("the number or name of an errno")
        return number


ERRNO = Errno("BlkdebugErrno", int, str)

KNOWN_ERRNO = KnownErrno("FaultErrno", int, str)


def errno_named(name: str) -> int | None:
    """Return the number of the errno called `name` (``ENOSPC``), if there is one."""
    return _NUMBERS.get(name)


def failure(number: int) -> OSError:
    """Return the outcome of an I/O that fails with an errno."""
    return OSError(number, os.strerror(number))


def reason_of(error: OSError) -> str:
    """Return why an I/O has failed, in the words of strerror; EIO where there is no errno."""
    return os.strerror(error.errno or errno.EIO)
