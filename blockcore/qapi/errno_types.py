# SPDX-License-Identifier: MIT
"""Errnos as values in QMP and in keys: by number or by name, where QEMU takes only numbers."""

from __future__ import annotations

import errno
from typing import Any

from blockcore.qapi.errnos import errno_named
from blockcore.qapi.names import QmpError
from blockcore.qapi.texts import integer
from blockcore.qapi.types import Alternate
from blockcore.qapi.visitor import INT, Name


class Errno(Alternate):
    """The QAPI type of an errno, an alternate of a number and a name."""

    def visit(self, value: Any, name: Name) -> int:
        number = errno_named(value) if isinstance(value, str) else None
        return int(INT.visit(value, name)) if number is None else number


class KnownErrno(Errno):
    """The QAPI type of an errno that exists, or 0.

    A misspelt errno is refused: a rule with an unknown one would confuse its user.
    """

    def visit(self, value: Any, name: Name) -> int:
        number = integer(value, signed=True) if name.keyval and type(value) is str else None
        if isinstance(value, str) and number is None and errno_named(value) is None:
            raise QmpError(f"Parameter '{name.full}' does not accept value '{value}'")
        if number is None:
            number = super().visit(value, name)
        if number and number not in errno.errorcode:
            raise name.expects("the number or name of an errno")
        return number


ERRNO = Errno("BlkdebugErrno", int, str)
"""The type that takes any number, as QEMU does for rules of a blkdebug node, or a name."""

KNOWN_ERRNO = KnownErrno("FaultErrno", int, str)
"""The type for rules that x-fault-add makes."""
